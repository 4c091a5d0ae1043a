"""Odd values for the inputs of every node, drawn from a seed: each is taken, or refused by an error of the project.

What other nodes can hand on: numbers and texts of any kind, pictures, masks and latents of any shape. Other objects in the place
of a MODEL or CLIP are not tried: the page links what has the same type.

    DHUMANDIFF_FUZZ=5000 python -m pytest -m slow tests/host/test_node_fuzz.py         more of it
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from types import SimpleNamespace

import folder_paths
import pytest
import torch
from dhd_pack import nodes
from dhd_pack.nodes.comfy.parts_models import load_parts2whole
from support import tiny_comfy, tiny_flux, tiny_parts, tiny_withanyone
from support.layouts import random_reference

pytestmark = pytest.mark.slow

EACH = int(os.environ.get("DHUMANDIFF_FUZZ", "960")) // 16
"""Runs of each node."""

NUMBERS = (
    0,
    -1,
    1,
    2,
    0.5,
    -0.001,
    1e30,
    10**30,
    float("nan"),
    float("inf"),
    -float("inf"),
    True,
    None,
    "",
    "7",
    "x",
    [],
    [1],
)
TEXTS = (
    "", " ", "\0", "a man", "a man@1 and a woman@2", "@1@2", "man@2 woman@9", "\ud800", "x" * 5000, "(" * 300, "embedding:x@1",
    "男人@一，女人@二", "a man@1\u2028a woman@2", "%s{}{0}[[<b>", "../../x", "/etc/passwd", "C:\\x", "~nobody/x", None, 7, 1.5, [], {},
)  # fmt: skip
SHAPES = (
    (), (0,), (3,), (8, 8), (1, 8, 8), (2, 8, 8), (3, 8, 8), (1, 1, 1), (0, 8, 8), (1, 0, 0), (1, 8, 3), (1, 8, 8, 1), (1, 8, 8, 3),
    (1, 8, 8, 4), (2, 8, 8, 3), (0, 8, 8, 3), (1, 0, 8, 3), (1, 1, 1, 3), (1, 8, 8, 0), (1, 8, 8, 2), (1, 4, 8, 8), (1, 4, 7, 9),
    (2, 4, 8, 8), (1, 16, 8, 8), (1, 4, 0, 8), (0, 4, 8, 8), (1, 4, 2, 8, 8), (1, 300, 2, 3), (5, 2, 300),
)  # fmt: skip
DTYPES = (
    torch.float32,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.uint8,
    torch.int64,
    torch.bool,
)


def tensor(chance):
    shape, dtype = chance.choice(SHAPES), chance.choice(DTYPES)
    made = torch.rand(shape, generator=torch.Generator().manual_seed(chance.randrange(999)))
    change = chance.choice(("", "", "", "nan", "inf", "large", "negative", "flat"))
    if change in ("nan", "inf"):
        made = torch.where(made > 0.8, float(change), made)
    made = {"large": made * 255, "negative": made - 0.5, "flat": made * 0 + 0.5}.get(change, made)
    return made.to(dtype)


def latent(chance):
    good = {"samples": torch.zeros(1, 4, 8, 8)}
    return chance.choice(
        (
            {"samples": tensor(chance)},
            {"samples": tensor(chance)},
            {**good, "noise_mask": tensor(chance)},
            {**good, "batch_index": chance.choice(([], [0, 1, 2], None, ["x"]))},
            {},
            {"samples": None},
        )
    )


def odd(kind, options, chance):
    """A value for an input of this type; what is none of our business is left out by None."""
    if kind in ("IMAGE", "MASK"):
        return tensor(chance)
    if kind == "LATENT":
        return latent(chance)
    if kind in ("INT", "FLOAT"):
        return chance.choice(NUMBERS)
    if kind == "BOOLEAN":
        return chance.choice((True, False, None, "yes", 2))
    if kind == "COMBO":
        return chance.choice((*TEXTS, *options, "__proto__", "constructor", "toString"))
    if kind == "STRING":
        return chance.choice(TEXTS)
    if kind == "DHD_REFERENCE":
        return chance.choice(
            (
                tiny_comfy.reference(5),
                tiny_comfy.reference(6, photos=3),
                random_reference(clip_width=7, identity_width=5),
            )
        )
    return None


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Nothing is saved among the real models."""
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "dhumandiff", ([str(tmp_path)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """MODEL and weights of a tiny Parts2Whole."""
    with pytest.MonkeyPatch.context() as patch:
        tiny_parts.know_tiny_sd15(patch)
        return load_parts2whole(tiny_parts.released(tmp_path_factory.mktemp("models") / "Parts2Whole"))


def of_other_methods(parts):
    people = {f"reference_{k}": tiny_withanyone.person(k) for k in (1, 2, 3, 4)}
    masks = {f"mask_{k}": torch.ones(1, 8, 8) for k in (1, 2, 3, 4)}
    model, weights = parts
    sources = {"clip": tiny_parts.Clip(), "vae": tiny_parts.Vae(), "clip_vision": tiny_parts.Vision()}
    encode = {
        "weights": weights,
        "image": torch.rand(1, 60, 50, 3),
        "part": "face",
        **sources,
        "width": 64,
        "height": 64,
        "person": 1,
    }
    made = nodes.DHDEncodePart.execute(**encode, strength=1.0).result[0]
    return {
        "DHDApplyWithAnyone": {
            "model": tiny_flux.model_patcher(), "withanyone": tiny_withanyone.adapter(), **people, "form": 0.5, "strength": 1.0,
            "boxes": tiny_withanyone.bounding_boxes(tiny_withanyone.BOXES["disjoint"]), "start": 0.0, "end": 1.0, **masks,
        },
        "DHDEncodePart": {**encode, "strength": 1.0, "mask": torch.ones(1, 60, 50), "parts": made},
        "DHDApplyParts": {
            "model": model, "weights": weights, "parts": made, "image_strength": 1.0, "masked": "left out", "start": 0.0, "end": 1.0,
            "pose": torch.rand(1, 64, 64, 3), "mask_1": torch.ones(1, 64, 64), "mask_2": torch.ones(1, 64, 64),
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def good(parts):
    """Inputs that each node takes, by its id."""
    made = SimpleNamespace(
        **dict(zip(("model", "clip", "vae", "vision", "faces", "adapter"), miniature(), strict=True))
    )
    photo = nodes.DHDDrawPerson.execute(0, "woman", 1, 128).result[0]
    person, _, _ = nodes.DHDEncodeReference.execute(photo, made.vision, made.faces, "largest", 0, False, "a").result
    pair = {"reference_1": person, "reference_2": person}
    paired = nodes.DHDApplyPair.execute(
        made.model, made.adapter, **pair, strength=1.0, strength_1=1.0, strength_2=1.0, start=0.0, end=1.0
    )
    said = nodes.DHDSubjectPrompt.execute(
        made.clip, made.adapter, person, "a woman@1 and a woman@2", "first", person
    ).result[0]
    cascade = {"scene_strength": 0.4, "face_strength": 1.0, "focus_share": 0.1, "mode": "one_pass"}
    scored = {"image": photo, "face_analysis": made.faces, **pair, "text": ""}
    conditions = {"model": paired.result[0], "positive": said, "negative": said, "cfg": 2.0}
    return {
        "DHDEncodeReference": {
            "image": photo, "clip_vision": made.vision, "face_analysis": made.faces, "which": "largest", "index": 0,
            "normalise_light": False, "name": "",
        },
        "DHDSaveReference": {"reference": person, "file_name": "fuzz", "overwrite": True},
        "DHDLoadReference": {"file_name": "none"},
        "DHDLoadAdapter": {"adapter_name": "none"},
        "DHDLoadFaceAnalysis": {"pack": "none", "provider": "CPU", "download": False},
        "DHDSwapPersons": {**pair, "swap": False},
        "DHDPortraitLayout": {"preset": "custom", "in_front": "as preset", "width": 64, "height": 64, "feather": 0.05,
                              "boxes": "0 0 0.5 1; 0.5 0 1 1", "latent": {"samples": torch.zeros(1, 4, 8, 8)}, "background": photo},
        "DHDApplyPair": {"model": made.model, "adapter": made.adapter, **pair, "strength": 1.0, "strength_1": 1.0, "strength_2": 1.0,
                         "start": 0.0, "end": 1.0, "mask_1": torch.ones(1, 8, 8), "mask_2": torch.ones(1, 8, 8), "cascade": "one_pass",
                         "scene_strength": 0.5, "focus_share": 0.1, "focus": torch.ones(1, 8, 8), "during": "start and end"},
        "DHDApplyDualPathway": {"model": made.model, "adapter": made.adapter, **pair, "preset": "none", "regions": "given",
                                "identity_strength": 1.0, "text_strength": 0.4, "feather": 16.0, "face_share": 0.1, "hard_routes": False,
                                "start": 0.0, "end": 1.0, "require_trained": False, "mask_1": torch.ones(1, 8, 8),
                                "mask_2": torch.ones(1, 8, 8), "strength_1": 1.0, "strength_2": 1.0},
        "DHDSubjectPrompt": {"clip": made.clip, "adapter": made.adapter, **pair, "text": "a man@1 and a woman@2", "mentions": "first"},
        "DHDSentences": {"text": "a man", "before": "", "after": ""},
        "DHDCascadeGuider": {**conditions, **cascade, "focus": torch.ones(1, 8, 8)},
        "DHDCascadeKSampler": {**conditions, **cascade, "seed": 0, "steps": 1, "sampler_name": "euler", "scheduler": "normal",
                               "latent_image": {"samples": torch.zeros(1, 4, 8, 8)}, "denoise": 1.0, "focus": torch.ones(1, 8, 8)},
        "DHDIdentityScore": {**scored, "least_similarity": 0.3, "least_margin": 0.0, "mask_1": torch.ones(1, 8, 8),
                             "mask_2": torch.ones(1, 8, 8)},
        "DHDPickBest": scored,
        "DHDFaceMasks": {**scored, "grow": 0.3, "feather": 0.1},
        "DHDLoadMiniature": {},
        **of_other_methods(parts),
        "DHDDrawPerson": {"person": 0, "gender": "any", "view": 0, "size": 128},
    }  # fmt: skip


def plain(inputs):
    """What a node takes that has lists, numbers and texts alone."""
    values = {"COMBO": "none", "INT": 1, "FLOAT": 1.0, "STRING": "", "BOOLEAN": False}
    foreign = [name for name, each in inputs.items() if each.get_io_type() not in values]
    assert not foreign, f"the fixture `good` has to say what {', '.join(foreign)} are"
    return {name: values[each.get_io_type()] for name, each in inputs.items()}


def miniature():
    return nodes.DHDLoadMiniature.execute().result


FUZZED = [node for node in nodes.NODES if node.__name__ not in ("DHDDoctor", "DHDLoadMiniature")]


@pytest.mark.parametrize("node", FUZZED, ids=lambda node: node.__name__)
def test_odd_inputs_are_taken_or_refused(node, good, models):
    inputs, outcomes = {each.id: each for each in node.define_schema().inputs}, Counter()
    given = good.get(node.__name__) or plain(inputs)
    assert given.keys() <= inputs.keys()
    for number in range(EACH):
        chance = random.Random(f"{node.__name__} {number}")
        changed = {}
        for name in chance.sample(sorted(given), k=min(len(given), chance.choice((1, 1, 1, 2, 3)))):
            kind, options = inputs[name].get_io_type(), getattr(inputs[name], "options", None) or ()
            value = odd(kind, [each for each in options if isinstance(each, str)], chance)
            if value is not None or kind in ("INT", "FLOAT", "BOOLEAN", "COMBO", "STRING"):
                changed[name] = value
        began = time.monotonic()
        told = {name: tuple(v.shape) if isinstance(v, torch.Tensor) else str(v)[:60] for name, v in changed.items()}
        try:
            node.execute(**{**given, **changed})
        except Exception as error:
            # Of the pack, or of the copy that the tests import.
            if any(kind.__name__ == "DHumanDiffError" for kind in type(error).__mro__):
                outcomes["refused"] += 1
                continue
            raise AssertionError(f"mutation {number}, {told}: {type(error).__name__} instead of a refusal") from error
        else:
            outcomes["taken"] += 1
        assert time.monotonic() - began < 10, f"mutation {number}, {told}: it took too long"
    print(node.__name__, dict(outcomes))
