"""Pictures in parquet files, as Hugging Face stores them: opened once, read a row group at a time."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from dhumandiff.errors import ImageError

from .. import TrainingError

__all__ = ["open_parquet", "read_cell", "read_column"]


@lru_cache(maxsize=4)
def open_parquet(path: str) -> Any:
    """A parquet file, open; the last four stay so.

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
        return parquet.ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise TrainingError(
            f"{path} cannot be read as parquet: {error}. Download it again.", code="unreadable-parquet"
        ) from error


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
    value = _row_group(path, column, group)[row - first].as_py()
    if isinstance(value, Mapping):  # how Hugging Face stores pictures
        value = value.get("bytes")
    if not isinstance(value, bytes):
        raise ImageError(f"row {row} of {Path(path).name} holds no picture.", code="row-without-picture")
    return value


def read_column(file: Any, column: str) -> list[Any]:
    """All values of a column of texts; bytes where some writer put in what is not UTF-8."""
    values = file.read(columns=[column])[column]
    try:
        return values.to_pylist()
    except UnicodeDecodeError:
        return values.cast(import_module("pyarrow").large_binary()).to_pylist()
