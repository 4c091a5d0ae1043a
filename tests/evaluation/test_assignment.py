"""Who should be where: from sentences, clothes, boxes and masks, and what is left undecided."""

import re

import numpy as np
import pytest
from support.refused import refused

from dhumandiff.evaluation.assignment import (
    assign_by_boxes,
    assign_by_masks,
    assign_by_sides,
    assign_faces,
)
from dhumandiff.evaluation.sentence_cues import GARMENT_COLORS, garment_color, garment_colors_of, sides_of
from dhumandiff.faces import Face
from dhumandiff.miniature.world import sample_identity, sample_pair, sample_script, write_caption
from dhumandiff.prompts import parse_prompt


def read(text):
    return parse_prompt(text, mentions="all")


def face(x, y, side=20):
    box = np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2], dtype=np.float32)
    return Face(box, np.full((5, 2), [x, y], dtype=np.float32))


LEFT, RIGHT = face(30, 30), face(90, 34)
GREY = np.full((120, 120, 3), 128, dtype=np.uint8)


@pytest.mark.parametrize(
    "text",
    [
        "A man@1 on the left and a woman@2 on the right, in a park.",
        "On the left a man@1 wears a red coat, on the right a woman@2 wears a blue dress.",
        "A man@1 and a woman@2 in a cafe, the man@1 to the left of the woman@2.",
        "A woman@2 stands on the right side of the picture, a man@1 beside her.",
        "The man@1 is on the left.  He hugs the woman@2.",
        "Left: a man@1 in black. Right: a woman@2 in white.",
        "The leftmost man@1 smiles at a woman@2.",
        "A man@1, on the left, and a woman@2, on the right, hold hands.",
        "A man@1 at the far left looks at a woman@2.",
        "A woman@2 to the right of a man@1.",
        "A man@1 on the left-hand side with a woman@2.",
        "A man@1 ON THE LEFT with a woman@2 in the right half of the image.",
    ],
)
def test_sides_are_read_as_the_viewer_sees_them(text):
    assert sides_of(read(text), 2) == ("left", "right")


@pytest.mark.parametrize(
    "text",
    [
        "A man@1 and a woman@2 in a park.",
        "A man@1 puts his left hand on the right shoulder of a woman@2.",
        "A man@1 on the left and a woman@2 on the left.",
        "A man@1 on the left with a woman@2. The man@1 is on the right.",
        "A man@1 right next to a woman@2, who has left the house.",
        "A picture with a tree on the left.",
    ],
)
def test_a_sentence_without_clear_sides_decides_nothing(text):
    assert sides_of(read(text), 2) is None


def test_three_people_left_middle_and_right():
    text = "A man@1 in the middle, a woman@2 on the right and a boy@3 on the left."
    assert sides_of(parse_prompt(text, 3, mentions="all"), 3) == ("middle", "right", "left")
    assert sides_of(parse_prompt("A man@1 on the left, a woman@2 and a boy@3.", 3, mentions="all"), 3) is None


def test_sides_and_clothes_of_drawn_sentences_are_read():
    for seed in range(200):
        script = sample_script(seed, (sample_identity(2 * seed), sample_identity(2 * seed + 1)))
        _, prompt = write_caption(script, seed, looks=seed % 2 == 1)
        assert sides_of(prompt, 2) == (script.side(0), script.side(1))
        assert garment_colors_of(prompt, 2) == tuple(outfit.color for outfit in script.outfits)


def test_faces_from_left_to_right_are_people():
    prompt = read("A man@1 on the right and a woman@2 on the left.")
    assert assign_faces(2, [LEFT, RIGHT], GREY, prompt=prompt) == ((1, 0), "sides")
    assert assign_faces(2, [RIGHT, LEFT], GREY, prompt=prompt) == ((0, 1), "sides")


def test_too_many_and_too_few_faces():
    assert assign_by_sides(("right", "left"), [LEFT, face(5, 5, 6), RIGHT]) == (2, 0)
    assert assign_by_sides(("right", "left"), [LEFT]) == (None, None)
    assert assign_by_sides(("right", "left"), []) == (None, None)
    assert assign_faces(2, [], GREY, prompt=read("A man@1 and a woman@2.")) == (None, "")


@pytest.mark.parametrize(("first", "second"), [("left", "right"), ("right", "left")])
def test_one_face_of_two_is_whose_half_it_lies_in(first, second):
    prompt = read(f"a man@1 on the {first} and a man@2 on the {second}")
    wide = np.zeros((200, 400, 3), np.uint8)
    for side, x in (("left", 80), ("right", 330)):
        expected = (0, None) if side == first else (None, 0)
        assert assign_faces(2, [face(x, 80, 60)], wide, prompt=prompt) == (expected, "sides")
    assert assign_faces(2, [face(190, 80, 60)], wide, prompt=prompt) == ((None, None), "sides")  # across the middle
    assert assign_faces(2, [], wide, prompt=prompt) == ((None, None), "sides")
    assert assign_faces(2, [face(80, 80), face(330, 80)], wide, prompt=prompt)[0] == (
        (0, 1) if first == "left" else (1, 0)
    )


def test_faces_of_three_are_whose_third_they_lie_in():
    text = "A man@1 in the middle, a woman@2 on the left and a boy@3 on the right"
    prompt = parse_prompt(text, persons=3, mentions="all")
    wide = np.zeros((200, 600, 3), np.uint8)
    assert assign_faces(3, [face(100, 80), face(500, 80)], wide, prompt=prompt) == ((None, 0, 1), "sides")
    assert assign_faces(3, [face(80, 80), face(120, 80)], wide, prompt=prompt) == ((None, None, None), "sides")


FOUR = "From left to right: a man@2, a woman@1, a boy@4 and a girl@3"


def test_four_faces_from_left_to_right_are_four_people():
    prompt = parse_prompt(FOUR, 4, mentions="all")
    wide = np.zeros((200, 800, 3), np.uint8)
    row = [face(x, 80) for x in (700, 100, 500, 300)]
    assert assign_faces(4, row, wide, prompt=prompt) == ((3, 1, 0, 2), "sides")
    bystander = face(400, 20, 8)
    assert assign_faces(4, [bystander, *row], wide, prompt=prompt) == ((4, 2, 1, 3), "sides")
    assert assign_faces(4, row[:3], wide, prompt=prompt) == ((None, 1, 0, 2), "sides")  # each in a quarter of their own
    assert assign_faces(4, [face(200, 80), face(500, 80)], wide, prompt=prompt) == ((None, None, None, 1), "sides")


def dressed(colors):
    """A picture of people side by side, each in one color of clothes, and their faces."""
    picture = np.full((200, 150 * len(colors), 3), 255, np.uint8)
    for n, color in enumerate(colors):
        picture[80:, 150 * n + 30 : 150 * n + 120] = GARMENT_COLORS[color]
    return picture, [face(150 * n + 75, 55, 40) for n in range(len(colors))]


def test_four_faces_are_told_apart_by_their_clothes():
    text = "A man@1 in a red coat, a woman@2 in a blue dress, a boy@3 in a green shirt and a girl@4 in a black coat"
    prompt = parse_prompt(text, 4, mentions="all")
    picture, faces = dressed(("green", "black", "blue", "red"))
    assert assign_faces(4, faces, picture, prompt=prompt) == ((3, 2, 0, 1), "clothes")
    extra = face(375, 20, 10)
    assert assign_faces(4, [extra, *faces], picture, prompt=prompt) == ((4, 3, 1, 2), "clothes")
    assert assign_faces(4, faces[1:], picture, prompt=prompt) == ((2, 1, None, 0), "clothes")
    picture, faces = dressed(("green", "white", "white", "red"))  # nobody wears blue or black: either may be either
    assert assign_faces(4, faces, picture, prompt=prompt) == (None, "")


def test_boxes_and_masks_say_where_four_people_are():
    boxes = [(200 * n, 0, 200 * n + 200, 200) for n in (2, 0, 3, 1)]
    faces = [face(200 * n + 100, 60, 50) for n in range(4)]
    assert assign_by_boxes(boxes, faces) == (2, 0, 3, 1)
    assert assign_by_boxes(boxes, [faces[0], faces[3]]) == (None, 0, 1, None)
    assert assign_by_boxes(boxes, [*faces, face(120, 170, 10)]) == (2, 0, 3, 1)
    masks = np.zeros((4, 200, 800))
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    assert assign_by_masks(masks, faces) == (2, 0, 3, 1)
    assert assign_by_masks(masks, faces[1:3]) == (1, None, None, 0)


def test_clothes_assign_where_no_side_is_named():
    for seed in range(30):
        sample = sample_pair(seed, references=0)
        text = re.sub(r"\bon the (left|right)\b", "", write_caption(sample.script, seed)[0], flags=re.IGNORECASE)
        faces = [Face(person.face_box, person.landmarks) for person in sample.people]
        prompt = read(text)
        assert sides_of(prompt, 2) is None
        assert assign_faces(2, faces[::-1], sample.picture, prompt=prompt) == ((1, 0), "clothes")
        assert assign_faces(2, faces[:1], sample.picture, prompt=prompt) == ((0, None), "clothes")
        assert assign_faces(2, faces[1:], sample.picture, prompt=prompt) == ((None, 0), "clothes")
        assert assign_faces(2, faces[:1], np.full_like(sample.picture, 128), prompt=prompt) == ((None, None), "clothes")
        worn = [f"a {outfit.color} {outfit.garment}" for outfit in sample.script.outfits]
        assert assign_faces(2, faces, sample.picture, clothes=worn) == ((0, 1), "clothes")


def test_clothes_not_as_written_decide_nothing():
    prompt = read("A man@1 in a red suit and a woman@2 in a green dress.")
    assert garment_colors_of(prompt, 2) == ("red", "green")
    assert assign_faces(2, [LEFT, RIGHT], GREY, prompt=prompt) == (None, "")
    assert assign_faces(2, [LEFT, RIGHT], GREY, clothes=["a red coat", "a hat"]) == (None, "")


def test_the_color_of_a_garment_among_other_words():
    assert garment_color("brown shoes, a navy-blue wool coat") == "blue"
    assert garment_color("a gray cotton T-shirt and jeans") == "grey"
    assert garment_color("red lips") is None


@pytest.mark.parametrize(
    "text",
    ["A man@1 in a suit and a woman@2 in a green dress.", "A man@1 in a red suit and a woman@2 in a red dress."],
)
def test_clothes_of_one_color_tell_nobody_apart(text):
    assert garment_colors_of(read(text), 2) is None


def test_boxes_of_people_own_the_faces_in_them():
    people = [(60, 10, 120, 120), (0, 10, 60, 120)]
    assert assign_by_boxes(people, [LEFT, RIGHT]) == (1, 0)
    assert assign_by_boxes(people, [LEFT]) == (None, 0)
    assert assign_by_boxes(people, []) == (None, None)
    embraced = [(0, 10, 100, 120), (60, 10, 120, 120)]  # the right face is in both boxes
    assert assign_by_boxes(embraced, [RIGHT, LEFT]) == (1, 0)


def test_masks_own_the_faces_that_they_cover():
    masks = np.zeros((2, 120, 120))
    masks[0, :, 60:], masks[1, :, :60] = 1, 1
    assert assign_by_masks(masks, [LEFT, RIGHT]) == (1, 0)
    assert assign_by_masks(masks, [face(60, 30)]) in ((0, None), (None, 0))
    assert assign_by_masks(np.zeros((2, 120, 120)), [LEFT, RIGHT]) == (None, None)
    with refused("not-person-masks", "[120, 120]"):
        assign_by_masks(np.zeros((120, 120)), [LEFT])


def test_masks_count_before_boxes_and_boxes_before_words():
    prompt = read("A man@1 on the left and a woman@2 on the right.")
    masks = np.zeros((2, 120, 120))
    masks[0, :, 60:], masks[1, :, :60] = 1, 1
    boxes = [(60, 0, 120, 120), (0, 0, 60, 120)]
    given = {"prompt": prompt, "boxes": boxes, "masks": masks}
    assert assign_faces(2, [LEFT, RIGHT], GREY, **given) == ((1, 0), "masks")
    assert assign_faces(2, [LEFT, RIGHT], GREY, **{**given, "masks": None}) == ((1, 0), "boxes")
    assert assign_faces(2, [LEFT, RIGHT], GREY, prompt=prompt) == ((0, 1), "sides")
