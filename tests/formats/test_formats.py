"""Formats: bit-exact round trips, memory-mapped reading, writing at once or not at all."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support import layouts
from support.mapped import is_mapped
from support.refused import refused

from dhumandiff import Adapter, formats
from dhumandiff.formats import ip_adapter, released

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
FILES = list(released.FILES.values())


def bits(adapter):
    return {
        name: (t.dtype, tuple(t.shape), t.contiguous().view(torch.uint8).flatten())
        for name, t in adapter.state_dict().items()
    }


def assert_same(one, other):
    assert one.info == other.info
    a, b = bits(one), bits(other)
    assert a.keys() == b.keys()
    for name in a:
        assert a[name][:2] == b[name][:2]
        assert torch.equal(a[name][2], b[name][2])


# Reading and writing


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_released_to_native_and_back_is_bit_exact(tmp_path, dtype):
    folder = layouts.released_folder(tmp_path / "a", dtype=dtype)
    first = Adapter.from_pretrained(folder)
    first.save_pretrained(tmp_path / "b.safetensors")
    second = Adapter.from_pretrained(tmp_path / "b.safetensors")
    assert_same(first, second)
    second.save_released(tmp_path / "c")
    assert_same(first, Adapter.from_pretrained(tmp_path / "c"))
    for name in FILES:  # what an ordinary torch.load sees is what the authors' own code would see
        before, after = torch.load(folder / name), torch.load(tmp_path / "c" / name)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) and before[key].dtype == dtype for key in before)


def test_mixed_dtypes_survive(tmp_path):
    folder = layouts.released_folder(tmp_path / "a", dtype=torch.float16)
    torch.save(layouts.tensors(dtype=torch.float32)["mapping"], folder / "mapping.pt")
    first = Adapter.from_pretrained(folder)
    first.save_pretrained(tmp_path / "b.safetensors")
    assert_same(first, Adapter.from_pretrained(tmp_path / "b.safetensors"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
def test_ip_adapter_plus_becomes_a_shared_adapter(tmp_path, ending, dtype):
    path = layouts.ip_adapter_file(tmp_path / f"ip-adapter-plus-face_sdxl_vit-h{ending}", dtype=dtype)
    adapter = Adapter.from_pretrained(path)
    assert formats.detect(path) == "ip-adapter-plus"
    assert (adapter.info.shared, adapter.info.persons, adapter.info.layers) == (True, 1, 17)
    assert not adapter.has_subject_path
    assert adapter.info.license == "Apache-2.0"
    assert path.name in adapter.info.source
    parts = layouts.tensors(names=("",), dtype=dtype)
    assert torch.equal(adapter.state_dict()["attention.3.to_k_ip.weight"], parts["attention"]["7.to_k_ip.weight"])
    adapter.save_pretrained(tmp_path / "own.safetensors")
    assert_same(adapter, Adapter.from_pretrained(tmp_path / "own.safetensors"))


def test_layers_keep_the_order_of_the_file(tmp_path):
    folder = layouts.released_folder(tmp_path / "a", layers=12)  # "11." sorts before "3." as text
    stored = torch.load(folder / "ip_adapter_ca.pt")
    own = Adapter.from_pretrained(folder).state_dict()
    for k in range(12):
        assert torch.equal(own[f"attention.{k}.to_v_ip2.weight"], stored[f"{2 * k + 1}.to_v_ip2.weight"])


def test_metadata_says_where_weights_come_from(tmp_path):
    adapter = Adapter.from_pretrained(layouts.released_folder(tmp_path / "a"))
    assert adapter.info.license == "none stated by the authors"
    assert adapter.info.identity_channels == "rgb-swapped"
    assert adapter.info.recognizer == "insightface buffalo_l"
    adapter.save_pretrained(tmp_path / "b.safetensors")
    with safe_open(tmp_path / "b.safetensors", "pt") as file:
        metadata = file.metadata()
    assert metadata == {"format": "dhumandiff", "format_version": "1", "shared": "false", **adapter.info.metadata}


def test_metadata_of_other_weights_survives_the_released_layout(tmp_path):
    adapter = layouts.small_adapter()
    own = {**released.AS_RELEASED, "identity_channels": "bgr", "licence": "CC0", "source": "trained here"}
    Adapter.from_tensors(adapter.state_dict(), own).save_released(tmp_path / "a")
    assert Adapter.from_pretrained(tmp_path / "a").info.metadata == own


def test_formats_are_told_apart_by_names_and_shapes_not_by_endings(tmp_path):
    folder = layouts.released_folder(tmp_path / "a")
    Adapter.from_pretrained(folder).save_pretrained(tmp_path / "b.safetensors")
    plus = layouts.ip_adapter_file(tmp_path / "c.bin")
    shutil.move(tmp_path / "b.safetensors", tmp_path / "b.pt")
    shutil.move(plus, tmp_path / "c.safetensors")
    found = [formats.detect(path) for path in (folder, tmp_path / "b.pt", tmp_path / "c.safetensors")]
    assert found == ["released", "native", "ip-adapter-plus"]


@pytest.mark.parametrize("length", [0x280, 0x480, 0x20A, 0x7B])
def test_safetensors_are_recognised_whatever_the_length_of_their_header(tmp_path, length):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode().ljust(length)
    (tmp_path / "a.safetensors").write_bytes(length.to_bytes(8, "little") + header + bytes(4))
    with refused("no-adapter-file", "a file of another kind (1 tensors: a)"):
        Adapter.from_pretrained(tmp_path / "a.safetensors")


def test_a_folder_one_level_deeper_is_found(tmp_path):
    layouts.released_folder(tmp_path / "outer" / "DHumanDiff")
    assert Adapter.from_pretrained(str(tmp_path / "outer")).info.layers == 17


def test_old_torch_files_that_are_no_archives_are_read(tmp_path):
    folder = layouts.released_folder(tmp_path / "a")
    expected = Adapter.from_pretrained(folder)
    expected = {name: t.clone() for name, t in expected.state_dict().items()}
    for name in FILES:
        torch.save(torch.load(folder / name), folder / name, _use_new_zipfile_serialization=False)
    got = Adapter.from_pretrained(folder).state_dict()
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_parameters_views_and_strides_of_a_training_script_are_read(tmp_path):
    folder = layouts.released_folder(tmp_path / "a")
    expected = {name: t.clone() for name, t in Adapter.from_pretrained(folder).state_dict().items()}
    mapping = torch.load(folder / "mapping.pt")
    mapping["fc1.weight"] = torch.nn.Parameter(mapping["fc1.weight"].T.contiguous().T)  # column-major
    torch.save(mapping, folder / "mapping.pt")
    attention = torch.load(folder / "ip_adapter_ca.pt")
    fused = torch.cat([attention["1.to_k_ip1.weight"], attention["1.to_k_ip2.weight"]])
    attention["1.to_k_ip1.weight"], attention["1.to_k_ip2.weight"] = fused.chunk(2)  # two views of one memory
    torch.save(attention, folder / "ip_adapter_ca.pt")
    adapter = Adapter.from_pretrained(folder)
    adapter.save_pretrained(tmp_path / "b.safetensors")
    for got in (adapter.state_dict(), load_file(tmp_path / "b.safetensors")):
        assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_weights_that_share_memory_in_the_file_are_apart_afterwards(tmp_path):
    folder = layouts.released_folder(tmp_path / "a")
    attention = torch.load(folder / "ip_adapter_ca.pt")
    attention["1.to_k_ip2.weight"] = attention["1.to_k_ip1.weight"]
    torch.save(attention, folder / "ip_adapter_ca.pt")
    adapter = Adapter.from_pretrained(folder)
    adapter.attention[0].to_k_ip1.weight.zero_()
    assert adapter.attention[0].to_k_ip2.weight.abs().sum() > 0
    adapter.save_pretrained(tmp_path / "b.safetensors")


@pytest.mark.parametrize("write", ["released", "native"])
def test_tensors_are_mapped_not_copied(tmp_path, write):
    path = layouts.released_folder(tmp_path / "a")
    if write == "native":
        Adapter.from_pretrained(path).save_pretrained(tmp_path / "b.safetensors")
        path = tmp_path / "b.safetensors"
    adapter = Adapter.from_pretrained(path)
    assert [name for name, tensor in adapter.state_dict().items() if not is_mapped(path, tensor)] == []


def test_training_in_mapped_weights_does_not_change_the_file(tmp_path):
    layouts.small_adapter().save_pretrained(tmp_path / "a.safetensors")
    before = (tmp_path / "a.safetensors").read_bytes()
    adapter = Adapter.from_pretrained(tmp_path / "a.safetensors")
    for p in adapter.parameters():
        p.add_(1)
    assert (tmp_path / "a.safetensors").read_bytes() == before


def test_a_file_can_be_saved_over_itself(tmp_path):
    path = tmp_path / "a.safetensors"
    layouts.small_adapter().save_pretrained(path)
    Adapter.from_pretrained(path).save_pretrained(path)
    assert_same(Adapter.from_pretrained(path), layouts.small_adapter())


def test_an_ip_adapter_that_fits_is_told_for_lists(tmp_path):
    assert ip_adapter.fits(layouts.ip_adapter_file(tmp_path / "a.safetensors"))
    assert ip_adapter.fits(layouts.ip_adapter_file(tmp_path / "a.bin"))
    assert not ip_adapter.fits(layouts.ip_adapter_file(tmp_path / "b.safetensors", context_width=768))
    assert not ip_adapter.fits(layouts.ip_adapter_file(tmp_path / "c.safetensors", clip_width=1664))
    assert not ip_adapter.fits(tmp_path / "none.safetensors")


# What cannot be written


def test_a_native_file_must_end_in_safetensors(tmp_path):
    with refused("wrong-file-ending", ".safetensors"):
        layouts.small_adapter().save_pretrained(tmp_path / "a.pt")


def test_the_released_layout_needs_a_subject_path(tmp_path):
    with refused("layout-cannot-hold-this", "IP-Adapter"):
        layouts.small_adapter(names=("",)).save_released(tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_the_released_layout_needs_a_folder(tmp_path):
    (tmp_path / "a").write_text("x")
    with refused("folder-needed"):
        layouts.small_adapter().save_released(tmp_path / "a")


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    for save in ("save_pretrained", "save_released"):
        with refused("file-not-written", "no space left on the disk: make room"):
            getattr(layouts.small_adapter(), save)(tmp_path / "a.safetensors")
    assert list(tmp_path.rglob("*.part")) == []


@pytest.mark.parametrize("save", ["save_pretrained", "save_released"])
def test_a_write_that_fails_midway_leaves_the_old_file(tmp_path, save):
    resource = pytest.importorskip("resource", reason="limits the size of files as a full disk would")
    path = tmp_path / "a.safetensors"
    adapter = layouts.small_adapter()
    getattr(adapter, save)(path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with refused("file-not-written", "disk", ": make room"):
            getattr(adapter, save)(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_four_files_are_all_replaced_or_none_is(tmp_path):
    """An old and a new adapter mixed have shapes that fit, and nobody would notice."""
    resource = pytest.importorskip("resource", reason="limits the size of files as a full disk would")
    folder = layouts.released_folder(tmp_path / "a")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    smallest = min(before, key=lambda path: len(before[path]))
    assert len(before[smallest]) < 100_000 < max(map(len, before.values()))
    adapter = layouts.small_adapter(seed=9)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(map(len, before.values())) - 1000, old[1]))
    try:
        with refused("file-not-written", "disk"):
            adapter.save_released(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_folder_that_may_not_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("x")
    with refused("file-not-written", "b.safetensors: "):
        layouts.small_adapter().save_pretrained(tmp_path / "file" / "b.safetensors")
