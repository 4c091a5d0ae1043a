"""Projections against straightforward references, written from the method's formulas with einsum and no modules."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from support import layouts
from support.refused import refused

from dhumandiff.methods.paired.projections import FaceProjection, IdentityProjection, PairedKeysValues, SubjectMapping

SMALL = {"hidden": (64, 128)}
FULL = {**layouts.FULL, "hidden": (640, 1280)}  # real projections, two of the 70 layers
SIZES = [pytest.param(SMALL, 9, id="small"), pytest.param(FULL, 257, id="full")]


def norm(x, w, name):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x, w, name):
    out = torch.einsum("...i,oi->...o", x, w[f"{name}.weight"])
    return out + w[f"{name}.bias"] if f"{name}.bias" in w else out


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def perceive(hidden, latents, w):
    hidden = linear(hidden, w, "proj_in")
    depth = len({name.split(".")[1] for name in w if name.startswith("layers.")})
    for i in range(depth):
        x, at = norm(hidden, w, f"layers.{i}.0.norm1"), norm(latents, w, f"layers.{i}.0.norm2")
        q = linear(at, w, f"layers.{i}.0.to_q")
        both = linear(torch.cat([x, at], dim=1), w, f"layers.{i}.0.to_kv")
        k, v = both[..., : q.shape[-1]], both[..., q.shape[-1] :]
        heads = []
        for start in range(0, q.shape[-1], 64):
            part = slice(start, start + 64)
            scores = torch.einsum("btd,bnd->btn", q[..., part], k[..., part]) / 8
            heads.append(torch.einsum("btn,bnd->btd", torch.softmax(scores.float(), dim=-1), v[..., part]))
        latents = latents + linear(torch.cat(heads, dim=-1), w, f"layers.{i}.0.to_out")
        inner = gelu(linear(norm(latents, w, f"layers.{i}.1.0"), w, f"layers.{i}.1.1"))
        latents = latents + linear(inner, w, f"layers.{i}.1.3")
    return norm(linear(latents, w, "proj_out"), w, "norm_out")


def loaded(kind, weights):
    module = kind.from_shapes({name: tensor.shape for name, tensor in weights.items()})
    module.load_state_dict(weights, strict=True)
    return module.eval().requires_grad_(False)


@pytest.mark.parametrize(("sizes", "clip_tokens"), SIZES)
def test_face_projection_equals_the_formulas(sizes, clip_tokens):
    w = layouts.tensors(**sizes)["face_projection"]
    hidden = torch.randn(2, clip_tokens, w["proj_in.weight"].shape[1], generator=torch.Generator().manual_seed(1))
    got = loaded(FaceProjection, w)(hidden)
    assert got.shape == (2, 16, w["proj_out.weight"].shape[0])
    torch.testing.assert_close(got, perceive(hidden, w["latents"].repeat(2, 1, 1), w), atol=1e-5, rtol=0)


@pytest.mark.parametrize(("sizes", "clip_tokens"), SIZES)
def test_identity_projection_equals_the_formulas(sizes, clip_tokens):
    w = layouts.tensors(**sizes)["identity_projection"]
    inside = {name.removeprefix("perceiver_resampler."): t for name, t in w.items() if name.startswith("perceiver")}
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(2, clip_tokens, inside["proj_in.weight"].shape[1], generator=generator)
    identity = F.normalize(torch.randn(2, 512, generator=generator), dim=-1)
    latent = norm(linear(gelu(linear(identity, w, "proj.0")), w, "proj.2"), w, "norm")
    expected = perceive(hidden, latent[:, None], inside)[:, 0]
    got = loaded(IdentityProjection, w)(identity, hidden)
    assert got.shape == (2, w["norm.weight"].shape[0])
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sizes", [SMALL, FULL], ids=["small", "full"])
def test_subject_mapping_equals_the_formulas(sizes):
    w = layouts.tensors(**{**sizes, "depth": 1})["mapping"]
    words = torch.randn(3, w["fc1.weight"].shape[1], generator=torch.Generator().manual_seed(3))
    expected = linear(gelu(linear(norm(words, w, "layernorm"), w, "fc1")), w, "fc2")
    torch.testing.assert_close(loaded(SubjectMapping, w)(words), expected, atol=1e-5, rtol=0)


def test_each_person_has_keys_and_values_of_their_own():
    w = {f"to_{x}_ip{p}.weight": torch.randn(64, 96) for x in "kv" for p in (1, 2, 3)}
    tokens = torch.randn(2, 3, 16, 96)
    keys, values = loaded(PairedKeysValues, w)(tokens)
    for p in range(3):
        torch.testing.assert_close(keys[:, p], tokens[:, p] @ w[f"to_k_ip{p + 1}.weight"].T, atol=1e-5, rtol=0)
        torch.testing.assert_close(values[:, p], tokens[:, p] @ w[f"to_v_ip{p + 1}.weight"].T, atol=1e-5, rtol=0)


def test_one_projection_serves_everybody_when_the_weights_are_shared():
    w = {"to_k_ip.weight": torch.randn(64, 96), "to_v_ip.weight": torch.randn(64, 96)}
    tokens = torch.randn(1, 5, 16, 96)
    keys, values = loaded(PairedKeysValues, w)(tokens)
    torch.testing.assert_close(keys, tokens @ w["to_k_ip.weight"].T, atol=1e-5, rtol=0)
    torch.testing.assert_close(values, tokens @ w["to_v_ip.weight"].T, atol=1e-5, rtol=0)


def test_parameter_names_are_frozen_as_released():
    parts = layouts.tensors(**FULL, cheap=True)
    shapes = {part: {name: t.shape for name, t in content.items()} for part, content in parts.items()}
    with torch.device("meta"):
        face = FaceProjection.from_shapes(shapes["face_projection"])
        identity = IdentityProjection.from_shapes(shapes["identity_projection"])
        mapping = SubjectMapping.from_shapes(shapes["mapping"])
    for part, module in (("face_projection", face), ("identity_projection", identity), ("mapping", mapping)):
        assert {name: t.shape for name, t in module.state_dict().items()} == shapes[part]
    counted = [sum(p.numel() for p in module.parameters()) / 1e6 for module in (face, identity, mapping)]
    assert [round(count, 1) for count in counted] == [83.0, 54.3, 2.6]  # the sizes the authors published


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_close_to_float32(dtype):
    w = layouts.tensors(**SMALL)["face_projection"]
    hidden = torch.randn(1, 9, 80, generator=torch.Generator().manual_seed(4))
    exact, rough = loaded(FaceProjection, w), loaded(FaceProjection, w).to(dtype)
    tolerance = {torch.float16: 0.02, torch.bfloat16: 0.15}[dtype]
    got = rough(hidden.to(dtype))
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), exact(hidden), atol=tolerance, rtol=0)


def test_large_activations_do_not_overflow_the_softmax_in_float16():
    w = {name: t.half() for name, t in layouts.tensors(**SMALL)["face_projection"].items()}
    for i in range(4):
        w[f"layers.{i}.0.to_q.weight"] *= 30
    module = loaded(FaceProjection, w).half()
    got = module(torch.randn(1, 9, 80, dtype=torch.float16) * 100)
    assert torch.isfinite(got).all()


def test_a_head_width_other_than_64_is_refused():
    w = layouts.tensors(**SMALL, face_width=96)["face_projection"]
    with refused("heads-of-another-width", "96", "64"):
        loaded(FaceProjection, w)


def test_a_missing_tensor_is_named():
    w = layouts.tensors(**SMALL)["mapping"]
    del w["fc1.weight"]
    with refused("tensor-missing", "'fc1.weight'"):
        loaded(SubjectMapping, w)


def test_a_tensor_of_another_rank_is_named():
    w = layouts.tensors(**SMALL)["face_projection"]
    w["latents"] = w["latents"][0]
    with refused("tensor-of-another-shape", "'latents'", "[16, 128]", "3 dimensions"):
        loaded(FaceProjection, w)


def test_an_identity_projection_of_several_tokens_is_refused():
    w = layouts.tensors(**SMALL)["identity_projection"]
    w["proj.2.weight"], w["proj.2.bias"] = torch.randn(128, 1024), torch.randn(128)
    with refused("latent-of-another-width", "128", "64"):
        loaded(IdentityProjection, w)


@pytest.mark.parametrize(
    ("names", "found"),
    [(("2",), "to_k_ip2"), (("1", "3"), "to_k_ip1, to_k_ip3"), (("", "1"), "to_k_ip, to_k_ip1"), ((), "neither")],
)
def test_persons_must_be_numbered_from_one(names, found):
    shapes = {f"to_{x}_ip{n}.weight": (64, 96) for x in "kv" for n in names}
    with refused("keys-and-values-of-another-method", f"it has {found}"):
        PairedKeysValues.from_shapes(shapes)
