"""The scoring nodes on pictures of three and four people, drawn and real."""

import dataclasses
import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from dhd_pack.dhumandiff.errors import HostError, ImageError
from dhd_pack.dhumandiff.faces import Face, InsightFaceAnalyzer
from dhd_pack.dhumandiff.miniature import world
from dhd_pack.dhumandiff.miniature.faces import mini_faces
from dhd_pack.nodes.comfy.miniature import mini_clip_vision
from dhd_pack.nodes.miniature import DHDDrawPerson, drawn_person
from dhd_pack.nodes.references import DHDEncodeReference
from dhd_pack.nodes.scoring import DHDFaceMasks, DHDIdentityScore, DHDPickBest
from PIL import Image, ImageDraw
from support.drawn_row import HEIGHT, WIDTH, drawn_row
from support.refused import refused

WORDS = ("a woman@1", "a man@2", "a woman@3", "a man@4")
WHO = (("woman", 0), ("man", 0), ("woman", 2), ("man", 2))


@pytest.fixture(scope="module")
def faces():
    return mini_faces()


@pytest.fixture(scope="module")
def row(faces):
    """Four drawn people side by side in another order than that of their references, and a sentence that says so."""
    tower, references = mini_clip_vision(), []
    for gender, number in WHO:
        photo = DHDDrawPerson.execute(number, gender, 1, 384).result[0]
        references.append(DHDEncodeReference.execute(photo, tower, faces, name=f"{gender} {number}").result[0])
    drawn = drawn_row([drawn_person(number, gender) for gender, number in WHO], (2, 0, 3, 1), world, Face)
    picture = torch.from_numpy(drawn.picture.copy())[None].float() / 255
    text = f"From left to right: {', '.join(WORDS[who] for who in drawn.who)}"
    return SimpleNamespace(drawn=drawn, picture=picture, references=references, text=text)


def given(row, faces, **more):
    """What every scoring node asks for."""
    people = {f"reference_{n}": one for n, one in enumerate(more.pop("references", row.references), 1)}
    analyzer = row.drawn.analyzer(faces, more.pop("found", None))
    return {"image": row.picture, "face_analysis": analyzer, "text": row.text, **people, **more}


def score(row, faces, **more):
    boxed, *similarity, passed, report, third, fourth = DHDIdentityScore.execute(
        **{"least_similarity": 0.5, "least_margin": 0.0, **given(row, faces, **more)}
    ).result
    similarity = [one for (one,) in (*similarity, third, fourth)]
    return SimpleNamespace(boxed=boxed, similarity=similarity, passed=passed, report=report)


def test_four_people_at_their_places_pass(row, faces):
    found = score(row, faces)
    assert found.passed == [True]
    assert min(found.similarity) > 0.7
    assert found.report.count(", right") == 4
    assert "4 faces for 4 people, said by sides" in found.report


def test_two_of_four_who_are_exchanged_fail(row, faces):
    one, two, three, four = row.references
    for references, wrong in (((four, two, three, one), "14"), ((one, three, two, four), "23")):
        found = score(row, faces, references=references)
        assert found.passed == [False]
        persons = found.report.split("; ")[1:-1]
        assert [person.split()[1] for person in persons if "WRONG" in person] == list(wrong)


def test_a_wrong_face_shows_its_own_likeness(row, faces, monkeypatch):
    """Not that of the face elsewhere that would have been right."""
    written = []
    write = ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        ImageDraw.ImageDraw,
        "text",
        lambda self, at, text, **more: written.append(text) or write(self, at, text, **more),
    )
    one, two, three, four = row.references
    score(row, faces, references=(four, two, three, one))
    shown = {text.split(" 0.")[0]: text for text in written}
    assert {name for name, text in shown.items() if "WRONG" in text} == {"man 2", "woman 0"}
    for name, text in shown.items():
        assert (float(text.split()[2]) < 0.3) is ("WRONG" in text), name


def test_a_missing_and_an_extra_face_are_failures(row, faces):
    fewer = score(row, faces, found=row.drawn.faces[:3])
    assert fewer.passed == [False]
    assert "3 faces for 4 people" in fewer.report
    assert fewer.similarity[row.drawn.who[3]] == 0
    small = Face(np.float32([2, 2, 12, 12]), row.drawn.faces[0].landmarks)
    more = score(row, faces, found=[*row.drawn.faces, small])
    assert more.passed == [False]
    assert "5 faces for 4 people" in more.report
    assert min(more.similarity) > 0.7


def test_three_people_are_scored_as_three(row, faces):
    three = [who for who in row.drawn.who if who != 3]
    text = f"From left to right: {', '.join(WORDS[who] for who in three)}"
    found = score(row, faces, references=row.references[:3], text=text, found=[row.drawn.faces[n] for n in (0, 1, 3)])
    assert found.passed == [True]
    assert found.similarity[3] == 0
    assert "3 faces for 3 people, said by sides" in found.report


def test_masks_say_who_of_four_is_where(row, faces):
    masks = torch.zeros(4, 1, HEIGHT, 4 * WIDTH)
    for place, who in enumerate(row.drawn.who):
        masks[who, :, :, place * WIDTH : (place + 1) * WIDTH] = 1
    connected = {f"mask_{n}": mask for n, mask in enumerate(masks, 1)}
    found = score(row, faces, text="", **connected)
    assert found.passed == [True]
    assert "said by masks" in found.report
    swapped = {**connected, "mask_1": connected["mask_4"], "mask_4": connected["mask_1"]}
    assert score(row, faces, **swapped).report.count("WRONG") == 2
    with refused("one-mask-of-two", "mask_3 and mask_4 of 4 masks are not connected", error=ImageError):
        score(row, faces, mask_1=masks[0], mask_2=masks[1])
    with refused("mask-without-person", "mask_4", "reference_4", error=HostError):
        score(row, faces, references=row.references[:3], **connected)
    black = {**connected, "mask_4": torch.zeros_like(masks[3])}  # Portrait Layout's for somebody who is not there
    assert (
        score(row, faces, references=row.references[:3], **black).report.count(", right") == 0
    )  # four faces for three


def test_people_are_connected_without_a_gap(row, faces):
    one, two, _, four = row.references
    for node, more in (
        (DHDIdentityScore, {"least_similarity": 0.5, "least_margin": 0.0}),
        (DHDPickBest, {}),
        (DHDFaceMasks, {"grow": 0.3, "feather": 0.1}),
    ):
        with refused("reference-gap", "reference_4 is connected, but reference_3 is not", error=HostError):
            node.execute(**given(row, faces, references=(one, two), reference_4=four, **more))


def test_each_of_four_has_a_mask_of_their_face(row, faces):
    masks = DHDFaceMasks.execute(**given(row, faces, grow=0.0, feather=0.0)).result
    assert len(masks) == 4
    for place, who in enumerate(row.drawn.who):
        inside = masks[who][0, :, place * WIDTH : (place + 1) * WIDTH]
        assert inside.sum() == masks[who].sum() > 500
    three = DHDFaceMasks.execute(**given(row, faces, references=row.references[:3], grow=0.0, feather=0.0)).result
    assert three[3].shape == three[0].shape
    assert three[3].sum() == 0


def test_the_picture_with_most_of_four_at_their_places_is_the_best(row, faces):
    def at(order):
        return torch.cat([row.picture[:, :, n * WIDTH : (n + 1) * WIDTH] for n in order], dim=2)

    def moved(order):
        shifts = [np.float32([(place - n) * WIDTH, 0]) for place, n in enumerate(order)]
        found = [row.drawn.faces[n] for n in order]
        return [Face(f.box + np.tile(by, 2), f.landmarks + by) for f, by in zip(found, shifts, strict=True)]

    orders = ((3, 2, 1, 0), (0, 1, 2, 3), (0, 1, 3, 2))
    pictures = torch.cat([at(order) for order in orders])
    turns = itertools.cycle([moved(order) for order in orders])
    analyzer = dataclasses.make_dataclass("Turns", [])()
    analyzer.name, analyzer.identity, analyzer.detect = faces.name, faces.identity, lambda image: next(turns)
    best, index, report = DHDPickBest.execute(**given(row, faces, image=pictures) | {"face_analysis": analyzer}).result
    assert index == 1
    assert torch.equal(best, row.picture)
    assert [line.split()[2].rstrip(";:") for line in report.splitlines()] == ["2", "3", "1"]


def test_labels_of_four_stand_beside_each_other(row, faces):
    """In each person's color, and none over another, however long the names are."""
    from dhd_pack.dhumandiff.evaluation.report import _free_place, _meet

    draw = ImageDraw.Draw(Image.new("RGB", (4 * WIDTH, HEIGHT)))
    labels = []
    for face in row.drawn.faces:
        labels.append(_free_place(draw, face.box.tolist(), "somebody with a name 0.80", 8.0, labels))
    assert not any(_meet(one, other) for one, other in itertools.combinations(labels, 2))
    assert all(y0 >= 0 and y1 <= HEIGHT + 20 for _, y0, _, y1 in labels)
    boxed = score(row, faces).boxed[0]
    for who, color in enumerate(((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167))):
        drawn = (boxed * 255).round().int() == torch.tensor(color)
        columns = drawn.all(dim=-1).any(dim=0).nonzero().flatten() // WIDTH
        assert row.drawn.who.index(who) in columns.unique().tolist()


@pytest.mark.faces
def test_real_people_of_a_group_photo(faces_root):
    """Four of the people whom InsightFace's own photo shows, with references cut out of it."""
    package = pytest.importorskip("insightface", reason="install it with: pip install insightface onnxruntime")
    photo = Image.open(Path(package.__file__).parent / "data" / "images" / "t1.jpg").convert("RGB")
    group = torch.from_numpy(np.asarray(photo)[:, :870].copy())[None].float() / 255
    analyzer = InsightFaceAnalyzer.from_pack("mini", root=faces_root, provider="CPU")
    found = sorted(analyzer.detect((group[0] * 255).round().byte().numpy()), key=lambda face: face.center[0])
    assert len(found) == 4
    tower, references = mini_clip_vision(), []
    for face in found:
        x, y, side = int(face.center[0]), int(face.center[1]), int(face.size)
        cut = group[:, max(y - side, 0) : y + side, max(x - side, 0) : x + side]
        references.append(DHDEncodeReference.execute(cut, tower, analyzer).result[0])
    order = (3, 0, 2, 1)  # person 1 stands at the right end, and so on
    people = {f"reference_{n}": references[place] for n, place in enumerate(order, 1)}
    text = "A man@2 on the far left, a woman@4 second from the left, a man@3 second from the right, a man@1 on the far right"
    given = {"image": group, "face_analysis": analyzer, "text": text}
    least = {"least_similarity": 0.4, "least_margin": 0.1}
    result = DHDIdentityScore.execute(**given, **people, **least).result
    assert result[3] == [True]
    assert result[4].count(", right") == 4
    exchanged = {**people, "reference_2": people["reference_4"], "reference_4": people["reference_2"]}
    result = DHDIdentityScore.execute(**given, **exchanged, **least).result
    assert result[3] == [False]
    assert result[4].count("WRONG") == 2
    masks = DHDFaceMasks.execute(**given, **people, grow=0.0, feather=0.0).result
    for mask, place in zip(masks, order, strict=True):
        x, y = (int(value) for value in found[place].center)
        assert mask[0, y, x] == 1
