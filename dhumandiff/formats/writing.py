"""Write files at once or not at all: a half-written file never stands under its final name."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from ..errors import AdapterError

__all__ = ["at_once", "plain", "size"]


def plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as files keep them: contiguous, on the CPU, without gradients. Nothing is copied that already is so."""
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}


def size(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the values."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@contextmanager
def at_once(path: Path, needed: int = 0) -> Iterator[Path]:
    """Give a temporary path in the same folder, which takes the name `path` when the block ends without an error.

    `needed` is how many bytes will be written; a disk with less room is refused before anything is. AdapterError when
    the folder cannot be written or the disk is full; the temporary file is removed.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(path.parent).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes a file that only its owner may read
        os.replace(temporary, path)
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        raise AdapterError(f"{path}: the file cannot be written ({_reason(error)}).") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)  # there is no way to read it without setting it
    os.umask(mask)
    return mask


def _reason(error: Exception) -> str:
    code = getattr(error, "errno", None)
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or re.search("No space left|File too large", str(error)):
        return "no space left on the disk: make room, or choose another place"
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "permission denied: choose a folder that you may write to"
    if isinstance(error, RuntimeError):  # torch's writer says which assertion failed, not why
        return "writing broke off, most likely because the disk is full: make room, or choose another place"
    return getattr(error, "strerror", None) or str(error).splitlines()[0]
