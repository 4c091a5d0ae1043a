"""Tables that say something of many pictures: metadata.csv, .jsonl and .parquet of image folders, with all their columns.

`file_name` says which picture a row is of. A caption stands in `text`, `caption`, `prompt` or `description`; who the people are, in
`identity_1` and `identity_2` (whom the caption names first and second, @1 and @2) or in `identity`, two names in a list or parted
by a semicolon, a bar or a comma; a PairHuman annotation, in `annotation`. Samples keep all other columns.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from dhumandiff.errors import DHumanDiffError, short_error
from dhumandiff.io import decode_text, printable

from .. import TrainingError

__all__ = ["ANNOTATION_FIELDS", "CAPTION_FIELDS", "Row", "check_columns", "read_table", "row_of"]

CAPTION_FIELDS = ("text", "caption", "prompt", "description")
ANNOTATION_FIELDS = ("annotation", "annotations", "json")
_NAMES = ("file_name", "image_file_name")
_IDENTITIES = ("identity_1", "identity_2", "identity", "identities")


@dataclass(frozen=True)
class Row:
    """What a table says of one picture.

    Attributes:
        name: of the picture's file; "" where the picture is in the table.
        where: the table and the line, for messages.
        caption: "" if the table has none.
        identities: of whom the caption names first, and second; both "" if the table does not say.
        annotation: of the picture, as parsed JSON.
        columns: all others that are not empty.
    """

    name: str
    where: str
    caption: str = ""
    identities: tuple[str, str] = ("", "")
    annotation: Mapping | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    def over(self, earlier: Row | None) -> Row:
        """This row, with what only an earlier one of the same picture says."""
        if earlier is None:
            return self
        return Row(
            self.name,
            self.where,
            self.caption or earlier.caption,
            self.identities if any(self.identities) else earlier.identities,
            self.annotation or earlier.annotation,
            {**earlier.columns, **self.columns},
        )


def read_table(data: bytes, name: str, notes: list[str]) -> Iterator[Row]:
    """The rows of a table.

    Args:
        data: all of the file.
        name: of the file; its ending says what it is.
        notes: gets what is odd and can be passed over.

    Raises:
        TrainingError: a file or a row that cannot be read; the message names both.
    """
    if name.lower().endswith(".parquet"):
        return _parquet(data, name)
    try:
        text = decode_text(data, name)
    except DHumanDiffError as error:
        raise TrainingError(
            f"The captions {name} cannot be read: {short_error(error, limit=400)}.", code="captions-not-readable"
        ) from error
    return _lines(text, name) if name.lower().endswith(".jsonl") else _csv(text, name, notes)


def row_of(values: Mapping[str, Any], where: str, skip: Sequence[str] = ()) -> Row:
    """What a row's columns mean.

    Args:
        values: by the columns' names.
        where: the table and the line, for messages.
        skip: columns that are something else, such as the picture.

    Raises:
        TrainingError: a value is of another kind than belongs there.
    """
    known = (*_NAMES, *CAPTION_FIELDS, *_IDENTITIES, *ANNOTATION_FIELDS, *skip)
    texts = [_text(values, names, where) for names in (_NAMES, CAPTION_FIELDS)]
    others = {name: _plain(value) for name, value in values.items() if name not in known}
    return Row(
        texts[0],
        where,
        texts[1],
        _identities(values, where),
        _annotation(values, where),
        {name: value for name, value in others.items() if value not in (None, "", [])},
    )


def _lines(text: str, path: str) -> Iterator[Row]:
    """The rows of a .jsonl. A line ends at a line feed: texts may hold Unicode's other line ends."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            values = json.loads(line, object_pairs_hook=_no_doubles)
            if not isinstance(values, Mapping):
                raise TypeError(f"a {type(values).__name__}")
            if not any(values.get(name) is not None for name in _NAMES):
                raise KeyError(_NAMES[0])
        except (RecursionError, ValueError, KeyError, TypeError) as error:
            raise TrainingError(
                f"{where} is not a JSON object with file_name and text ({error!r}). Correct the line.",
                code="unreadable-captions",
            ) from error
        yield row_of(values, where)


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    doubled = _doubled(name for name, _ in pairs)
    if doubled:
        raise ValueError(f"{doubled} stands there twice")
    return dict(pairs)


def _csv(text: str, path: str, notes: list[str]) -> Iterator[Row]:
    """The rows of a .csv; spreadsheets part columns with a comma, a semicolon or a tab, and may say so in a line of its own."""
    said = re.match(r"sep=(.)\n", text)
    skipped, text = (1, text[said.end() :]) if said else (0, text)
    head = text.partition("\n")[0]
    headers = {sign: [name.strip() for name in next(csv.reader([head], delimiter=sign), [])] for sign in ",;\t"}
    parted = next((sign for sign, names in headers.items() if set(_NAMES) & {*names}), None)
    if parted is None:
        seen = max(headers.values(), key=len)
        raise TrainingError(
            f"{path} has no column {_NAMES[0]}, which says whose row it is; its columns are {', '.join(seen) or 'none'}. Name it so "
            "in the first line.",
            code="table-without-file-name",
        )
    names = headers[parted]
    check_columns(names, path)
    _note_columns(names, path, notes)
    rows = csv.reader(io.StringIO(text), delimiter=parted)
    try:
        next(rows)
        for cells in rows:
            where = f"{path}, line {rows.line_num + skipped}"
            if any(cells[len(names) :]):
                raise csv.Error("it has more columns than the first line: put quotation marks around its text")
            values = {name: cell for name, cell in zip(names, cells, strict=False) if name}
            if any(values.values()):
                if not any(values.get(name) for name in _NAMES):
                    raise csv.Error("it has no file_name")
                yield row_of(values, where)
    except csv.Error as error:
        raise TrainingError(
            f"{path}, line {rows.line_num + skipped} is no row of a table ({error}). Correct the line.",
            code="unreadable-captions",
        ) from error


def _parquet(data: bytes, path: str) -> Iterator[Row]:
    from .parquet import parquet_of

    file = parquet_of(io.BytesIO(data), path)
    names = file.schema_arrow.names
    check_columns(names, path)
    if not set(_NAMES) & {*names}:
        raise TrainingError(
            f"{path} has no column {_NAMES[0]}, which says whose row it is; its columns are {', '.join(names)}. Name it so.",
            code="table-without-file-name",
        )
    types = import_module("pyarrow.types")
    kept = [one.name for one in file.schema_arrow if not types.is_binary(one.type)]
    for number, values in enumerate(file.read(columns=kept).to_pylist()):
        yield row_of(values, f"{path}, row {number}")


def check_columns(names: Sequence[str], path: str) -> None:
    """Refuse a table that has two columns of one name. TrainingError."""
    doubled = _doubled(filter(None, names))
    if doubled:
        raise TrainingError(
            f"{path} has two columns {doubled}: which one counts? Rename or remove one.", code="columns-doubled"
        )


def _note_columns(names: Sequence[str], path: str, notes: list[str]) -> None:
    if not {*names} & {*CAPTION_FIELDS, *_IDENTITIES, *ANNOTATION_FIELDS}:
        notes.append(f"{path} has no column of captions ({', '.join(CAPTION_FIELDS)})")


def _doubled(names: Iterable[str]) -> str:
    return next((name for name, count in Counter(names).items() if count > 1), "")


def _text(values: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    found = next((values[name] for name in names if values.get(name)), "")
    if isinstance(found, bytes):  # of a parquet whose writer put in what is not UTF-8
        return decode_text(found, f"the caption of {where},")
    if not isinstance(found, str):
        raise TrainingError(
            f"{where} has a {type(found).__name__} in the place of texts: {printable(str(found))[:60]}. Correct the line.",
            code="unreadable-captions",
        )
    return found


def _identities(values: Mapping[str, Any], where: str) -> tuple[str, str]:
    pair = [values.get(name) for name in _IDENTITIES[:2]]
    found = next((values[name] for name in _IDENTITIES[2:] if values.get(name)), None)
    if not any(pair) and found is not None:
        pair = [*found] if isinstance(found, (list, tuple)) else [one.strip() for one in re.split("[;|,]", str(found))]
    if len(pair) != 2 or any(isinstance(one, (list, Mapping)) for one in pair):
        raise TrainingError(
            f"{where}: identity is {found!r:.60}, which is not two people. Write both, the one whom the caption names first in front: "
            "anna;ben. Or take two columns, identity_1 and identity_2.",
            code="identities-not-two",
        )
    first, second = (printable("" if one is None else str(one)).strip() for one in pair)
    if first and first == second:
        raise TrainingError(
            f"{where}: both people have the identity {first!r}. Give two people two names, or leave unknown ones empty.",
            code="identities-alike",
        )
    return first, second


def _annotation(values: Mapping[str, Any], where: str) -> Mapping | None:
    found = next((values[name] for name in ANNOTATION_FIELDS if values.get(name)), None)
    if isinstance(found, (str, bytes)):
        try:
            found = json.loads(decode_text(found, where) if isinstance(found, bytes) else found)
        except (ValueError, RecursionError) as error:
            raise TrainingError(
                f"{where}: the annotation is no JSON ({short_error(error)}). Correct it, or leave it empty.",
                code="annotation-no-json",
            ) from error
    return found if isinstance(found, Mapping) else None


def _plain(value: Any) -> Any:
    """A value as JSON has it; None for what JSON has not."""
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, bytes) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)
