"""Files of WithAnyone: what is read, what is passed over, and what is refused by name."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from support import layouts, withanyone_files
from support.comfyui import REPOSITORY
from support.mapped import is_mapped
from support.refused import refused
from support.withanyone_files import FULL, branch_file, full_file, withanyone_file

from dhumandiff import formats
from dhumandiff.formats import withanyone as file_format
from dhumandiff.formats.values import check_weights
from dhumandiff.methods.withanyone import WithAnyone


def same(adapter: WithAnyone, tensors: dict[str, torch.Tensor]) -> None:
    state = adapter.state_dict()
    assert set(state) == set(tensors)
    assert all(torch.equal(state[name], tensor) for name, tensor in tensors.items())


def test_the_merged_file_is_read_to_the_bit(tmp_path):
    adapter = WithAnyone.from_pretrained(withanyone_file(tmp_path / "withanyone.safetensors"))
    same(adapter, withanyone_files.tensors())
    info = adapter.info
    assert (info.width, info.blocks, info.heads, info.embedding_width, info.siglip_width) == (32, 5, 2, 512, 768)
    assert (info.kind, info.arc, info.sig, info.ignored) == ("withanyone", True, True, ())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_file_may_be_stored_in_any_precision_and_asked_for_in_another(tmp_path, dtype):
    file = withanyone_file(tmp_path / "withanyone.safetensors", dtype=dtype)
    stored = load_file(file)
    same(WithAnyone.from_pretrained(file), stored)
    for wanted in (torch.float32, torch.float16, torch.bfloat16):
        same(WithAnyone.from_pretrained(file, dtype=wanted), {name: t.to(wanted) for name, t in stored.items()})


def test_mixed_precisions_become_that_of_most_numbers(tmp_path):
    tensors = withanyone_files.tensors()
    half = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in tensors.items()}
    save_file(half, tmp_path / "mixed.safetensors")
    adapter = WithAnyone.from_pretrained(tmp_path / "mixed.safetensors")
    same(adapter, {name: tensor.half() for name, tensor in tensors.items()})
    assert adapter.arc_tokens(torch.randn(1, 512)).dtype == torch.float16


def test_pieces_make_up_the_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(file_format, "PIECE", 100)
    file = withanyone_file(tmp_path / "withanyone.safetensors", blocks=1)
    wanted = {name: t.bfloat16() for name, t in withanyone_files.tensors(blocks=1).items()}
    same(WithAnyone.from_pretrained(file, dtype=torch.bfloat16), wanted)


@pytest.mark.parametrize(
    ("name", "branch", "unused", "kind"),
    [
        ("arc.safetensors", "arc", False, "arc"),
        ("arc.safetensors", "arc", True, "arc"),
        ("sig.safetensors", "sig", False, "sig"),
        ("WithAnyone.K.preview.safetensors", "arc", True, "kontext"),
        ("withanyone_ke.safetensors", "arc", False, "kontext"),
        ("kontext-edit.safetensors", "arc", False, "kontext"),
        ("withanyone_kept.safetensors", "arc", False, "arc"),
    ],
)
def test_a_branch_without_suffix_is_known_by_its_tensors(tmp_path, name, branch, unused, kind):
    adapter = WithAnyone.from_pretrained(branch_file(tmp_path / name, branch, unused=unused))
    same(adapter, withanyone_files.tensors(branches=(branch,)))
    assert (adapter.info.kind, adapter.info.arc, adapter.info.sig) == (kind, branch == "arc", branch == "sig")


def test_what_lies_beside_is_passed_over_and_said(tmp_path, caplog):
    file = withanyone_file(tmp_path / "withanyone.safetensors", flux=True, unused=True)
    with caplog.at_level(logging.INFO):
        adapter = WithAnyone.from_pretrained(file)
    same(adapter, withanyone_files.tensors())
    said = " ".join(adapter.info.ignored)
    assert "siglip_in" in said
    assert "double_blocks" in said
    assert all(words in caplog.text for words in adapter.info.ignored)


def test_quantized_tensors_of_flux_beside_do_no_harm(tmp_path):
    tensors = withanyone_files.tensors(blocks=1) | {"img_in.weight": torch.zeros(4, 4).to(torch.float8_e4m3fn)}
    save_file(tensors, tmp_path / "fp8.safetensors")
    same(WithAnyone.from_pretrained(tmp_path / "fp8.safetensors"), withanyone_files.tensors(blocks=1))


def test_a_torch_file_is_read_as_well(tmp_path):
    tensors = withanyone_files.tensors(blocks=2)
    torch.save(tensors, tmp_path / "withanyone.bin")
    same(WithAnyone.from_pretrained(tmp_path / "withanyone.bin"), tensors)
    half = {name: tensor.half() for name, tensor in tensors.items()}
    same(WithAnyone.from_pretrained(tmp_path / "withanyone.bin", dtype=torch.float16), half)


def test_what_is_stored_as_wanted_stays_mapped(tmp_path):
    file = withanyone_file(tmp_path / "withanyone.safetensors")
    tensors = file_format.as_dtype(file_format.load(file), torch.float32)
    assert all(is_mapped(file, tensor) for tensor in tensors.values())
    assert not any(is_mapped(file, t) for t in file_format.as_dtype(file_format.load(file), torch.bfloat16).values())


CHANGED = [
    ("tensor-missing", {"ipa_sig.2.to_out.weight": None}, "ipa_sig.2.to_out.weight"),
    ("tensor-missing", {"arcface_in_sig.3.bias": None}, "arcface_in_sig.3.bias"),
    ("tensor-missing", {"ipa_arc.0.to_q.weight": None}, "ipa_arc.0.to_q.weight"),
    ("tensor-missing", {"siglip_in_sig.0.weight": None}, "siglip_in_sig.0.weight"),
    ("tensor-of-another-shape", {"ipa_arc.1.to_kv.weight": torch.zeros(128, 32)}, "[128, 32]"),
    ("tensor-of-another-shape", {"arcface_in_arc.0.weight": torch.zeros(128)}, "[128]"),
    ("tensor-of-another-shape", {"ipa_arc.0.to_q.weight": torch.zeros(128, 48)}, "arcface_in_arc.0.weight"),
    ("heads-of-another-width", {"ipa_arc.0.to_q.weight": torch.zeros(100, 32)}, "100"),
    ("tensor-unknown", {"ipa_arc.0.to_gate.weight": torch.zeros(2, 2)}, "ipa_arc.0.to_gate.weight"),
    ("withanyone-mixed", {"ipa.0.to_q.weight": torch.zeros(128, 32)}, "_arc."),
    ("tensor-without-values", {"ipa_arc.0.norm1.bias": torch.zeros(0)}, "ipa_arc.0.norm1.bias"),
]


@pytest.mark.parametrize(("code", "changed", "named"), CHANGED)
def test_a_damaged_file_names_the_tensor(tmp_path, code, changed, named):
    file = withanyone_file(tmp_path / "odd.safetensors", changed=changed)
    with refused(code, "odd.safetensors", named):
        WithAnyone.from_pretrained(file)


def test_missing_blocks_are_named(tmp_path):
    lost = {name: None for name in withanyone_files.shapes() if name.startswith("ipa_sig.3.")}
    with refused("withanyone-blocks-missing", "odd.safetensors", "ipa_sig", "3"):
        WithAnyone.from_pretrained(withanyone_file(tmp_path / "odd.safetensors", changed=lost))


FULL_WIDTH = """
import re, sys
sys.path[:0] = [sys.argv[1]]
from pathlib import Path
import safetensors.torch, torch
from dhumandiff.methods.withanyone import WithAnyone

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

before = peak()
adapter = WithAnyone.from_pretrained(sys.argv[2], dtype=getattr(torch, sys.argv[3]))
print(peak() - before, sum(t.numel() * t.element_size() for t in adapter.state_dict().values()))
"""


REDUCED = {"width": 1280, "inner": 640, "blocks": 57}
needs_room = pytest.mark.skipif(
    not os.environ.get("DHUMANDIFF_TEST_FULL_SIZE"),
    reason="set DHUMANDIFF_TEST_FULL_SIZE to any value; needs 13 GB of disk and 8 GB of memory",
)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("sizes", [REDUCED, pytest.param(FULL, marks=needs_room)], ids=["reduced", "full"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_loading_needs_hardly_more_memory_than_what_stays(tmp_path, dtype, sizes):
    file = full_file(tmp_path / "withanyone.safetensors", torch.float32, flux=True, unused=True, **sizes)
    try:
        command = [sys.executable, "-c", FULL_WIDTH, str(REPOSITORY), str(file), dtype]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        file.unlink()
    assert done.returncode == 0, done.stderr[-3000:]
    extra, stays = map(int, done.stdout.split())
    print(f"as {dtype}: {extra / stays:.3f} x what stays ({stays / 1e9:.2f} GB)")
    assert extra < 1.1 * stays


def test_a_branch_that_cannot_be_told_is_refused(tmp_path):
    for changed in (
        {"siglip_in.0.weight": torch.zeros(48, 768)},
        {"siglip_in.0.weight": None},
        {"ipa.0.norm1.weight": None},
    ):
        tensors = load_file(branch_file(tmp_path / "sig.safetensors", "sig")) | changed
        save_file({name: t for name, t in tensors.items() if t is not None}, tmp_path / "odd.safetensors")
        with refused("withanyone-branch-unclear", "odd.safetensors", "siglip_in.0.weight"):
            WithAnyone.from_pretrained(tmp_path / "odd.safetensors")


def test_a_block_of_a_number_beyond_all_is_refused_at_once(tmp_path):
    name = "ipa_arc.4.to_q.weight"
    far = {"ipa_arc.99999999999.to_q.weight": torch.zeros(128, 32), name: None}
    lost = {other: None for other in withanyone_files.shapes() if other.startswith("ipa_arc.4.")}
    with refused("withanyone-blocks-missing", "ipa_arc", "4"):
        WithAnyone.from_pretrained(withanyone_file(tmp_path / "odd.safetensors", changed=lost | far))


def flux(path: Path, prefix: str = "") -> Path:
    save_file({f"{prefix}double_blocks.0.img_attn.qkv.weight": torch.zeros(6, 2)}, path)
    return path


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (flux, "FLUX model without WithAnyone"),
        (lambda path: flux(path, "model.diffusion_model."), "FLUX model without WithAnyone"),
        (layouts.ip_adapter_file, "IP-Adapter Plus"),
        (lambda path: layouts.small_adapter().save_pretrained(path) or path, "Load DHumanDiff Adapter"),
        (lambda path: save_file({"lora_unet_x.lora_up.weight": torch.zeros(1)}, path) or path, "a LoRA"),
    ],
)
def test_another_file_is_named(tmp_path, make, words):
    file = make(tmp_path / "other.safetensors")
    with refused("no-withanyone-file", "other.safetensors", words, "withanyone.safetensors"):
        WithAnyone.from_pretrained(file)


def test_a_cut_file_says_how_much_is_there(tmp_path):
    file = withanyone_file(tmp_path / "withanyone.safetensors")
    file.write_bytes(file.read_bytes()[:-1000])
    with refused("file-cut-off", "withanyone.safetensors"):
        WithAnyone.from_pretrained(file)


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with refused("withanyone-file-missing", "nowhere.safetensors"):
        WithAnyone.from_pretrained(tmp_path / "nowhere.safetensors")
    with refused("withanyone-folder", str(tmp_path)):
        WithAnyone.from_pretrained(tmp_path)


def test_quantized_weights_are_refused(tmp_path):
    changed = {"ipa_arc.0.to_q.weight": torch.zeros(128, 32)}
    tensors = withanyone_files.tensors() | {name: t.to(torch.float8_e4m3fn) for name, t in changed.items()}
    save_file(tensors, tmp_path / "fp8.safetensors")
    with refused("quantized-weights", "fp8.safetensors", "ipa_arc.0.to_q.weight"):
        WithAnyone.from_pretrained(tmp_path / "fp8.safetensors")


def test_another_dtype_is_refused(tmp_path):
    file = withanyone_file(tmp_path / "withanyone.safetensors")
    with refused("withanyone-dtype", "int8"):
        WithAnyone.from_pretrained(file, dtype=torch.int8)


def test_values_that_are_none_or_too_large_are_refused(tmp_path):
    large = withanyone_file(tmp_path / "a.safetensors", changed={"ipa_arc.1.to_q.weight": torch.full((128, 32), 1e5)})
    with refused("withanyone-not-finite", "ipa_arc.1.to_q.weight", "float16"):
        WithAnyone.from_pretrained(large, dtype=torch.float16)
    nan = torch.full((32,), float("nan"))
    mapped = WithAnyone.from_pretrained(
        withanyone_file(tmp_path / "b.safetensors", changed={"ipa_sig.0.norm1.bias": nan})
    )
    with refused("adapter-not-finite", "b.safetensors", "ipa_sig.0.norm1.bias"):
        check_weights(mapped)


def test_dhumandiff_s_loader_names_it(tmp_path):
    for file in (
        withanyone_file(tmp_path / "withanyone.safetensors", flux=True),
        branch_file(tmp_path / "arc.safetensors", "arc"),
    ):
        with refused("no-adapter-file", str(file), "WithAnyone", "Load WithAnyone Adapter"):
            formats.load(file)
