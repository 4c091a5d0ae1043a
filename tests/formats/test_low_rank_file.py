"""A small file beside a full adapter: W + B A, found by its digest, loaded as the full one is."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import layouts
from support.low_rank_files import CHANGED, write
from support.refused import refused

from dhumandiff import Adapter, formats
from dhumandiff.__main__ import main


@pytest.fixture
def full(tmp_path):
    folder = layouts.released_folder(tmp_path / "far" / "away")
    Adapter.from_pretrained(folder).save_pretrained(tmp_path / "models" / "pair.safetensors")
    return tmp_path / "models" / "pair.safetensors"


def test_a_matrix_becomes_its_sum_with_the_product_and_other_tensors_are_replaced(full, tmp_path):
    tensors = write(full.parent / "couple.safetensors", full)
    assert formats.detect(full.parent / "couple.safetensors") == "low-rank"
    before, after = (
        Adapter.from_pretrained(full.parent / name).state_dict() for name in ("pair.safetensors", "couple.safetensors")
    )
    up, down = tensors[f"{CHANGED}.lora_B.weight"], tensors[f"{CHANGED}.lora_A.weight"]
    product = torch.stack([sum(up[i, r] * down[r] for r in range(2)) for i in range(len(up))])
    for name, value in before.items():
        if name == f"{CHANGED}.weight":
            torch.testing.assert_close(after[name], value + product)
        elif name in tensors:
            assert torch.equal(after[name], tensors[name])
        else:
            assert torch.equal(after[name], value)


def test_one_projection_is_copied_for_each_person(tmp_path):
    full = layouts.ip_adapter_file(tmp_path / "plus-face.safetensors")
    write(tmp_path / "couple.safetensors", full, persons="2")
    found = Adapter.from_pretrained(tmp_path / "couple.safetensors")
    shared = Adapter.from_pretrained(full).state_dict()["attention.3.to_k_ip.weight"]
    assert (found.info.persons, found.info.shared) == (2, False)
    assert torch.equal(found.state_dict()["attention.3.to_k_ip1.weight"], shared)
    assert not torch.equal(found.state_dict()["attention.3.to_k_ip2.weight"], shared)
    found.save_pretrained(tmp_path / "merged.safetensors")  # no two tensors share their memory


def test_the_full_adapter_is_known_in_half_precision_and_under_other_names(full, tmp_path):
    write(full.parent / "couple.safetensors", full)
    expected = Adapter.from_pretrained(full.parent / "couple.safetensors").state_dict()
    Adapter.from_pretrained(full).half().save_pretrained(full.parent / "other.safetensors")
    full.unlink()
    found = Adapter.from_pretrained(full.parent / "couple.safetensors").state_dict()
    assert all(value.dtype == torch.float16 for name, value in found.items() if name.startswith("attention."))
    torch.testing.assert_close(found[f"{CHANGED}.weight"].float(), expected[f"{CHANGED}.weight"], atol=5e-3, rtol=1e-2)


def test_the_full_adapter_may_be_named(full, tmp_path):
    write(tmp_path / "elsewhere" / "couple.safetensors", full)
    with refused("full-adapter-missing", "pair.safetensors"):
        Adapter.from_pretrained(tmp_path / "elsewhere" / "couple.safetensors")
    Adapter.from_pretrained(tmp_path / "elsewhere" / "couple.safetensors", full=[full])


def test_another_full_adapter_is_refused_by_its_values(full, tmp_path):
    write(full.parent / "couple.safetensors", full)
    changed = load_file(full)
    changed["mapping.fc1.weight"] += 0.01
    metadata = Adapter.from_pretrained(full).info.metadata
    formats.native.save(full, changed, metadata)
    with refused("full-adapter-missing", "found to be others"):
        Adapter.from_pretrained(full.parent / "couple.safetensors")


@pytest.mark.parametrize(
    ("name", "value", "code", "named"),
    [
        (f"{CHANGED}.lora_B.weight", None, "low-rank-unfit", "lora_B"),
        (f"{CHANGED}.lora_A.weight", None, "low-rank-unfit", "lora_A"),
        (f"{CHANGED}.lora_B.weight", torch.zeros(7, 2), "low-rank-unfit", "do not make"),
        (f"{CHANGED}.lora_B.weight", torch.zeros(128, 3), "low-rank-unfit", "ranks 3 and 2"),
        ("attention.3.to_k_ip9.lora_A.weight", torch.zeros(2, 96), "low-rank-unfit", "lora_B"),
        ("strange.weight", torch.zeros(3), "tensor-unknown", "couple.safetensors"),
        (f"{CHANGED}.lora_A.weight", torch.zeros(2, 96, dtype=torch.int8), "quantized-weights", "lora_A"),
    ],
)
def test_a_damaged_file_is_refused(full, name, value, code, named):
    path = full.parent / "couple.safetensors"
    write(path, full)
    tensors, metadata = load_file(path), formats.reading.read_tensor_file(path).metadata
    tensors = {key: one for key, one in {**tensors, name: value}.items() if one is not None}
    save_file(tensors, path, metadata=metadata)
    with refused(code, named):
        Adapter.from_pretrained(path)


@pytest.mark.parametrize(
    ("key", "value", "code"), [("persons", None, "metadata-missing"), ("format_version", "2", "newer-format")]
)
def test_metadata_of_another_version_is_refused(full, key, value, code):
    path = full.parent / "couple.safetensors"
    write(path, full)
    metadata = {**formats.reading.read_tensor_file(path).metadata, key: value}
    save_file(load_file(path), path, metadata={name: one for name, one in metadata.items() if one is not None})
    with refused(code):
        Adapter.from_pretrained(path)


def test_what_lies_beside_and_cannot_be_read_is_passed_over(full):
    write(full.parent / "couple.safetensors", full)
    (full.parent / "broken.safetensors").write_bytes(b"nothing")
    shutil.copytree(layouts.released_folder(full.parent.parent / "third", seed=9), full.parent / "a_folder")
    Adapter.from_pretrained(full.parent / "couple.safetensors")


def test_inspect_says_what_it_lies_on_and_convert_merges(full, tmp_path, capsys):
    path = full.parent / "couple.safetensors"
    write(path, full)
    assert main(["inspect", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["format"], found["base_adapter"]) == ("low-rank", "pair.safetensors")
    assert found["parameters"] == {"attention": 2 * (128 + 96), "face_projection": 96}
    assert main(["inspect", str(path)]) == 0
    assert "on top of" in capsys.readouterr().out
    assert main(["convert", str(path), str(tmp_path / "merged.safetensors")]) == 0
    one, other = (Adapter.from_pretrained(each).state_dict() for each in (path, tmp_path / "merged.safetensors"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
