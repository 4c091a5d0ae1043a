"""What an adapter makes of references, and what it refuses."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from support import comfyui, layouts
from support.refused import refused

from dhumandiff import Adapter
from dhumandiff.errors import AdapterError, FaceReferenceError, HostError
from dhumandiff.formats.released import AS_RELEASED
from dhumandiff.references.recognizers import check_trained_with, recognizer_warnings

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def adapter():
    return layouts.small_adapter()


@pytest.fixture
def reference(adapter):
    return layouts.random_reference(adapter.info)


def test_every_size_is_read_from_the_tensors():
    info = layouts.small_adapter(layers=5, tokens=4, clip_width=48, text_width=24, names=("1", "2", "3")).info
    assert (info.layers, info.hidden) == (5, (64, 64, 128, 128, 128))
    assert (info.context_width, info.face_tokens, info.clip_width) == (96, 4, 48)
    assert (info.identity_width, info.token_width, info.text_width) == (512, 64, 24)
    assert (info.persons, info.shared, info.base_family) == (3, False, "sdxl")


def test_shapes_are_those_of_the_contract(adapter, reference):
    assert adapter.face_tokens(reference).shape == (1, 16, 96)
    assert adapter.unconditional_tokens(reference).shape == (1, 16, 96)
    assert adapter.identity_token(reference).shape == (1, 64)
    assert adapter.subject_token(torch.randn(1, 32), reference).shape == (1, 32)
    assert adapter.has_subject_path


def test_face_tokens_are_the_mean_over_the_photos(adapter):
    reference = layouts.random_reference(adapter.info, photos=3)
    each = [adapter.face_projection(hidden[None]) for hidden in reference.clip_hidden]
    torch.testing.assert_close(adapter.face_tokens(reference), torch.stack(each).mean(0), atol=1e-5, rtol=0)


def test_unconditional_tokens_come_from_the_picture_of_zeros(adapter, reference):
    expected = adapter.face_projection(reference.clip_hidden_zero)
    torch.testing.assert_close(adapter.unconditional_tokens(reference), expected, atol=0, rtol=0)


def test_the_identity_token_takes_the_spherical_mean_and_averages_over_hidden_states(adapter):
    reference = layouts.random_reference(adapter.info, photos=3)
    identity = F.normalize(reference.identity_swapped.sum(0, keepdim=True), dim=-1)
    each = [adapter.identity_projection(identity, hidden[None]) for hidden in reference.clip_hidden]
    torch.testing.assert_close(adapter.identity_token(reference), torch.stack(each).mean(0), atol=1e-5, rtol=0)


def test_the_colour_order_follows_the_adapter(adapter, reference):
    true_colors = Adapter.from_tensors(adapter.state_dict(), {**AS_RELEASED, "identity_channels": "bgr"})
    for used, identity in ((adapter, reference.identity_swapped), (true_colors, reference.identity)):
        expected = used.identity_projection(identity, reference.clip_hidden)
        torch.testing.assert_close(used.identity_token(reference), expected, atol=1e-5, rtol=0)


def test_an_identity_without_its_swapped_twin_is_taken_as_given(adapter, reference):
    plain = type(reference)(reference.identity, reference.clip_hidden, reference.clip_hidden_zero)
    expected = adapter.identity_projection(reference.identity, reference.clip_hidden)
    torch.testing.assert_close(adapter.identity_token(plain), expected, atol=1e-5, rtol=0)


def test_the_subject_token_maps_word_and_identity_together(adapter, reference):
    words = torch.randn(2, 32)
    token = adapter.identity_token(reference)
    expected = torch.cat([adapter.mapping(torch.cat([word[None], token], dim=1)) for word in words])
    torch.testing.assert_close(adapter.subject_token(words, reference), expected, atol=1e-5, rtol=0)


def test_keys_and_values_belong_to_layer_and_person(adapter):
    tokens = torch.randn(2, 2, 16, 96)
    weights = adapter.state_dict()
    for layer, width in enumerate(adapter.info.hidden):
        keys, values = adapter.keys_values(layer, tokens)
        assert keys.shape == values.shape == (2, 2, 16, width)
        for p in range(2):
            own = (
                weights[f"attention.{layer}.to_k_ip{p + 1}.weight"],
                weights[f"attention.{layer}.to_v_ip{p + 1}.weight"],
            )
            torch.testing.assert_close(keys[:, p], tokens[:, p] @ own[0].T, atol=1e-5, rtol=0)
            torch.testing.assert_close(values[:, p], tokens[:, p] @ own[1].T, atol=1e-5, rtol=0)


def test_one_person_uses_the_first_projections(adapter):
    tokens = torch.randn(1, 2, 16, 96)
    both, alone = adapter.keys_values(0, tokens), adapter.keys_values(0, tokens[:, :1])
    torch.testing.assert_close(alone[0], both[0][:, :1], atol=1e-6, rtol=0)


def test_shared_weights_serve_any_number_of_people():
    adapter = layouts.small_adapter(names=("",))
    assert (adapter.info.shared, adapter.info.persons, adapter.has_subject_path) == (True, 1, False)
    keys, _ = adapter.keys_values(0, torch.randn(1, 4, 16, 96))
    assert keys.shape == (1, 4, 16, 64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_take_float32_inputs_and_stay_close(adapter, reference, dtype):
    half = Adapter.from_tensors({n: t.to(dtype) for n, t in adapter.state_dict().items()}, AS_RELEASED)
    tolerance = {torch.float16: 0.02, torch.bfloat16: 0.15}[dtype]
    for name in ("face_tokens", "unconditional_tokens", "identity_token"):
        got = getattr(half, name)(reference)
        assert got.dtype == dtype
        torch.testing.assert_close(got.float(), getattr(adapter, name)(reference), atol=tolerance, rtol=0)
    tokens = torch.randn(1, 2, 16, 96)
    keys, values = half.keys_values(0, tokens)
    assert keys.dtype == values.dtype == torch.float32
    torch.testing.assert_close(keys, adapter.keys_values(0, tokens)[0], atol=tolerance, rtol=tolerance)


def test_half_precision_tokens_give_half_precision_keys(adapter):
    keys, values = adapter.keys_values(0, torch.randn(1, 2, 16, 96, dtype=torch.float16))
    assert keys.dtype == values.dtype == torch.float16


def test_weights_need_no_gradient_until_training_asks(adapter, reference):
    fresh = layouts.small_adapter()
    assert not fresh.training
    assert not any(p.requires_grad for p in fresh.parameters())
    assert not fresh.subject_token(torch.randn(1, 32), reference).requires_grad
    fresh.requires_grad_(True)
    tokens = torch.cat([fresh.face_tokens(reference), fresh.unconditional_tokens(reference)])[:, None].repeat(
        1, 2, 1, 1
    )
    loss = sum(x.square().mean() for k in range(fresh.info.layers) for x in fresh.keys_values(k, tokens))
    (loss + fresh.subject_token(torch.randn(1, 32), reference).square().mean()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in fresh.parameters())


def test_an_adapter_can_be_made_and_used_in_inference_mode(tmp_path):
    folder = layouts.released_folder(tmp_path / "a")
    with torch.inference_mode():
        adapter = Adapter.from_pretrained(folder)
        adapter.face_tokens(layouts.random_reference(adapter.info))


# What is refused


def test_another_vision_tower_is_named(adapter):
    for width, tower in ((1024, "CLIP ViT-L/14"), (1664, "CLIP ViT-bigG/14"), (72, "which one is unknown")):
        reference = layouts.random_reference(clip_width=width)
        for use in (adapter.face_tokens, adapter.unconditional_tokens, adapter.identity_token):
            with refused(
                "reference-of-another-encoder",
                f"width {width} ({tower})",
                "CLIP ViT-H/14",
                "width 80",
                error=FaceReferenceError,
            ):
                use(reference)


def test_another_recogniser_is_refused(adapter):
    reference = layouts.random_reference(adapter.info, identity_width=256)
    with refused(
        "identity-of-another-width", "'person 0'", "256", "512 (insightface buffalo_l", error=FaceReferenceError
    ):
        adapter.identity_token(reference)


def test_a_reference_without_identity_says_what_to_do(adapter, reference):
    faceless = type(reference)(None, reference.clip_hidden, reference.clip_hidden_zero, name="Ada")
    with refused("no-identity", "'Ada'", "face analysis", error=FaceReferenceError):
        adapter.subject_token(torch.randn(1, 32), faceless)
    assert adapter.face_tokens(faceless).shape == (1, 16, 96)


def test_a_reference_without_clip_says_what_to_do(adapter, reference):
    other = type(reference)(
        reference.identity, siglip_hidden=torch.zeros(len(reference.identity), 256, 768), name="Ada"
    )
    for use in (adapter.face_tokens, adapter.unconditional_tokens, adapter.identity_token):
        with refused(
            "reference-without-clip", "'Ada'", "clip_vision of Encode Reference Face", error=FaceReferenceError
        ):
            use(other)


def test_a_reference_of_another_recognizer_is_refused(reference):
    """By the file's hash, or by names of packs that are known to differ; a pack of another name may be a renamed one."""
    adapter = layouts.small_adapter()
    adapter.info = dataclasses.replace(adapter.info, recognizer="buffalo_l (sha256 aaaaaaaaaaaaaaaa)")
    ours = dataclasses.replace(reference, name="Ada", recognizer="mine/w600k_r50", recognizer_hash="a" * 16)
    token = adapter.identity_token(ours)
    assert torch.equal(adapter.identity_token(dataclasses.replace(ours, recognizer="", recognizer_hash="")), token)
    other = dataclasses.replace(ours, recognizer="antelopev2/glintr100", recognizer_hash="b" * 16)
    with refused(
        "reference-of-another-recognizer",
        "'Ada'",
        "antelopev2/glintr100 (sha256 bbbb",
        "buffalo_l",
        error=FaceReferenceError,
    ):
        adapter.identity_token(other)
    assert adapter.face_tokens(other).shape == (1, 16, 96)  # what CLIP saw needs no recognizer
    adapter.info = dataclasses.replace(adapter.info, recognizer="insightface buffalo_l")
    with refused("reference-of-another-recognizer", "insightface buffalo_l"):
        adapter.identity_token(other)
    renamed = dataclasses.replace(other, recognizer="mine/net")
    assert torch.equal(adapter.identity_token(renamed), token)
    (warning,) = recognizer_warnings([ours, renamed, reference], "insightface auraface")
    assert "'Ada' was encoded with the face recognizer mine/net" in warning
    assert "the pack `open`" in warning
    with refused("reference-of-another-recognizer", "w600k_r50", "auraface", "Load the pack `open`"):
        check_trained_with(ours, "insightface auraface")  # buffalo_l's is known to be another
    assert recognizer_warnings([reference], adapter.info.recognizer) == []


def test_references_need_only_look_like_references(adapter):
    hidden, zero = torch.randn(2, 1, 9, 80)
    duck = SimpleNamespace(clip_hidden=hidden, clip_hidden_zero=zero, identity=None, name="")
    assert adapter.face_tokens(duck).shape == (1, 16, 96)
    with refused("no-identity", "The reference has", error=FaceReferenceError):
        adapter.identity_token(duck)


def test_weights_without_a_subject_path_say_so(reference):
    adapter = layouts.small_adapter(names=("",))
    for use in (adapter.identity_token, lambda r: adapter.subject_token(torch.randn(1, 32), r)):
        with refused("no-subject-path", error=AdapterError):
            use(reference)


def test_a_word_embedding_of_another_text_encoder_is_refused(adapter, reference):
    with refused("word-embedding-of-another-shape", "[1, 1280]", "[1, 32]", error=HostError):
        adapter.subject_token(torch.randn(1, 1280), reference)


@pytest.mark.parametrize(
    ("layer", "shape", "code", "named"),
    [
        (0, (1, 3, 16, 96), "too-many-references", ["3 references", "1 to 2"]),
        (0, (1, 0, 16, 96), "too-many-references", ["0 references"]),
        (0, (1, 2, 16, 64), "face-tokens-of-another-shape", ["[1, 2, 16, 64]", "96]"]),
        (0, (1, 16, 96), "face-tokens-of-another-shape", ["[1, 16, 96]"]),
        (17, (1, 2, 16, 96), "no-such-layer", ["Layer 17", "0 to 16"]),
        (-1, (1, 2, 16, 96), "no-such-layer", ["Layer -1"]),
    ],
)
def test_tokens_that_do_not_fit_are_refused(adapter, layer, shape, code, named):
    with refused(code, *named, error=AdapterError):
        adapter.keys_values(layer, torch.randn(shape))


# On a host's layers


HOST = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[2], sys.argv[2] + "/tests"]
argv, sys.argv = sys.argv, sys.argv[:1]
import comfy.cli_args
comfy.cli_args.args.cpu = True
import comfy.ops, torch
from support import layouts
from pathlib import Path
from dhumandiff import Adapter

folder = layouts.released_folder(Path(argv[3]) / "a", dtype=torch.float16)
plain = Adapter.from_pretrained(folder).float()
with torch.inference_mode():
    adapter = Adapter.from_pretrained(folder, operations=comfy.ops.manual_cast)
    assert adapter.info == plain.info
    layer = adapter.face_projection.layers[0][0].to_q
    assert isinstance(layer, comfy.ops.manual_cast.Linear) and layer.weight.dtype == torch.float16
    assert not any(p.is_meta for p in adapter.parameters())
    adapter.compute_dtype = torch.float32
    reference = layouts.random_reference(adapter.info, photos=2)
    word = torch.randn(1, adapter.info.text_width)
    for name in ("face_tokens", "unconditional_tokens", "identity_token"):
        got = getattr(adapter, name)(reference)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, getattr(plain, name)(reference), atol=1e-5, rtol=0)
    torch.testing.assert_close(adapter.subject_token(word, reference), plain.subject_token(word, reference), atol=1e-5, rtol=0)
    tokens = torch.randn(2, 2, 16, adapter.info.context_width)
    for k in range(adapter.info.layers):
        for got, expected in zip(adapter.keys_values(k, tokens), plain.keys_values(k, tokens)):
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    adapter.save_pretrained(Path(argv[3]) / "b.safetensors")
again = Adapter.from_pretrained(Path(argv[3]) / "b.safetensors").state_dict()
assert all(torch.equal(t, again[n]) and t.dtype == again[n].dtype for n, t in adapter.state_dict().items())
print("fine")
"""


@pytest.mark.host
@pytest.mark.skipif(comfyui.why_not() is not None, reason=str(comfyui.why_not()))
def test_comfyuis_casting_layers_give_the_same_numbers(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", HOST, str(comfyui.COMFYUI), str(ROOT), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("fine\n"), done.stderr[-3000:]


# Of full size


FULL_SIZE = """
import re, sys
sys.path[:0] = [sys.argv[1]]
from pathlib import Path
import safetensors.torch, torch
from dhumandiff import Adapter
import dhumandiff.methods.paired.adapter

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

torch.randn(8, 2048).half() @ torch.randn(2048, 8).half()
before = peak()
adapter = Adapter.from_pretrained(sys.argv[2])
tokens = torch.randn(2, 2, 16, 2048, dtype=torch.float16)
for k, width in enumerate(adapter.info.hidden):
    keys, values = adapter.keys_values(k, tokens)
    assert keys.shape == (2, 2, 16, width)
assert adapter.info.layers == 70
if sys.argv[3].endswith(".safetensors"):
    adapter.save_pretrained(sys.argv[3])
else:
    adapter.save_released(sys.argv[3])
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("mapped", ["released", "native"])
def test_a_file_of_full_size_needs_little_more_memory_than_its_size(tmp_path, mapped):
    folder = layouts.released_folder(tmp_path / "full", **layouts.FULL, dtype=torch.float16, cheap=True)
    size = sum(path.stat().st_size for path in folder.iterdir())
    assert size > 1.6e9
    native, back = tmp_path / "full.safetensors", tmp_path / "back"
    steps = [(folder, native)] if mapped == "released" else [(folder, native), (native, back)]
    try:
        for source, destination in steps:
            done = subprocess.run(
                [sys.executable, "-c", FULL_SIZE, str(ROOT), str(source), str(destination)],
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr[-3000:]
            extra = int(done.stdout)
            print(f"{source.name} -> {destination.name}: {extra / size:.2f} x the file's size")
            assert extra < 1.2 * size
    finally:
        for path in (*folder.glob("*"), *back.glob("*"), native):
            path.unlink(missing_ok=True)
