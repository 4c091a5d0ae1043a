"""The miniature's judge and its sampler. Who is on a picture is told by an oracle here, so that what is tested is the
judging and not how well the shipped weights happen to do."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

for package in ("diffusers", "transformers"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from support.drawn_oracle import LOOKS, POOL, Oracle
from support.refused import refused

from dhumandiff import FaceReference
from dhumandiff.errors import DHumanDiffError, FaceError, HostError, ImageError
from dhumandiff.hosts.diffusers.pipeline import PortraitPipeline
from dhumandiff.methods.dual_pathway import DualPathwaySettings
from dhumandiff.miniature import mini_adapter
from dhumandiff.miniature.base import SIZE, mini_pipeline
from dhumandiff.miniature.world import LIGHTS, draw_script
from dhumandiff.prompts import parse_prompt
from training import TrainingError
from training.miniature import rendering, sampling, scoring
from training.miniature.ablations import ABLATIONS, score_ablation
from training.miniature.rendering import Renderer
from training.miniature.sampling import GenerationRequest, Sampling, encode_person, sample_portraits
from training.miniature.scoring import Evaluator, difference, hardest_cases, held_out_cases, oracle_pictures, summarize

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def oracle():
    return Oracle(POOL[:60], (scoring.CONDITIONING_VIEW, scoring.SCORING_VIEW, *scoring.SIMILARITY_VIEWS))


@pytest.fixture(scope="module")
def cases(oracle):
    """Of few people, so that few have to be drawn."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "POOL", 60)
        found = held_out_cases(12)
    for case in found:
        drawn(oracle, case, scoring.TRUTH_SEED)
    return found


@pytest.fixture(scope="module")
def evaluator(oracle):
    return Evaluator(oracle)


def drawn(oracle, case, seed=5):
    """The picture that a case asks for."""
    script = case.script
    order = script.people if script.first_is_left else script.people[::-1]
    return oracle.show(draw_script(script, seed, SIZE), order)


def judged(evaluator, oracle, cases, change=lambda script: script):
    pictures = np.stack([drawn(oracle, replace(case, script=change(case.script))) for case in cases])
    return evaluator.score(pictures, cases).values


def test_a_picture_as_asked_for_is_right_in_everything(evaluator, oracle, cases):
    values = judged(evaluator, oracle, cases)
    assert all((values[name] == 1).all() for name in ("present", "right", "both_right", "recognition"))
    assert values["words"].mean() > 0.95
    assert (values["margin"] > 0.1).all()
    for name in ("sim_ref", "sim_gt"):  # the oracle sees a person alike in every drawing
        assert values[name] == pytest.approx(1)
    assert values["copy_paste"] == pytest.approx(0)
    assert (values["blending"] < 0.9).all()


def test_exchanged_people_are_wrong_though_both_are_there(evaluator, oracle, cases):
    values = judged(evaluator, oracle, cases, lambda script: replace(script, people=script.people[::-1]))
    assert (values["present"] == 1).all()
    assert all((values[name] == 0).all() for name in ("right", "both_right"))
    assert values["recognition"].mean() < 0.2  # among strangers a partner is a stranger, too
    assert (values["margin"] < 0).all()
    assert values["sim_ref"] == pytest.approx(1)  # likeness knows no places


def test_one_face_twice_is_half_right(evaluator, oracle, cases):
    case = cases[0]
    left = case.script.people[0] if case.script.first_is_left else case.script.people[1]
    twice = replace(case.script, people=(left, left))
    picture = oracle.show(draw_script(twice, 5, SIZE), (left, left))
    values = evaluator.score(picture[None], [case]).values
    assert (values["right"][0], values["both_right"][0]) == (0.5, 0)


def test_words_are_read_person_by_person(evaluator, oracle, cases):
    """Words are read for the person whom the sentence gives them."""
    values = judged(evaluator, oracle, cases, lambda script: replace(script, outfits=script.outfits[::-1]))
    assert values["colour"].mean() < 0.1
    assert values["scene"].mean() > 0.9
    assert (values["joint"] == 0).all()
    assert (values["right"] == 1).all()


def test_another_scene_is_seen(evaluator, oracle, cases):
    other = {case.script.scene: "night" if case.script.scene != "night" else "beach" for case in cases}
    values = judged(evaluator, oracle, cases, lambda script: replace(script, scene=other[script.scene]))
    assert values["scene"].mean() < 0.1
    assert values["colour"].mean() > 0.9


@pytest.mark.parametrize("faces", [0, 1, 3])
def test_more_or_fewer_than_two_faces_fail_in_everything(evaluator, oracle, cases, faces):
    case = cases[0]
    picture = drawn(oracle, case, seed=77).copy()
    found = oracle.detect_all([picture])[0]
    small = replace(found[0], box=found[0].box * 0.2)
    oracle.faces[picture.tobytes()] = [small, *found][:3] if faces == 3 else found[:faces]
    values = evaluator.score(picture[None], [case]).values
    likeness = ("sim_ref", "sim_gt", "copy_paste", "blending")
    assert all(values[name][0] == 0 for name in values if name not in ("margin", *likeness))
    assert values["sim_ref"][0] == pytest.approx({0: 0, 1: 0.5, 3: 1}[faces])
    assert values["copy_paste"][0] == pytest.approx({0: 1, 1: 0.5, 3: 0}[faces])
    # With a third one, the margin is that of the two largest faces; without two it says nothing either way.
    assert (values["margin"][0] > 0.1) == (faces == 3)


def test_what_cannot_be_read_counts_as_wrong(evaluator, oracle, cases):
    picture = drawn(oracle, cases[0], seed=78).copy()
    found = oracle.detect_all([picture])[0]
    low = [replace(face, box=face.box + np.array([0, 200, 0, 200])) for face in found]
    oracle.faces[picture.tobytes()] = low
    values = evaluator.score(picture[None], cases[:1]).values
    assert values["colour"][0] == 0
    assert values["present"][0] == 1


def test_pictures_of_another_kind_are_refused(evaluator, cases):
    with refused("pictures-of-another-shape", "1 pictures", "[96, 128, 3]", error=ImageError):
        evaluator.score(np.zeros((96, 128, 3), dtype=np.uint8), cases[:1])


def test_cases_share_no_person_and_their_strangers_are_strange():
    cases = held_out_cases(200)
    everybody = [who for case in cases for who in case.script.people]
    assert len(set(everybody)) == 400
    assert all(who.seed in range(300_000, 400_000) for who in everybody)
    assert all(len(set(case.distractors) - set(case.script.people)) == scoring.DISTRACTORS for case in cases)
    assert [case.text for case in held_out_cases(20)] == [case.text for case in cases[:20]]
    assert all("@1" in case.text and "@2" in case.text for case in cases)


def test_no_pairs_are_refused():
    with refused("no-pairs", "0 pairs", error=DHumanDiffError):
        held_out_cases(0)


def test_the_hardest_pairs_are_alike(evaluator):
    """The hardest pairs are alike of one gender and nobody is in many."""
    cases = hardest_cases(evaluator, 12, count=60)
    couples = [case.script.people for case in cases]
    assert all(first.gender == second.gender and first != second for first, second in couples)
    everybody = [who for couple in couples for who in couple]
    assert max(map(everybody.count, everybody)) <= 2

    def alike(first, second):
        a, b = LOOKS[first], LOOKS[second]
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    other = [alike(a, b) for a in POOL[:60] for b in POOL[:60] if a.gender == b.gender and a != b]
    assert np.mean([alike(*couple) for couple in couples]) > np.percentile(other, 97)
    with refused("too-many-pairs", "4 people", "12", error=DHumanDiffError):
        hardest_cases(evaluator, 12, count=4)


def scores(values, pairs):
    pool = held_out_cases(max(pairs) + 1)
    filled = {name: np.asarray(values, dtype=float) for name in scoring.MEASURES}
    return scoring.Scores(tuple(pool[number] for number in pairs), filled)


def test_intervals_come_from_pairs_not_from_pictures():
    random = np.random.default_rng(1)
    of_pairs = random.random(50)
    once = summarize(scores(of_pairs, range(50)))["measures"]["right"]
    often = summarize(scores(np.repeat(of_pairs, 3), np.repeat(range(50), 3)))["measures"]["right"]
    assert often == once
    assert once["mean"] == pytest.approx(of_pairs.mean())
    half = 1.96 * of_pairs.std() / 50**0.5
    assert once["high"] - once["low"] == pytest.approx(2 * half, rel=0.1)


def test_groups_hold_every_pair_once():
    summary = summarize(scores(np.ones(40), range(40)))
    by_gender = [
        summary["groups"].get(name, {"pairs": 0})["pairs"] for name in ("two men", "two women", "woman and man")
    ]
    assert sum(by_gender) == 40
    assert sum(group["pairs"] for group in summary["groups"].values()) == 80
    assert summary["measures"]["words"] == {"mean": 1.0, "low": 1.0, "high": 1.0}


def test_a_difference_is_taken_pair_by_pair():
    random = np.random.default_rng(2)
    values = random.random(60)
    first, second = (summarize(scores(found, range(60))) for found in (values, values - 0.1))
    found = difference(first, second, "right")
    assert found["low"] == pytest.approx(0.1, abs=1e-3)
    assert found["high"] == pytest.approx(0.1, abs=1e-3)
    assert difference(first, summarize(scores(values[:9], range(9))), "right") is None


# Sampling, with the shipped weights.


@pytest.fixture(scope="module")
def portrait():
    return PortraitPipeline(mini_pipeline())


@pytest.fixture(scope="module")
def adapter():
    return mini_adapter()


@pytest.fixture(scope="module")
def requests():
    random = torch.Generator().manual_seed(0)
    zero = torch.randn(1, 65, 128, generator=random)

    def somebody():
        identity = torch.nn.functional.normalize(torch.randn(1, 512, generator=random), dim=-1)
        return FaceReference(identity, torch.randn(1, 65, 128, generator=random), zero, identity)

    couples = [(somebody(), somebody()) for _ in range(2)]
    texts = ["A man@1 on the left and a woman@2 on the right stand at the beach.", "A girl@1 and a boy@2 at night."]
    return [
        GenerationRequest(text, couple, seed)
        for seed, (text, couple) in enumerate(zip(texts, couples, strict=True), 11)
    ]


@pytest.mark.parametrize(
    ("mode", "sampler"),
    [
        ("none", "euler"),
        ("none", "euler_ancestral"),
        ("one_pass", "euler_ancestral"),
        ("two_strength", "euler"),
        ("released", "euler_ancestral"),
    ],
)
def test_a_batch_equals_single_pictures(portrait, adapter, requests, mode, sampler):
    """A batch gives the pictures that generate gives one by one."""
    how = Sampling.of(mode=mode, sampler=sampler, steps=3, scene_strength=0.5, face_strength=1.2, strength=0.8, cfg=3.0)
    told = []
    made = sample_portraits(portrait, adapter, requests, how, progress=told.append)
    for request, picture in zip(requests, made, strict=True):
        sampling = replace(how.sampling, seed=request.seed)
        alone, _ = portrait(adapter, request.references, request.text, "", cascade=how.cascade, sampling=sampling)
        # On average: a focus mask may choose another one of two places that are nearly alike.
        assert np.abs(np.asarray(alone).astype(int) - picture).mean() < 0.3
    assert sum(told) == how.all_steps * 2
    assert all(type(one.processor).__name__ == "AttnProcessor2_0" for _, one in layers(portrait))


def layers(portrait):
    from dhumandiff.hosts.diffusers.attention import cross_attention_layers

    return cross_attention_layers(portrait.pipeline.unet)


def test_same_requests_give_same_bytes(portrait, adapter, requests):
    """The same requests give the same bytes and other seeds others."""
    how = Sampling.of(steps=2)
    first, again = (sample_portraits(portrait, adapter, requests, how) for _ in range(2))
    assert first.shape == (2, SIZE[1], SIZE[0], 3)
    assert (first == again).all()
    other = [GenerationRequest(request.text, request.references, request.seed + 1) for request in requests]
    assert (sample_portraits(portrait, adapter, other, how) != first).any()


def test_without_an_adapter_references_change_nothing(portrait, requests):
    how = Sampling.of(steps=2)
    exchanged = [GenerationRequest(request.text, request.references[::-1], request.seed) for request in requests]
    assert (sample_portraits(portrait, None, requests, how) == sample_portraits(portrait, None, exchanged, how)).all()


def test_references_matter_to_the_adapter(portrait, adapter, requests):
    how = Sampling.of(mode="none", steps=2, cfg=1.0)
    exchanged = [GenerationRequest(request.text, request.references[::-1], request.seed) for request in requests]
    made, other = (sample_portraits(portrait, adapter, some, how) for some in (requests, exchanged))
    assert (made != other).any()


def test_bf16_draws_nearly_the_same(portrait, adapter, requests):
    how = Sampling.of(steps=2)
    exact, rounded = (
        sample_portraits(portrait, adapter, requests, each) for each in (how, replace(how, precision="bf16"))
    )
    apart = abs(exact.astype(int) - rounded)
    assert 0 < apart.mean() < 4
    assert "precision" not in how.record
    assert replace(how, precision="bf16").record["precision"] == "bf16"


def test_no_requests_give_no_pictures(portrait, adapter):
    assert sample_portraits(portrait, adapter, [], Sampling()).shape == (0, SIZE[1], SIZE[0], 3)


def test_settings_that_make_no_picture_are_refused(portrait, adapter, requests):
    with refused("unknown-mode", "one_pass, two_strength, released", "'both'", error=HostError):
        sample_portraits(portrait, adapter, requests, Sampling.of(mode="both"))
    with refused("out-of-range", "scene strength is 9", error=HostError):
        sample_portraits(portrait, adapter, requests, Sampling.of(scene_strength=9))


def test_the_ceiling_is_one_picture_a_case(portrait):
    cases = held_out_cases(3)
    made = oracle_pictures(portrait.pipeline.vae, cases, [1, 2, 3])
    assert made.shape == (3, SIZE[1], SIZE[0], 3)
    assert (made[0] != made[1]).any()


def test_a_person_whose_face_is_never_found_is_named():
    class Blind:
        name = "blind"

        def detect(self, image):
            return []

    with refused("no-face-in-drawings", f"{sampling.TRIES} drawings of {POOL[0].name}", error=FaceError):
        encode_person(POOL[0], 1, SimpleNamespace(), Blind())


def test_a_person_is_encoded_in_the_light_that_is_asked_for(monkeypatch):
    seen = []

    def encode(pixels, *_, normalize_light, **__):
        seen.append((pixels.mean().item(), normalize_light))
        return None, None

    monkeypatch.setattr(sampling, "encode_reference", encode)
    for light, normal in (("", False), ("even", False), ("dark", True)):
        _, photo = encode_person(POOL[0], 1, SimpleNamespace(), SimpleNamespace(), light, normal)
        assert photo.mean() / 255 == pytest.approx(seen[-1][0], abs=1e-4)
    assert [normal for _, normal in seen] == [False, False, True]
    assert seen[2][0] < 0.7 * seen[1][0]


def test_the_focus_can_be_read_from_other_layers_of_a_transformer():
    names = ("down.0", "down.0", "mid", "up.0", "up.0", "up.0")
    layers = [(f"{name}.transformer_blocks.{n}", None) for n, name in enumerate(names)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "cross_attention_layers", lambda _: layers)
        assert sampling._heard(None, "first") == {0, 2, 3}
        assert sampling._heard(None, "last") == {1, 2, 5}
        assert sampling._heard(None, "all") is None
    assert Sampling.of(heard="all").record["heard"] == "all"
    assert "heard" not in Sampling().record


def test_a_renderer_in_other_light_has_the_same_parts():
    parts = SimpleNamespace(judge=object())
    plain = Renderer(parts)
    assert plain.with_people("", False, False) is plain
    other = plain.with_people("side", True, False)
    assert (other.parts, other.light, other.normalize_light) == (parts, "side", True)
    rows = [row for row in ABLATIONS.values() if row.light]
    assert {row.light for row in rows} == set(LIGHTS)
    assert len(rows) == 3 * len(LIGHTS)
    assert not any(row.training for row in rows)
    plain = "short" if "short" in ABLATIONS else ""
    assert {row.weights_of for row in rows} == {plain, "light_augmentation"}
    assert ABLATIONS["light_augmentation"].training
    with refused("ablation-without-weights", "light_side_trained", "augment.augmented", error=TrainingError):
        score_ablation("light_side_trained")


def test_a_sentence_that_names_person_2_first_has_the_other_persons_photo_as_reference_1(monkeypatch):
    asked = []
    monkeypatch.setattr(rendering, "sample_portraits", lambda _, __, requests, *___, **____: asked.extend(requests))
    parts, cases = SimpleNamespace(judge=object(), portrait=None), held_out_cases(2)
    given = Sampling.of(dual=DualPathwaySettings(regions="given"))
    for late_first in (False, True):
        renderer = Renderer(parts).with_people("", False, late_first)
        monkeypatch.setattr(renderer, "reference_of", lambda who: (who, None))
        renderer.render(cases, 1, None, given)
    for case, plain, late in zip(cases, asked[:2], asked[2:], strict=True):
        assert plain.text == case.text
        assert plain.references == case.script.people
        named = [mention.person for mention in parse_prompt(late.text).mentions]
        assert named == [2, 1]
        assert late.references == plain.references[::-1]
        assert torch.equal(late.regions, plain.regions.flip(0))
