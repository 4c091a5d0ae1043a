"""Pictures in parquet files, as Hugging Face stores them: opened once, read a row group at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache, partial
from importlib import import_module
from pathlib import PurePosixPath
from typing import Any

from dhumandiff.errors import ImageError

from .. import TrainingError
from .store import is_url, on_store, open_url

__all__ = ["open_parquet", "parquet_of", "read_cell", "read_columns"]


def parquet_of(file: Any, path: str) -> Any:
    """A parquet file, open.

    Args:
        file: its path, or itself, open for reading.
        path: what messages call it.

    Raises:
        TrainingError: it is none, or pyarrow is missing.
    """
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as error:
        raise TrainingError(
            "Parquet files need pyarrow. Install it with: pip install pyarrow", code="no-pyarrow"
        ) from error
    try:
        return parquet.ParquetFile(file)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise TrainingError(
            f"{path} cannot be read as parquet: {error}. Download it again.", code="unreadable-parquet"
        ) from error


@lru_cache(maxsize=4)
def open_parquet(path: str) -> Any:
    """A parquet file of a disk or a store, open; the last four stay so.

    Raises:
        TrainingError: it is none, or pyarrow is missing.
    """
    return parquet_of(open_url(path) if is_url(path) else path, path)


@lru_cache(maxsize=1)
def _row_group(path: str, column: str, group: int) -> Any:
    return open_parquet(path).read_row_group(group, columns=[column])[column]


def read_cell(path: str, column: str, row: int) -> bytes:
    """The bytes of one picture; neighbors come from the row group read last."""
    file, first = open_parquet(path), 0
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if row < first + rows:
            break
        first += rows
    cells = (
        on_store(path, partial(_row_group, path, column, group)) if is_url(path) else _row_group(path, column, group)
    )
    value = cells[row - first].as_py()
    if isinstance(value, Mapping):  # how Hugging Face stores pictures
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise ImageError(f"row {row} of {PurePosixPath(path).name} holds no picture.", code="row-without-picture")
    return value


def read_columns(file: Any, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of some columns; bytes where some writer put in what is not UTF-8."""
    values = file.read(columns=list(columns))
    listed = {name: _values(values[name]) for name in columns}
    for row in range(file.metadata.num_rows):
        yield {name: column[row] for name, column in listed.items()}


def _values(column: Any) -> list[Any]:
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        return column.cast(import_module("pyarrow").large_binary()).to_pylist()
