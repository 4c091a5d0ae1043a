"""Parts that do not belong together, layers and metadata that are not as they should be."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import layouts
from support.refused import refused

from dhumandiff import Adapter, formats
from dhumandiff.formats import released

T = torch.zeros(2, 2)


def refused_to_read(path, code, *named):
    """Reading `path` fails with this code, and the message names it and `named`."""
    with refused(code, str(path), *named):
        Adapter.from_pretrained(path)


def replaced(tmp_path, part, **sizes):
    folder = layouts.released_folder(tmp_path / "a")
    torch.save(layouts.tensors(**sizes)[part], folder / released.FILES[part])
    return folder


@pytest.mark.parametrize(
    ("part", "sizes", "file", "numbers"),
    [
        ("attention", {"context_width": 64}, "ip_adapter_ca.pt", ("64", "96")),
        ("face_projection", {"context_width": 64}, "ip_adapter_ca.pt", ("96", "64")),
        ("identity_projection", {"clip_width": 48}, "face_projection2.pt", ("48", "80")),
        ("mapping", {"token_width": 128}, "mapping.pt", ("160", "32 + 64")),
        ("attention", {"context_width": 768}, "ip_adapter_ca.pt", ("768",)),
    ],
)
def test_files_of_different_adapters_are_noticed(tmp_path, part, sizes, file, numbers):
    with refused("parts-of-different-adapters", f"{file}: ", *numbers):
        Adapter.from_pretrained(replaced(tmp_path, part, **sizes))


def changed(tmp_path, part, change):
    folder = layouts.released_folder(tmp_path / "a")
    path = folder / released.FILES[part]
    content = torch.load(path)
    change(content)
    torch.save(content, path)
    return folder


def drop(*names):
    return lambda content: [content.pop(name) for name in names]


def put(name, tensor):
    return lambda content: content.update({name: tensor})


K1 = ("to_k_ip1.weight", "to_v_ip1.weight", "to_k_ip2.weight", "to_v_ip2.weight")


@pytest.mark.parametrize(
    ("part", "change", "code", "named"),
    [
        ("attention", drop(*(f"5.{x}" for x in K1)), "layers-missing", ["[5]"]),
        ("attention", drop(*(f"1.{x}" for x in K1)), "layers-missing", ["[1]"]),
        ("attention", put("4.to_k_ip1.weight", T), "layers-of-another-layout", ["[4]"]),
        ("attention", drop("7.to_v_ip2.weight"), "layers-differ", ["layer 7", "(to_v_ip2.weight)"]),
        ("attention", put("extra", T), "no-paired-attention", ["'extra'"]),
        (
            "attention",
            put("1.to_v_ip2.weight", torch.zeros(64, 80)),
            "tensor-of-another-shape",
            ["'0.to_v_ip2.weight'", "[64, 80]"],
        ),
        ("face_projection", drop("layers.2.0.to_kv.weight"), "tensor-missing", ["'layers.2.0.to_kv.weight'"]),
        ("face_projection", drop("norm_out.bias"), "tensor-missing", ["'norm_out.bias'"]),
        ("face_projection", put("surplus", T), "tensor-unknown", ["'surplus'"]),
        (
            "face_projection",
            put("proj_in.weight", torch.zeros(128)),
            "tensor-of-another-shape",
            ["'proj_in.weight'", "[128]", "2 dimensions"],
        ),
        (
            "identity_projection",
            put("norm.weight", torch.zeros(3)),
            "tensor-of-another-shape",
            ["'norm.weight'", "[3]", "[64]"],
        ),
        ("mapping", drop("fc1.weight"), "tensor-missing", ["'fc1.weight'"]),
        ("mapping", put("fc1.bias", torch.zeros(64, dtype=torch.int8)), "quantized-weights", ["'fc1.bias'", "int8"]),
        (
            "mapping",
            put("fc1.bias", torch.zeros(64).to_sparse()),
            "quantized-weights",
            ["'fc1.bias'", "float32 (torch.sparse"],
        ),
    ],
)
def test_incomplete_and_odd_parts_are_named(tmp_path, part, change, code, named):
    with refused(code, f"{released.FILES[part]}: ", *named):
        Adapter.from_pretrained(changed(tmp_path, part, change))


def test_layers_with_unequal_numbers_of_persons_are_refused():
    own = dict(layouts.small_adapter().state_dict())
    own["attention.0.to_k_ip3.weight"] = own["attention.0.to_k_ip1.weight"]
    own["attention.0.to_v_ip3.weight"] = own["attention.0.to_k_ip1.weight"]
    with refused("layers-of-different-persons", "layer 1 holds 2", "layer 0 holds 3"):
        Adapter.from_tensors(own, released.AS_RELEASED)


def test_half_a_subject_path_is_refused():
    own = {name: t for name, t in layouts.small_adapter().state_dict().items() if not name.startswith("mapping.")}
    with refused("part-missing", "mapping is missing"):
        Adapter.from_tensors(own, released.AS_RELEASED)


@pytest.mark.parametrize("part", ["face_projection", "attention"])
def test_a_native_file_without_a_needed_part_is_refused(tmp_path, part):
    layouts.small_adapter().save_pretrained(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        metadata = file.metadata()
    kept = {n: t for n, t in load_file(tmp_path / "a.safetensors").items() if not n.startswith(part)}
    save_file(kept, tmp_path / "b.safetensors", metadata)
    code = "part-missing" if part == "face_projection" else "layers-not-numbered"
    refused_to_read(tmp_path / "b.safetensors", code, part)


@pytest.mark.parametrize(
    ("change", "code", "named"),
    [
        ({"format_version": "2"}, "newer-format", "version 2"),
        ({"format": "other"}, "metadata-missing", "its format"),
        ({"licence": None, "source": None}, "metadata-missing", "licence, source"),
        ({"base_family": "flux"}, "unknown-base-family", "'flux'; sdxl, sd15, sd2"),
        ({"identity_channels": "grb"}, "unknown-identity-channels", "'grb'; rgb-swapped or bgr"),
    ],
)
def test_native_metadata_is_checked(tmp_path, change, code, named):
    adapter = layouts.small_adapter()
    metadata = formats.native.stamped(adapter.info.metadata, shared=False) | change
    path = tmp_path / "a.safetensors"
    save_file(adapter.state_dict(), path, {name: value for name, value in metadata.items() if value is not None})
    refused_to_read(path, code, named)


def test_a_native_file_that_lost_its_metadata_is_refused(tmp_path):
    save_file(layouts.small_adapter().state_dict(), tmp_path / "a.safetensors")
    refused_to_read(tmp_path / "a.safetensors", "metadata-missing", "format, format_version")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_note_that_an_editor_saved_with_a_byte_order_mark_is_read(tmp_path, encoding):
    folder = layouts.released_folder(tmp_path / "a")
    Adapter.from_pretrained(folder).save_released(tmp_path / "b")
    info, note = Adapter.from_pretrained(tmp_path / "b").info, tmp_path / "b" / "adapter.json"
    note.write_bytes(note.read_text().encode(encoding))
    assert Adapter.from_pretrained(tmp_path / "b").info == info


@pytest.mark.parametrize(
    ("content", "code"),
    [("{", "note-damaged"), ("[]", "note-damaged"), (json.dumps({"format": "dhumandiff"}), "metadata-missing")],
)
def test_a_broken_note_beside_the_four_files_is_not_passed_over(tmp_path, content, code):
    folder = layouts.released_folder(tmp_path / "a")
    (folder / "adapter.json").write_text(content)
    with refused(code, "adapter.json"):
        Adapter.from_pretrained(folder)
