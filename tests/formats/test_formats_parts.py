"""Parts that do not belong together, layers and metadata that are not as they should be."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from support import layouts

from dhumandiff import Adapter, formats
from dhumandiff.errors import AdapterError
from dhumandiff.formats import released

T = torch.zeros(2, 2)


def refused(path, *words):
    """Reading `path` fails, and the message names it and says `words`."""
    with pytest.raises(AdapterError) as caught:
        Adapter.from_pretrained(path)
    message = str(caught.value)
    assert str(path) in message
    for word in words:
        assert word in message
    return message


def replaced(tmp_path, part, **sizes):
    folder = layouts.released_folder(tmp_path / "a")
    torch.save(layouts.tensors(**sizes)[part], folder / released.FILES[part])
    return folder


@pytest.mark.parametrize(
    ("part", "sizes", "file", "words"),
    [
        (
            "attention",
            {"context_width": 64},
            "ip_adapter_ca.pt",
            "reads tokens of width 64, but .* makes tokens of width 96",
        ),
        (
            "face_projection",
            {"context_width": 64},
            "ip_adapter_ca.pt",
            "tokens of width 96, but .* makes tokens of width 64",
        ),
        (
            "identity_projection",
            {"clip_width": 48},
            "face_projection2.pt",
            "a CLIP tower of width 48, .* one of width 80",
        ),
        ("mapping", {"token_width": 128}, "mapping.pt", r"it reads 160 numbers, but .* 32 \+ 64 wide"),
        ("attention", {"context_width": 768}, "ip_adapter_ca.pt", "width 768"),
    ],
)
def test_files_of_different_adapters_are_noticed(tmp_path, part, sizes, file, words):
    with pytest.raises(AdapterError, match=rf"{file}: .*{words}"):
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
    ("part", "change", "words"),
    [
        ("attention", drop(*(f"5.{x}" for x in K1)), r"the attention layers \[5\] are missing"),
        ("attention", drop(*(f"1.{x}" for x in K1)), r"the attention layers \[1\] are missing"),
        ("attention", put("4.to_k_ip1.weight", T), r"the layers \[4\] have even numbers"),
        (
            "attention",
            drop("7.to_v_ip2.weight"),
            r"layer 7 and layer 1 do not hold the same tensors \(to_v_ip2\.weight\)",
        ),
        ("attention", put("extra", T), "the tensor 'extra' does not belong to paired attention"),
        ("attention", put("1.to_v_ip2.weight", torch.zeros(64, 80)), r"'0\.to_v_ip2\.weight' has the shape \[64, 80\]"),
        ("face_projection", drop("layers.2.0.to_kv.weight"), r"'layers\.2\.0\.to_kv\.weight' is missing"),
        ("face_projection", drop("norm_out.bias"), r"'norm_out\.bias' is missing\. The file is incomplete"),
        ("face_projection", put("surplus", T), "'surplus' is not part of the method"),
        ("face_projection", put("proj_in.weight", torch.zeros(128)), r"'proj_in\.weight' has the shape \[128\]; 2 dim"),
        (
            "identity_projection",
            put("norm.weight", torch.zeros(3)),
            r"'norm\.weight' has the shape \[3\], but .* \[64\]",
        ),
        ("mapping", drop("fc1.weight"), r"'fc1\.weight' is missing; the file is incomplete"),
        ("mapping", put("fc1.bias", torch.zeros(64, dtype=torch.int8)), "'fc1.bias' is stored as int8"),
        ("mapping", put("fc1.bias", torch.zeros(64).to_sparse()), "'fc1.bias' is stored as float32 .torch.sparse"),
    ],
)
def test_incomplete_and_odd_parts_are_named(tmp_path, part, change, words):
    with pytest.raises(AdapterError, match=rf"{released.FILES[part]}: .*{words}"):
        Adapter.from_pretrained(changed(tmp_path, part, change))


def test_layers_with_unequal_numbers_of_persons_are_refused():
    own = dict(layouts.small_adapter().state_dict())
    own["attention.0.to_k_ip3.weight"] = own["attention.0.to_k_ip1.weight"]
    own["attention.0.to_v_ip3.weight"] = own["attention.0.to_k_ip1.weight"]
    with pytest.raises(AdapterError, match="layer 1 holds 2 persons, layer 0 holds 3"):
        Adapter.from_tensors(own, released.AS_RELEASED)


def test_half_a_subject_path_is_refused():
    own = {name: t for name, t in layouts.small_adapter().state_dict().items() if not name.startswith("mapping.")}
    with pytest.raises(AdapterError, match="mapping is missing; the subject path needs"):
        Adapter.from_tensors(own, released.AS_RELEASED)


@pytest.mark.parametrize("part", ["face_projection", "attention"])
def test_a_native_file_without_a_needed_part_is_refused(tmp_path, part):
    layouts.small_adapter().save_pretrained(tmp_path / "a.safetensors")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        metadata = file.metadata()
    kept = {n: t for n, t in load_file(tmp_path / "a.safetensors").items() if not n.startswith(part)}
    save_file(kept, tmp_path / "b.safetensors", metadata)
    refused(tmp_path / "b.safetensors", part if part == "face_projection" else "attention layers")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format_version": "2"}, "format version 2, this program knows version 1. Update DHumanDiff"),
        ({"format": "other"}, "the metadata lacks its format"),
        ({"licence": None, "source": None}, "the metadata lacks licence, source"),
        ({"base_family": "flux"}, "the adapter was made for 'flux'; sdxl, sd15, sd2 are known"),
        ({"identity_channels": "grb"}, "identity_channels is 'grb'; rgb-swapped or bgr was expected"),
    ],
)
def test_native_metadata_is_checked(tmp_path, change, words):
    adapter = layouts.small_adapter()
    metadata = formats.native.stamped(adapter.info.metadata, shared=False) | change
    path = tmp_path / "a.safetensors"
    save_file(adapter.state_dict(), path, {name: value for name, value in metadata.items() if value is not None})
    refused(path, words)


def test_a_native_file_that_lost_its_metadata_is_refused(tmp_path):
    save_file(layouts.small_adapter().state_dict(), tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "the metadata lacks format, format_version", "Another program has rewritten")


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"format": "dhumandiff"})])
def test_a_broken_note_beside_the_four_files_is_not_passed_over(tmp_path, content):
    folder = layouts.released_folder(tmp_path / "a")
    (folder / "adapter.json").write_text(content)
    with pytest.raises(AdapterError, match=r"adapter\.json"):
        Adapter.from_pretrained(folder)
