"""One process a run: a lock in its folder, which ends with the process that holds it, however that ends."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from dhumandiff.io import why_not_written

from .. import TrainingError

__all__ = ["LOCK", "run_lock"]

LOCK = "train.lock"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the folder of a run, which is made; what is empty afterwards is removed again.

    Raises:
        TrainingError: another process trains there, or the folder cannot be written.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = _take(path)
    except OSError as error:
        raise TrainingError(
            f"{folder}: the run's folder cannot be written ({why_not_written(error)}).", code="run-folder-not-written"
        ) from error
    if file is None:
        raise TrainingError(
            f"{folder}: another process trains here ({_holder(path)}). Let it end, or choose another folder (--run).",
            code="run-in-use",
        )
    try:
        yield
    finally:
        _unlock(file)
        with suppress(OSError):
            path.unlink(missing_ok=True)
        file.close()
        for left in (folder / "checkpoints", folder):  # of a run that was refused before its first step
            with suppress(OSError):
                left.rmdir()


def _take(path: Path) -> IO[str] | None:
    """The locked file, with who we are in it; None where another process holds it."""
    while True:
        file = path.open("a+", encoding="utf-8")
        try:
            if not _lock(file):
                file.close()
                return None
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                file.truncate(0)
                file.write(json.dumps({"process": os.getpid(), "host": socket.gethostname()}) + "\n")
                file.flush()
                return file
        except BaseException:
            file.close()
            raise
        file.close()  # whoever held it has ended and removed it meanwhile


_FAR = 1 << 20
"""Windows locks bytes, and nobody can read those: one far behind what the file says of its holder."""


def _lock(file: IO[str]) -> bool:
    try:
        import fcntl
    except ImportError:
        import msvcrt

        file.seek(_FAR)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unlock(file: IO[str]) -> None:
    """On Windows a lock does not surely end with its file, and an open file cannot be removed; elsewhere removing comes first."""
    try:
        import msvcrt
    except ImportError:
        return
    with suppress(OSError):
        file.seek(_FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
    file.close()


def _holder(path: Path) -> str:
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
        return f"process {entry['process']} on {entry['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "which one, its lock does not say"
