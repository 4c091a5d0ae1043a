"""Write files at once or not at all: a half-written file never stands under its final name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor

from ..errors import AdapterError
from ..io import atomic_write_all, why_not_written

__all__ = ["all_at_once", "at_once", "plain", "size"]


def plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as files keep them: contiguous, on the CPU, without gradients. Nothing is copied that already is so."""
    return {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}


def size(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of the values."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


@contextmanager
def at_once(path: Path, needed: int = 0) -> Iterator[Path]:
    """`io.atomic_write` of a weights file, whose folder is made.

    Args:
        path: the final name.
        needed: how many bytes will be written. A disk with less room is refused before anything is.

    Raises:
        AdapterError: the folder cannot be written or the disk is full ("file-not-written").
    """
    with all_at_once({path: needed}) as parts:
        yield parts[0]


@contextmanager
def all_at_once(needed: Mapping[Path, int]) -> Iterator[list[Path]]:
    """`io.atomic_write_all` of weights files in one folder, which is made: all are new, or all stay as they were.

    Args:
        needed: the final names, and how many bytes each will have.

    Raises:
        AdapterError: as for `at_once`.
    """
    paths = list(needed)
    try:
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        with atomic_write_all(paths, needed=sum(needed.values())) as parts:
            yield parts
    except (OSError, SafetensorError, RuntimeError) as error:  # torch.save reports a full disk as a RuntimeError
        where = Path(error.filename2) if isinstance(error, OSError) and error.filename2 else paths[0]
        raise AdapterError(
            f"{where}: the file cannot be written ({why_not_written(error)}).", code="file-not-written"
        ) from error
