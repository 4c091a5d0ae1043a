"""Torch files stored in odd ways, tensors without values, dicts in each other: read rightly, or refused in a moment."""

from __future__ import annotations

import json
import os
import struct
import zipfile

import pytest
import torch
from support import layouts
from support.refused import refused

from dhumandiff import Adapter
from dhumandiff.formats.reading import TensorFile, check_dtypes, read_tensor_file


def rewritten(path, compression=zipfile.ZIP_STORED, change=lambda name, content: (name, content)):
    """The archive's records anew."""
    with zipfile.ZipFile(path) as archive:
        records = [change(record.filename, archive.read(record)) for record in archive.infolist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_an_archive_that_another_program_packed_is_read_rightly_or_refused(tmp_path, compression):
    folder = layouts.released_folder(tmp_path / "a")
    expected = {name: tensor.clone() for name, tensor in Adapter.from_pretrained(folder).state_dict().items()}
    rewritten(folder / "mapping.pt", compression)
    if compression == zipfile.ZIP_BZIP2:  # torch does not read it
        with refused("file-damaged", "mapping.pt"):
            Adapter.from_pretrained(folder)
        return
    got = Adapter.from_pretrained(folder).state_dict()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda name, content: (name, content[:-400] if name.endswith("data/1") else content),
        lambda name, content: (
            name.replace("data/0", "data/x").replace("data/1", "data/0").replace("data/x", "data/1"),
            content,
        ),
    ],
    ids=["cut", "exchanged"],
)
def test_records_that_are_not_their_tensors_are_refused(tmp_path, change):
    torch.save({"a": torch.zeros(100), "b": torch.ones(300), "c": torch.ones(300)}, tmp_path / "a.pt")
    with refused("file-damaged", "a.pt"):
        read_tensor_file(rewritten(tmp_path / "a.pt", change=change))


def in_itself():
    content = {}
    content["x"] = content
    return content


def nested(levels, names):
    content = {"x": torch.ones(2)}
    for _ in range(levels):
        content = dict.fromkeys(names, content)
    return content


@pytest.mark.parametrize(
    "content",
    [in_itself(), nested(15, "abcd"), nested(7, "abcdefghijk"), nested(300, "a")],
    ids=["cycle", "deep", "wide", "chain"],
)
@pytest.mark.parametrize("ending", [".pt", ".safetensors"])
def test_dicts_in_each_other_are_refused_in_a_moment(tmp_path, content, ending):
    path = tmp_path / f"a{ending}"
    torch.save(content, path)
    with refused("file-damaged", path.name):
        read_tensor_file(path)


@pytest.mark.parametrize(
    "tensor", [torch.ones(1).expand(10**13), torch.ones(3, device="meta")], ids=["stretched", "meta"]
)
def test_shapes_without_values_are_refused(tmp_path, tensor):
    torch.save({"x": tensor}, tmp_path / "a.bin")
    with refused("tensor-without-values", "a.bin", "'x'"):
        read_tensor_file(tmp_path / "a.bin")


def test_tensors_of_no_values_are_refused(tmp_path):
    with refused("tensor-without-values", "a.bin", "[0, 4]"):
        check_dtypes(TensorFile(tmp_path / "a.bin", {"x": torch.zeros(0, 4)}))


@pytest.mark.parametrize("offsets", [[0, "8"], [0, None], [0, [8]], [0], 8, "08", {"1": 2}, [0, 8.5]])
def test_offsets_that_are_no_numbers_are_refused(tmp_path, offsets):
    first = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    head = json.dumps({"a": first, "b": {**first, "data_offsets": offsets}}).encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(64))
    with refused("file-damaged", "a.safetensors"):
        read_tensor_file(tmp_path / "a.safetensors")


@pytest.mark.parametrize("header", ["[]", "3", '{"a": 3}', '{"__metadata__": 3}', "[" * 5000, '{"a":' * 5000])
def test_headers_that_are_no_header_are_refused(tmp_path, header):
    header = header.encode()
    (tmp_path / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    with pytest.raises(ValueError, match="a.safetensors") as caught:
        read_tensor_file(tmp_path / "a.safetensors")
    assert caught.value.code in ("file-damaged", "no-tensor-file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes on this system")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.safetensors")
    with refused("no-ordinary-file", "a.safetensors"):
        read_tensor_file(tmp_path / "a.safetensors")


def test_a_note_of_brackets_is_refused(tmp_path):
    folder = layouts.released_folder(tmp_path / "a")
    (folder / "adapter.json").write_text("[" * 100_000)
    with refused("note-damaged", "adapter.json"):
        Adapter.from_pretrained(folder)
