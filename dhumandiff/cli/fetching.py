"""One file from the network to its place: resumed, checked, and never half under its final name."""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import AdapterError
from .portrait_list import Source, human_size

__all__ = ["Published", "check_room", "fetch_file", "look_up"]

STAGING = ".dhumandiff-download"
"""Folder below the models folder for what is on its way. It stays after an interruption, so that the next run goes on."""

_CHUNK = 2**20


@dataclass(frozen=True)
class Published:
    """What the publisher says of a file: its bytes, its SHA-256 and the revision; None where nothing is said."""

    size: int | None = None
    sha256: str | None = None
    revision: str | None = None


def look_up(source: Source, timeout: float = 15) -> Published:
    """Ask the publisher, which fails at once without a network.

    Raises:
        AdapterError: the repository lacks the file.
        Exception: what the network's libraries raise.
    """
    if not source.repository:
        request = urllib.request.Request(source.url, method="HEAD")
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            length = answer.headers.get("Content-Length")
        return Published(size=int(length) if length else None)
    from huggingface_hub import HfApi

    found = HfApi().model_info(source.repository, files_metadata=True, timeout=timeout)
    entry = next((entry for entry in found.siblings or [] if entry.rfilename == source.remote), None)
    if entry is None:
        raise AdapterError(
            f"{source.repository} no longer holds {source.remote} on Hugging Face. Look there for what it is called now, and "
            f"save it as {source.place}.",
            code="repository-lacks-files",
        )
    lfs = getattr(entry, "lfs", None)
    return Published(entry.size, getattr(lfs, "sha256", None), found.sha)


def check_room(models: Path, needed: int) -> None:
    """Refuse a download that the disk has no room for, before it begins.

    Args:
        models: where to; it need not exist.
        needed: bytes.

    Raises:
        AdapterError: saying how much is lacking.
    """
    place = models.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise AdapterError(
            f"There is no room for the download: {human_size(needed)} are needed in {models}, {human_size(free)} are free. Make "
            "room, choose fewer things with --items, or another folder with --models.",
            code="no-space-for-download",
        )


def fetch_file(source: Source, models: Path, published: Published) -> Path:
    """Fetch one file, check it, and put it, or what a .zip holds, where it belongs.

    Raises:
        AdapterError: what came is not what was published.
        Exception: what the network's libraries raise; what came so far is kept.
    """
    final, staging = models / source.place, models / STAGING
    staging.mkdir(parents=True, exist_ok=True)
    if source.repository:
        from huggingface_hub import hf_hub_download

        folder = staging / source.repository.replace("/", "--")
        part = Path(hf_hub_download(source.repository, source.remote, revision=published.revision, local_dir=folder))
    else:
        part = staging / source.url.rpartition("/")[2]
        _resume(source.url, part, published.size)
    _check(part, published)
    if source.remote.endswith(".zip"):
        _unpack(part, final, staging)
    else:
        final.parent.mkdir(parents=True, exist_ok=True)
        os.replace(part, final)
    return final


def clear(models: Path) -> None:
    """Remove what a finished download leaves behind."""
    shutil.rmtree(models / STAGING, ignore_errors=True)


def _resume(url: str, part: Path, size: int | None) -> None:
    """Fetch an address into a file, from where an earlier attempt stopped."""
    from tqdm import tqdm

    have = part.stat().st_size if part.exists() else 0
    if size is not None and have == size:
        return
    if size is not None and have > size:
        part.unlink()
        have = 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        goes_on = answer.status == 206  # else the server sends all of it
        with (
            part.open("ab" if goes_on else "wb") as file,
            tqdm(total=size, initial=have if goes_on else 0, unit="B", unit_scale=True, desc=part.name) as bar,
        ):
            while chunk := answer.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))


def _check(part: Path, published: Published) -> None:
    size = part.stat().st_size
    if published.size is not None and size != published.size:
        raise AdapterError(
            f"{part}: the file has {size:,} bytes, its publisher says {published.size:,}: it broke off. Run the command again, it "
            "goes on from there; if that does not help, remove the file first.",
            code="download-broke-off",
        )
    if published.sha256 is None:
        return
    digest = hashlib.sha256()
    with part.open("rb") as file:
        while chunk := file.read(16 * _CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != published.sha256:
        part.unlink()
        raise AdapterError(
            f"{part.name}: what came is not what was published (its SHA-256 differs), and was removed. Run the command again.",
            code="download-damaged",
        )


def _unpack(archive: Path, final: Path, staging: Path) -> None:
    """What a .zip holds, with or without a folder around it, as the folder `final`."""
    inside = staging / f"{archive.stem}-unpacked"
    shutil.rmtree(inside, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as file:
            file.extractall(inside)  # checks every file's CRC, and keeps names inside of the folder
    except (zipfile.BadZipFile, EOFError) as error:
        archive.unlink()
        raise AdapterError(
            f"{archive.name}: what came is no whole .zip ({error}), and was removed. Run the command again.",
            code="download-damaged",
        ) from error
    entries = list(inside.iterdir())
    root = entries[0] if len(entries) == 1 and entries[0].is_dir() else inside
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        shutil.rmtree(final)  # not whole, or the download would not have been asked for
    os.replace(root, final)
    archive.unlink()
