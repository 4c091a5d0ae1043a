"""One to four people in ComfyUI: predictions of the formula with masks, sentences, and what is connected wrongly."""

import comfy.ops
import dhd_pack.dhumandiff.testing as tiny
import pytest
import torch
from dhd_pack.dhumandiff.layout.layout import layout_masks
from dhd_pack.dhumandiff.layout.presets import preset_boxes
from dhd_pack.nodes.conditioning import DHDApplyPair
from dhd_pack.nodes.layout import DHDPortraitLayout
from dhd_pack.nodes.prompt import DHDSubjectPrompt
from support import tiny_comfy
from support.by_formula import adapter_for, people_by_formula
from support.refused import refused
from support.sampling import guider, predict, sample, sigma_at
from test_pair import diffusers_prediction
from test_text import edited_clip_l

POSITIVE, NEGATIVE = tiny_comfy.conditioning(1), tiny_comfy.conditioning(2)
STRENGTHS = (1.0, 0.6, 1.3, 0.8)
SENTENCE = "A man@1, a woman@2, a boy@3 and a girl@4 in a garden"
ALL = [tiny_comfy.reference(seed) for seed in (1, 2, 3, 4)]


def weights_for(persons):
    """(on diffusers, DHD_ADAPTER) of weights for so many people; None: one for everybody."""
    plain = tiny.tiny_adapter()
    ours = adapter_for(plain, persons, operations=comfy.ops.manual_cast)
    ours.compute_dtype = torch.float32
    return adapter_for(plain, persons), tiny_comfy.adapter_patcher(adapter=ours)


def apply(model, adapter, references, masks=(), strengths=STRENGTHS, strength=0.8, **more):
    """The node's MODEL."""
    given = {f"reference_{n}": reference for n, reference in enumerate(references, 1)}
    given |= {f"mask_{n}": mask for n, mask in enumerate(masks, 1)}
    given |= {f"strength_{n}": own for n, own in enumerate(strengths, 1)}
    return DHDApplyPair.execute(
        model=model, adapter=adapter, strength=strength, start=0.0, end=1.0, **given, **more
    ).args[0]


def beside_each_other(persons, size=(96, 128)):
    if persons == 1:
        return torch.ones(1, 1, *size[::-1])
    return layout_masks(preset_boxes("close together", *size, persons), *size, feather=0.2)[:, None]


@pytest.mark.parametrize("masked", [False, True], ids=["anywhere", "masks"])
@pytest.mark.parametrize("shared", [False, True], ids=["K/V each", "one K/V"])
@pytest.mark.parametrize("persons", [1, 2, 3, 4])
def test_a_prediction_is_the_formula_s(model, persons, shared, masked):
    plain, adapter = weights_for(None if shared else persons)
    picture = torch.randn(1, 4, 16, 12, generator=torch.Generator().manual_seed(5)) * 10
    unet, sigma, people = tiny.tiny_unet(), sigma_at(model, 601), ALL[:persons]
    masks = beside_each_other(persons) if masked else None
    by_formula = (plain, people, (False, True), 0.8, STRENGTHS, None if masks is None else masks[:, 0])
    with people_by_formula(unet, *by_formula):
        negative, positive = diffusers_prediction(unet, picture, sigma, 601, [NEGATIVE, POSITIVE])
    patched = apply(model, adapter, people, () if masks is None else masks)
    for cfg, expected in ((0.0, negative), (1.0, positive)):
        got = predict(guider(patched, POSITIVE, NEGATIVE, cfg), picture, sigma)
        assert (got - expected).abs().max() / sigma < 1e-4, cfg


def test_the_layout_s_masks_draw_three_people_of_one_projection(model):
    """A whole run with the cascade; each strength counts."""
    _, adapter = weights_for(None)
    first, second, _, _, third, fourth = DHDPortraitLayout.execute(
        "close together", width=96, height=128, people=3
    ).result
    masks = (first, second, third, fourth)  # the fourth is black, and nobody's

    def drawn(strengths=STRENGTHS, people=ALL[:3]):
        return sample(
            guider(apply(model, adapter, people, masks, strengths, cascade="one_pass"), POSITIVE, NEGATIVE),
            (1, 4, 16, 12),
        )

    picture = drawn()
    assert torch.equal(drawn(), picture)
    for strengths in ((0.0, 0.6, 1.3), (1.0, 0.0, 1.3), (1.0, 0.6, 0.0)):
        assert not torch.allclose(drawn(strengths), picture, atol=1e-3)
    assert not torch.allclose(drawn(people=[ALL[0], ALL[2], ALL[1]]), picture, atol=1e-3)


def test_weights_of_two_take_no_third_person(model, adapter):
    with refused("too-many-references", "3 references", "hold 2 persons", "IP-Adapter"):
        apply(model, adapter, ALL[:3])


@pytest.mark.parametrize(
    ("given", "code", "named"),
    [
        ({"reference_1": ALL[0], "reference_3": ALL[2]}, "reference-gap", ("reference_3", "reference_2 is not")),
        ({"reference_1": ALL[0], "reference_4": ALL[2]}, "reference-gap", ("reference_4", "reference_2 is not")),
        ({"reference_1": ALL[0], "mask_3": torch.ones(1, 8, 8)}, "mask-without-person", ("mask_3", "reference_3")),
        ({"reference_1": ALL[0], "mask_2": torch.ones(1, 8, 8)}, "mask-without-person", ("mask_2", "reference_2")),
        (
            {f"reference_{n}": ALL[n - 1] for n in (1, 2, 3)} | {"mask_3": torch.zeros(1, 8, 8)},
            "person-nowhere",
            ("mask_3", "set people to 3", "reference_3"),
        ),
    ],
)
def test_what_is_connected_wrongly_is_named(model, given, code, named):
    _, adapter = weights_for(None)
    settings = {"strength": 1.0, "strength_1": 1.0, "strength_2": 1.0, "start": 0.0, "end": 1.0}
    with refused(code, *named):
        DHDApplyPair.execute(model=model, adapter=adapter, **settings, **given)


def test_a_sentence_with_a_gap_in_its_people_is_refused(adapter):
    with refused("reference-gap", "reference_3 is connected, but reference_2 is not"):
        DHDSubjectPrompt.execute(tiny_comfy.clip(), adapter, ALL[0], SENTENCE, "first", reference_3=ALL[2])


def test_faces_that_would_blend_are_told_of(model, caplog):
    """One projection for everybody, and somebody who may be anywhere."""
    _, adapter = weights_for(None)
    masks = beside_each_other(3)
    apply(model, adapter, ALL[:3], masks)
    apply(model, adapter, ALL[:1])
    assert "blend" not in caplog.text
    apply(model, adapter, ALL[:3], masks[:2])
    assert "their faces blend. Give each person a mask" in caplog.text


def test_any_two_who_look_like_one_person_are_told_of(model, caplog):
    _, adapter = weights_for(4)
    apply(model, adapter, [ALL[0], ALL[1], ALL[2], ALL[1]])
    assert "Person 2 and person 4 look like the same person (similarity 1.00" in caplog.text
    assert "Person 1 and" not in caplog.text


def test_four_words_carry_four_faces(adapter, caplog):
    """And the page learns whose word is whose."""
    clip = tiny_comfy.clip()
    made = DHDSubjectPrompt.execute(
        clip, adapter, ALL[0], SENTENCE, "first", reference_2=ALL[1], reference_3=ALL[2], reference_4=ALL[3]
    )
    conditioning, told = made.args
    plain = clip.tokenize(SENTENCE.translate({ord(sign): None for sign in "@1234"}))
    ids = [entry[0] for entry in plain["l"][0]]
    expected = edited_clip_l(ALL, ids, {2: 0, 5: 1, 8: 2, 11: 3})
    assert (conditioning[0][0][..., :64] - expected).abs().max() < 1e-5
    assert [line.split(":")[0] for line in told.splitlines()] == [f"Person {n}" for n in (1, 2, 3, 4)]
    spans = [(span["text"], span["person"]) for span in made.ui["who_is_who"][0] if span["person"]]
    assert spans == [("man", 1), ("woman", 2), ("boy", 3), ("girl", 4)]
    assert "trained with 2 people" in caplog.text
