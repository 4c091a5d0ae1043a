"""As much of the ONNX file format (protobuf) as is needed here: a model of one node, whether a file is whole, what it begins with.

A protobuf message is a row of fields: a key (number * 8 + kind), then a varint (kind 0), eight bytes (1), a length and
that many bytes (2), or four bytes (5). The `onnx` package would do the same, and need not be installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

__all__ = ["first_nodes", "tiny_model", "why_damaged"]

_GRAPH = 7  # the field of a model that holds its nodes and weights


def tiny_model() -> bytes:
    """A model that hands its input, one float32, on as it is."""
    shape = _field(2, _field(1, _field(1, 1)))  # one dimension, of size 1
    value = _field(2, _field(1, _field(1, 1) + shape))  # a tensor of float32
    node = _field(1, b"x") + _field(2, b"y") + _field(4, b"Identity")
    graph = _field(1, node) + _field(2, b"tiny") + _field(11, _field(1, b"x") + value)
    graph += _field(12, _field(1, b"y") + value)
    opset = _field(1, b"") + _field(2, 13)
    return _field(1, 8) + _field(_GRAPH, graph) + _field(8, opset)


def _field(number: int, content: int | bytes) -> bytes:
    if isinstance(content, int):
        return _varint(number * 8) + _varint(content)
    return _varint(number * 8 + 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def first_nodes(path: Path, count: int = 8) -> list[str]:
    """Names of the first nodes of a model; fewer, where the file ends or is none."""
    with path.open("rb") as file:
        graph = next((end for number, end in _fields(file, path.stat().st_size) if number == _GRAPH), None)
        names: list[str] = []
        for number, end in _fields(file, graph or 0):
            if number != 1:  # nodes come first
                break
            inside = {key: file.read(stop - file.tell()) for key, stop in _fields(file, end) if key == 3}
            names.append(inside.get(3, b"").decode(errors="replace"))
            if len(names) == count:
                break
    return names


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int]]:
    """Number and end of each field with a length up to `end`; the file stands at its content, and is put behind it."""
    while file.tell() < end:
        key = _read_varint(file) or 0
        length = _read_varint(file) if key % 8 in (0, 2) else {1: 8, 5: 4}.get(key % 8)
        if length is None:
            return
        if key % 8 == 2:
            stop = file.tell() + length
            yield key // 8, stop
            file.seek(stop)
        elif key % 8:
            file.seek(length, 1)


def why_damaged(path: Path) -> str | None:
    """Why a file cannot be an ONNX model, or None. It walks over the outermost fields; weights are not read."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            return _walk(file, size)
    except OSError as error:
        return f"it cannot be opened ({error.strerror or error})"


def _walk(file: BinaryIO, size: int) -> str | None:
    if not size:
        return "it is empty (0 bytes)"
    head = file.read(64).lstrip().lower()
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, a text that stands for the file"
    if head.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page saved under this name"
    file.seek(0)
    graph = False
    while file.tell() < size:
        key = _read_varint(file)
        number, kind = (key or 0) // 8, (key or 0) % 8
        if kind == 0:
            length = None if _read_varint(file) is None else 0
        else:
            length = _read_varint(file) if kind == 2 else {1: 8, 5: 4}.get(kind)
        if not number or length is None:
            return "it is no ONNX model, or its beginning is damaged"
        if file.tell() + length > size:
            return f"it is cut off: {size:,} bytes are there, at least {file.tell() + length:,} are needed"
        graph |= number == _GRAPH
        file.seek(length, 1)
    return None if graph else "it is cut off, or no ONNX model: there is no graph in it"


def _read_varint(file: BinaryIO) -> int | None:
    number = 0
    for place in range(10):
        byte = file.read(1)
        if not byte:
            return None
        number |= (byte[0] & 0x7F) << 7 * place
        if byte[0] < 0x80:
            return number
    return None
