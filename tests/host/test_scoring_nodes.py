"""The scoring nodes on drawn pictures of known people: right, swapped, missing, batches, masks, and the server's workflow."""

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dhd_pack.dhumandiff.errors import FaceReferenceError, HostError, ImageError
from dhd_pack.dhumandiff.faces import Face
from dhd_pack.dhumandiff.miniature.faces import mini_faces
from dhd_pack.dhumandiff.miniature.world import draw_script, sample_script, write_caption
from dhd_pack.dhumandiff.references.reference import FaceReference
from dhd_pack.nodes.miniature import drawn_person
from dhd_pack.nodes.references import DHDEncodeReference
from dhd_pack.nodes.scoring import DHDFaceMasks, DHDIdentityScore, DHDPickBest
from support.refused import refused


@pytest.fixture(scope="module")
def faces():
    return mini_faces()


@pytest.fixture(scope="module")
def scene(faces):
    """A woman and a man: their references, a picture of both as its sentence says, and the sentence."""
    from dhd_pack.nodes.comfy.miniature import mini_clip_vision
    from dhd_pack.nodes.miniature import DHDDrawPerson

    tower, couple, references = mini_clip_vision(), [], []
    for gender in ("woman", "man"):
        couple.append(drawn_person(0, gender))
        photo = DHDDrawPerson.execute(0, gender, 1, 384).result[0]
        references.append(DHDEncodeReference.execute(photo, tower, faces, "largest", 0, False, gender).result[0])
    script = sample_script(1, tuple(couple))
    drawn = draw_script(script, 1, (256, 192))
    picture = torch.from_numpy(drawn.picture.copy())[None].float() / 255
    return SimpleNamespace(
        references=references, picture=picture, text=write_caption(script, 1)[0], drawn=drawn, script=script
    )


def score(scene, faces, picture=None, **given):
    given = {"least_similarity": 0.3, "least_margin": 0.0, "text": scene.text, **given}
    people = given.pop("references", scene.references)
    people = {"reference_1": people[0], "reference_2": people[1] if len(people) > 1 else None}
    picture = scene.picture if picture is None else picture
    result = DHDIdentityScore.execute(image=picture, face_analysis=faces, **people, **given).result
    assert result[5:] == ([0.0] * len(picture),) * 2  # of persons 3 and 4, who are not there
    return result[:5]


def test_a_right_picture_passes_and_exchanged_people_fail(scene, faces):
    boxed, first, second, passed, report = score(scene, faces)
    assert passed == [True]
    assert min(*first, *second) > 0.3
    assert "passed" in report
    assert boxed.shape == scene.picture.shape
    assert not torch.equal(boxed, scene.picture)
    _, first_, second_, passed, report = score(scene, faces, references=scene.references[::-1])
    assert passed == [False]
    assert "WRONG" in report
    assert (first_, second_) == (pytest.approx(second), pytest.approx(first))


def test_without_a_sentence_likeness_decides_nothing(scene, faces):
    *_, passed, report = score(scene, faces, references=scene.references[::-1], text="")
    assert passed == [True]
    assert "not decidable" in report
    assert "not decidable" in score(scene, faces, text="two people at the beach")[4]


def test_masks_say_who_should_be_where(scene, faces):
    left = torch.zeros(1, 96, 128)
    left[..., :64] = 1
    woman_left = scene.script.side(0) == "left"
    masks = {"mask_1": left if woman_left else 1 - left, "mask_2": 1 - left if woman_left else left}
    assert score(scene, faces, text="", **masks)[3] == [True]
    swapped = {"mask_1": masks["mask_2"], "mask_2": masks["mask_1"]}
    assert score(scene, faces, **swapped)[3] == [False]
    with refused("one-mask-of-two", error=ImageError):
        score(scene, faces, mask_1=left)
    with refused("mask-without-person", "mask_2", "reference_2", error=HostError):
        score(scene, faces, references=scene.references[:1], mask_2=left)
    with refused("mask-of-another-shape", "mask_1", "64 x 64", "256 x 192"):
        score(scene, faces, mask_1=torch.ones(1, 64, 64), mask_2=torch.ones(1, 64, 64))


def test_an_empty_picture_and_a_person_too_many_fail(scene, faces):
    empty = torch.full_like(scene.picture, 0.5)
    _, first, second, passed, _ = score(scene, faces, torch.cat([empty, empty]))
    assert (first, second, passed) == ([0, 0], [0, 0], [False, False])
    third = Face(np.array([100, 10, 130, 40], dtype=np.float32), np.zeros((5, 2), dtype=np.float32) + 100)
    third.landmarks[:] += [[0, 0], [20, 0], [10, 10], [4, 20], [16, 20]]
    more = SimpleNamespace(detect=lambda image: [third, *faces.detect(image)], identity=faces.identity)
    *_, passed, report = score(scene, more)
    assert passed == [False]
    assert "3 faces for 2 people" in report


def test_thresholds_decide_what_passes(scene, faces):
    assert score(scene, faces, least_similarity=0.999)[3] == [False]
    assert score(scene, faces, least_margin=1.9)[3] == [False]


def test_one_person_is_scored_alone(scene, faces):
    picture = torch.full_like(scene.picture, 0.5)
    side = scene.script.side(0)
    half = slice(0, 128) if side == "left" else slice(128, 256)
    picture[:, :, half] = scene.picture[:, :, half]
    _, first, second, passed, report = score(scene, faces, picture, references=scene.references[:1], text="")
    assert first[0] > 0.3
    assert (second, passed) == ([0], [True])
    assert "decidable" not in report


def test_a_reference_without_identity_is_refused(scene, faces):
    plain = FaceReference(None, scene.references[0].clip_hidden, scene.references[0].clip_hidden_zero, name="nobody")
    with refused("no-identity", "nobody", error=FaceReferenceError):
        score(scene, faces, references=[plain, scene.references[1]])


def test_references_of_another_recognizer_are_refused(scene, faces):
    """In all three nodes; those of before, which do not say, are taken as they are."""
    other = dataclasses.replace(
        scene.references[1], recognizer="buffalo_l/w600k_r50", recognizer_hash="a" * 16, name="Ann"
    )
    given = {"image": scene.picture, "face_analysis": faces, "reference_1": scene.references[0], "reference_2": other}
    for use in (
        lambda: score(scene, faces, references=[scene.references[0], other]),
        lambda: DHDPickBest.execute(**given),
        lambda: DHDFaceMasks.execute(**given, grow=0.3, feather=0.1),
    ):
        with refused(
            "face-analysis-of-another-recognizer",
            "'Ann'",
            "buffalo_l/w600k_r50",
            "holds mini",
            error=FaceReferenceError,
        ):
            use()
    unknown = dataclasses.replace(other, recognizer="", recognizer_hash="")
    assert score(scene, faces, references=[scene.references[0], unknown])[3] == [True]


def test_the_best_of_a_batch_shows_both_people(scene, faces):
    empty = torch.full_like(scene.picture, 0.5)
    mirrored = scene.picture.flip(2)  # everybody on the wrong side
    batch = torch.cat([empty, mirrored, scene.picture])
    given = {"image": batch, "face_analysis": faces, "text": scene.text}
    best, index, report = DHDPickBest.execute(
        **given, reference_1=scene.references[0], reference_2=scene.references[1]
    ).result
    assert index == 2
    assert torch.equal(best, scene.picture)
    assert [line.split()[2].rstrip(";:") for line in report.splitlines()] == ["3", "2", "1"]


def test_words_decide_with_both_encoders_of_one_clip(scene, faces):
    clip = SimpleNamespace(
        tokenize=lambda text: text, encode_from_tokens=lambda text, return_pooled: (None, torch.ones(1, 4))
    )
    seen = torch.tensor([[1.0, 0, 0, 0], [1, 1, 1, 1]])
    vision = SimpleNamespace(encode_image=lambda image: {"image_embeds": seen[: len(image)]})
    given = {"image": scene.picture.repeat(2, 1, 1, 1), "face_analysis": faces, "text": scene.text}
    given |= {"reference_1": scene.references[0], "reference_2": scene.references[1]}
    assert DHDPickBest.execute(**given, clip=clip, clip_vision=vision).result[1] == 1
    assert DHDPickBest.execute(**given).result[1] == 0
    with refused("words-without-clip", error=HostError):
        DHDPickBest.execute(**given, clip=clip)
    seen = torch.ones(2, 3)
    with refused("text-and-vision-of-two-clips", "4 and 3", error=HostError):
        DHDPickBest.execute(**given, clip=clip, clip_vision=vision)


def test_face_masks_follow_the_order_of_references(scene, faces):
    first, second = scene.references
    given = {"image": scene.picture, "face_analysis": faces, "grow": 0.0, "feather": 0.0, "text": scene.text}
    masks = DHDFaceMasks.execute(**given, reference_1=first, reference_2=second).result
    truth = scene.drawn.people if scene.script.first_is_left else scene.drawn.people[::-1]
    for mask, portrait in zip(masks[:2], truth, strict=True):
        assert mask.shape == (1, 192, 256)
        rows, columns = np.nonzero(mask[0].numpy() > 0.5)
        x0, y0, x1, y1 = portrait.face_box
        assert x0 < columns.mean() < x1
        assert y0 < rows.mean() < y1
    swapped = DHDFaceMasks.execute(**{**given, "text": ""}, reference_1=second, reference_2=first).result
    assert torch.equal(swapped[0], masks[1])
    assert torch.equal(swapped[1], masks[0])
    larger = DHDFaceMasks.execute(
        **{**given, "grow": 1.0, "feather": 0.2}, reference_1=first, reference_2=second
    ).result
    assert larger[0].sum() > 2 * masks[0].sum()
    assert ((larger[0] > 0.05) & (larger[0] < 0.95)).sum() > 0


def test_a_missing_person_has_a_black_mask(scene, faces):
    empty = torch.full_like(scene.picture, 0.5)
    batch = torch.cat([scene.picture, empty])
    given = {"image": batch, "face_analysis": faces, "grow": 0.3, "feather": 0.1}
    first, *_ = DHDFaceMasks.execute(**given, reference_1=scene.references[0], reference_2=scene.references[1]).result
    assert first.shape == (2, 192, 256)
    assert first[0].any()
    assert not first[1].any()
    alone = DHDFaceMasks.execute(**given, reference_1=scene.references[0]).result
    assert not alone[1].any()


@pytest.mark.parametrize("kept", [0, 1])
@pytest.mark.parametrize("said_by", ["sides", "clothes"])
def test_one_face_of_two_is_masked_and_the_picture_still_fails(scene, faces, kept, said_by, monkeypatch):
    """For a detailer: the person who is there is repaired, though the other one is missing."""
    told = []
    monkeypatch.setattr("dhd_pack.nodes.scoring.tell", lambda node, text: told.append(text))
    text = scene.text if said_by == "sides" else re.sub(r"\bon the (left|right)\b", "", scene.text, flags=re.IGNORECASE)
    people = scene.drawn.people if scene.script.first_is_left else scene.drawn.people[::-1]
    x0, y0, x1, y1 = (round(float(edge)) for edge in people[1 - kept].face_box)
    picture = scene.picture.clone()
    picture[:, max(y0 - 20, 0) : y1 + 4, max(x0 - 14, 0) : x1 + 14] = 0.5
    first, second = scene.references
    given = {"image": picture, "face_analysis": faces, "text": text, "reference_1": first, "reference_2": second}
    masks = DHDFaceMasks.execute(**given, grow=0.0, feather=0.0).result
    rows, columns = np.nonzero(masks[kept][0].numpy() > 0.5)
    x0, y0, x1, y1 = people[kept].face_box
    assert x0 < columns.mean() < x1
    assert y0 < rows.mean() < y1
    assert not masks[1 - kept].any()
    assert told == [f"No face, so a black mask: person {2 - kept} in picture 1. (1 face for 2 people in picture 1.)"]
    assert score(scene, faces, picture, text=text)[3] == [False]


NODES = {
    DHDIdentityScore: {"least_similarity": 0.3, "least_margin": 0.0},
    DHDPickBest: {},
    DHDFaceMasks: {"grow": 0.3, "feather": 0.1},
}


@pytest.mark.parametrize("node", NODES)
def test_grey_and_transparent_pictures_are_read_as_by_the_encoder(scene, faces, node):
    people = dict(zip(("reference_1", "reference_2"), scene.references, strict=True))
    grey = scene.picture.mean(dim=-1, keepdim=True)
    opaque = torch.cat([scene.picture, torch.ones_like(grey)], dim=-1)

    def scored(picture):
        return node.execute(image=picture, face_analysis=faces, text=scene.text, **people, **NODES[node]).result

    for given, same in ((grey, grey.expand(-1, -1, -1, 3)), (opaque, scene.picture)):
        for one, other in zip(scored(given), scored(same), strict=True):
            if node is DHDPickBest and isinstance(one, torch.Tensor):
                assert torch.equal(one, given)  # the picture itself, as it came
            else:
                assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize("node", NODES)
@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ((0, 64, 64, 3), "no-pictures"),
        ((64, 64, 3), "no-pictures"),
        ((1, 0, 64, 3), "photo-of-another-shape"),
        ((1, 64, 64, 2), "photo-of-another-shape"),
        ((1, 64, 64, 5), "photo-of-another-shape"),
        (None, "photo-not-finite"),
    ],
)
def test_what_is_no_picture_is_refused(scene, faces, node, shape, code):
    picture = torch.full_like(scene.picture, float("nan")) if shape is None else torch.zeros(shape)
    with refused(code):
        node.execute(image=picture, face_analysis=faces, reference_1=scene.references[0], **NODES[node])


@pytest.mark.parametrize("size", [(1, 1), (1, 400), (3, 2)])
@pytest.mark.parametrize("node", NODES)
def test_pictures_of_a_few_pixels_show_nobody(scene, faces, node, size):
    node.execute(
        image=torch.rand(1, *size, 3), face_analysis=faces, reference_1=scene.references[0], text="", **NODES[node]
    )


@pytest.mark.parametrize("shape", [(0, 192, 256), (1, 0, 256), (1, 192, 0), (192,), (1, 2, 192, 256)])
def test_what_is_no_mask_is_refused(scene, faces, shape):
    mask = torch.ones(1, 192, 256)
    with refused("no-mask", "mask_2", error=ImageError):
        score(scene, faces, mask_1=mask, mask_2=torch.zeros(shape))


def test_real_people_on_a_photo_of_both(face_photos, faces_root):
    """One photo of each as reference; another one of the first beside the second's, as the sentence says and exchanged."""
    pytest.importorskip("insightface", reason="install it with: pip install insightface onnxruntime")
    from dhd_pack.dhumandiff.faces import InsightFaceAnalyzer
    from dhd_pack.nodes.comfy.miniature import mini_clip_vision
    from PIL import Image

    def photo(name):
        picture = Image.open(face_photos / f"{name}.jpg").convert("RGB")
        picture.thumbnail((600, 600))
        return torch.from_numpy(np.asarray(picture).copy())[None].float() / 255

    analyzer = InsightFaceAnalyzer.from_pack("mini", root=faces_root, provider="CPU")
    tower = mini_clip_vision()
    references = [
        DHDEncodeReference.execute(photo(name), tower, analyzer, "largest", 0, False, name).result[0]
        for name in ("obama", "biden")
    ]
    pair = [photo("obama2"), photo("biden")]
    height = max(one.shape[1] for one in pair)
    pair = [torch.nn.functional.pad(one, (0, 0, 0, 0, 0, height - one.shape[1])) for one in pair]
    said = SimpleNamespace(
        references=references,
        picture=torch.cat(pair, dim=2),
        text="A man@1 on the left and another man@2 on the right.",
    )
    _, first, second, passed, report = score(said, analyzer)
    assert passed == [True]
    assert min(*first, *second) > 0.6
    assert "WRONG" not in report
    swapped = torch.cat(pair[::-1], dim=2)
    _, first, second, passed, report = score(said, analyzer, picture=swapped)
    assert passed == [False]
    assert min(*first, *second) > 0.6
    assert "WRONG" in report
    given = dict(zip(("reference_1", "reference_2"), references, strict=True))
    masks = DHDFaceMasks.execute(
        image=said.picture, face_analysis=analyzer, text=said.text, grow=0.3, feather=0.1, **given
    )
    middle = said.picture.shape[2] // 2
    left, right = (mask[..., :middle].sum() / mask.sum() for mask in masks.result[:2])
    assert left > 0.95
    assert right < 0.05
