"""Where one to four people shall be: presets, boxes and masks."""

import pytest
import torch
from PIL import ImageColor
from support.refused import refused

from dhumandiff.errors import LayoutError
from dhumandiff.layout.layout import (
    MIN_BOX,
    PRESETS,
    draw_layout,
    format_boxes,
    layout_masks,
    parse_boxes,
    pixel_boxes,
    preset_boxes,
    preset_front,
    shape_of,
)
from dhumandiff.layout.person_style import PERSON_COLORS, PERSON_DASHES, person_color
from dhumandiff.layout.presets import MOST_PEOPLE, PRESET_CHOICES

SIZES = {"portrait": (208, 304), "square": (256, 256), "landscape": (304, 208)}
HALVES = ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0))
CROSSED = ((0.1, 0.2, 0.7, 0.9), (0.3, 0.1, 0.9, 0.8))

every_size = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
LAID_OUT = [(name, people) for name, known in PRESETS.items() for people in known]
every_preset = pytest.mark.parametrize(("name", "people"), LAID_OUT)


def test_a_picture_s_shape_follows_from_its_sides():
    assert {name: shape_of(*size) for name, size in SIZES.items()} == {name: name for name in SIZES}
    assert shape_of(1024, 1100) == "square"
    assert shape_of(832, 1216) == "portrait"


@every_size
@every_preset
def test_presets_lie_inside_with_person_1_left(name, people, size):
    boxes = preset_boxes(name, *size, people)
    assert len(boxes) == people
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1
        assert min(right - left, bottom - top) > 5 * MIN_BOX
    middles = [(box[0] + box[2]) / 2 for box in boxes]
    assert middles[:2] == sorted(middles[:2])
    assert parse_boxes(format_boxes(boxes), people) == boxes


@every_size
@every_preset
@pytest.mark.parametrize("front", [None, 1, -1])
def test_masks_are_soft_and_never_exceed_one(name, people, size, front):
    width, height = size
    front = people if front == -1 else front
    masks = layout_masks(preset_boxes(name, width, height, people), width, height, front=front)
    assert masks.shape == (people, height, width)
    assert masks.dtype == torch.float32
    assert masks.min() >= 0
    assert masks.sum(0).max() <= 1 + 1e-6
    for mask in masks:
        assert mask.max() > 0.99
        assert ((mask > 0.1) & (mask < 0.9)).sum() > 50
        assert mask.diff(dim=1).abs().max() < 0.35


def test_faces_only_are_as_large_as_faces():
    for size in SIZES.values():
        boxes = [box for people in (1, 2, 3, 4) for box in preset_boxes("faces only", *size, people)]
        for x0, y0, x1, y1 in pixel_boxes(boxes, *size):
            assert 1.1 < (y1 - y0) / (x1 - x0) < 1.4


def test_the_one_in_front_has_the_overlap():
    x, y = 128, 128  # in both boxes
    for front in (1, 2):
        masks = layout_masks(CROSSED, 256, 256, front=front)
        assert masks[front - 1, y, x] == 1
        assert masks[2 - front, y, x] == 0
    assert preset_front("one behind") == 1
    assert preset_front("parent and child") == 2
    assert preset_front("custom") is None


def test_masks_of_two_are_what_they_always_were():
    """To the bit: pictures of shared workflows follow from them."""
    for front, won in ((1, 1.0), (2, 0.0)):
        first, second = layout_masks(CROSSED, 96, 64, front=front)
        alone = [layout_masks((box,), 96, 64)[0] for box in CROSSED]
        assert torch.equal(first, alone[0] * (1 - alone[1] * (1 - torch.full_like(first, won))))
        assert torch.equal(second, alone[1] * (1 - alone[0] * torch.full_like(first, won)))


def test_among_three_the_one_in_front_wins_and_then_the_nearer_middle():
    boxes = ((0.0, 0.0, 0.6, 1.0), (0.4, 0.0, 1.0, 1.0), (0.3, 0.4, 0.7, 1.0))
    masks = layout_masks(boxes, 200, 100, feather=0.0, front=3)
    assert masks[:, 80, 100].tolist() == [0, 0, 1]
    assert masks[:, 20, 82].tolist() == [1, 0, 0]
    assert masks[:, 20, 118].tolist() == [0, 1, 0]


@pytest.mark.parametrize("people", [3, 4])
def test_masks_of_boxes_anywhere_never_exceed_one(people):
    """Also where all of them meet: no matter who is nearer to whom, a place is given away once."""
    generator = torch.Generator().manual_seed(people)
    for _ in range(40):
        corners = torch.rand(people, 2, 2, generator=generator) * 0.5
        boxes = tuple((x, y, x + 0.3 + w / 2, y + 0.3 + h / 2) for (x, y), (w, h) in corners.tolist())
        feather = float(torch.rand(1, generator=generator))
        masks = layout_masks(boxes, 40, 56, feather=feather)
        assert masks.min() >= 0
        assert masks.sum(0).max() <= 1 + 1e-6


def test_with_neither_in_front_the_nearer_middle_wins():
    boxes = ((0.0, 0.0, 0.6, 1.0), (0.4, 0.0, 1.0, 1.0))
    first, second = layout_masks(boxes, 200, 100, feather=0.02)
    assert first[50, 92] > 0.95
    assert second[50, 92] < 0.05
    assert torch.allclose(first, second.flip(1), atol=1e-5)


def test_edges_without_feather_and_at_the_border():
    hard = layout_masks(HALVES, 64, 32, feather=0.0)
    assert set(hard.unique().tolist()) == {0.0, 1.0}
    assert hard[0, :, :32].all()
    assert hard[1, :, 32:].all()
    soft = layout_masks(HALVES, 64, 32, feather=0.25)
    assert soft[0, :, 0].min() == 1
    assert soft[1, :, -1].min() == 1
    assert 0.2 < soft[0, 16, 31] < 0.8


def test_the_middle_of_a_box_stays_white():
    masks = layout_masks(parse_boxes("0.1 0.1 0.3 0.3; 0.6 0.6 0.8 0.8"), 200, 200, feather=1.0)
    assert masks[0, 40, 40] > 0.95
    assert masks[1, 140, 140] > 0.95


def test_boxes_are_read_from_text():
    expected = ((0.04, 0.12, 0.5, 1.0), (0.5, 0.12, 0.96, 1.0))
    for text in (
        "0.04 0.12 0.5 1; 0.5 0.12 0.96 1",
        ".04,.12,.5,1;.5,.12,.96,1;",
        "0.04 0.12 0.5 1\n0.5, 0.12, 0.96, 1\n",
        "0.04 0.12 0.5 1\r0.5 0.12 0.96 1\r\n",
        "０．０４　０．１２　０．５　１；０．５，０。１２、０．９６，１",
        "\ufeff0.04 0.12 0.5\u200b 1;\u00a00.5 0.12 0.96 1",
    ):
        assert parse_boxes(text) == expected
    assert format_boxes(expected) == "0.04 0.12 0.5 1; 0.5 0.12 0.96 1"
    assert pixel_boxes(expected, 100, 200) == [(4, 24, 50, 200), (50, 24, 96, 200)]
    assert parse_boxes("0 0 1 1", 1) == ((0, 0, 1, 1),)
    assert parse_boxes("0 0 1 1; " * 4, 4) == ((0, 0, 1, 1),) * 4


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        ("", "not-two-boxes", "2 boxes and has 0"),
        ("0 0 0.5 1", "not-two-boxes", "2 boxes and has 1"),
        ("0 0 0.5 1; 0.5 0 1 1; 0 0 1 1", "not-two-boxes", "2 boxes and has 3"),
        ("0 0 0.5; 0.5 0 1 1", "not-four-numbers", "'0 0 0.5' of person 1"),
        ("0 0 0.5 1; left 0 1 1", "not-four-numbers", "'left 0 1 1' of person 2"),
        ("0 0 nan 1; 0.5 0 1 1", "not-four-numbers", "person 1"),
        ("0 0 0.5 1; 0.5 0 512 1024", "box-outside", "person 2's box (0.5 0 512 1024)"),
        ("-0.1 0 0.5 1; 0.5 0 1 1", "box-outside", "person 1's box (-0.1 0 0.5 1)"),
        ("0.5 0 0 1; 0.5 0 1 1", "box-empty", "left top right bottom"),
        ("0 0 0.01 1; 0.5 0 1 1", "box-empty", "at least 0.02 of the picture"),
    ],
)
def test_boxes_that_cannot_be_used_are_refused(text, code, named):
    with refused(code, "boxes", named, error=LayoutError):
        parse_boxes(text)


@pytest.mark.parametrize(("people", "given"), [(3, 2), (3, 4), (1, 2), (4, 0)])
def test_other_numbers_of_boxes_than_of_people_are_refused(people, given):
    with refused("not-two-boxes", f"needs {people} ", f"has {given}", error=LayoutError):
        parse_boxes("0 0 1 1;" * given, people)


def test_a_preset_without_boxes_for_so_many_lists_those_that_have():
    with refused("preset-for-other-people", "'one behind'", "3 people", "side by side, ", "two rows", "custom") as told:
        preset_boxes("one behind", 64, 64, 3)
    assert "in the middle" not in str(told.value)
    with refused("preset-for-other-people", "1 person", "in the middle"):
        preset_front("side by side", 1)


@pytest.mark.parametrize("people", [0, 5, -1, 2.5, "2", "two", None, True, [2], float("nan")], ids=str)
def test_what_is_no_number_of_people_is_refused(people):
    for what in (lambda: preset_boxes("side by side", 64, 64, people), lambda: parse_boxes("0 0 1 1", people)):
        with refused("people-out-of-range", "1 to 4", error=LayoutError):
            what()


def test_four_people_can_be_laid_out_and_told_apart():
    """There is somewhere to stand for any number of people, and a look for each."""
    assert {people for _, people in LAID_OUT} == {1, 2, 3, 4} == set(range(1, MOST_PEOPLE + 1))
    assert set(PRESET_CHOICES) == {*PRESETS, "custom"}
    assert len(set(PERSON_COLORS)) == len(set(PERSON_DASHES)) == MOST_PEOPLE


def test_other_bad_settings_are_named():
    with refused("unknown-preset", "'back to back'", "side by side, ", "custom"):
        preset_boxes("back to back", 64, 64)
    with refused("no-picture-size", "0 x 64"):
        layout_masks(HALVES, 0, 64)
    with refused("feather-out-of-range", "feather is 2"):
        layout_masks(HALVES, 64, 64, feather=2.0)
    for front in (3, 0):
        with refused("nobody-in-front", f"person {front}"):
            layout_masks(HALVES, 64, 64, front=front)


def test_the_preview_shows_each_box_s_color_and_dash():
    boxes = parse_boxes("0.1 0.1 0.4 0.9; 0.6 0.1 0.9 0.9")
    width, height = 400, 300
    picture = draw_layout(boxes, layout_masks(boxes, width, height), torch.rand(50, 60, 3))
    assert picture.shape == (height, width, 3)
    shares = []
    for person, (x0, y0, x1, y1) in enumerate(pixel_boxes(boxes, width, height)):
        color = torch.tensor(ImageColor.getrgb(person_color(person))) / 255
        edge = picture[y1 - 1, x0:x1]
        shares.append(float(((edge - color).abs().amax(-1) < 0.01).float().mean()))
        chip = picture[y0 : y0 + 27, x0 : x0 + 27] if person == 0 else picture[y0 : y0 + 27, x1 - 27 : x1]
        assert (chip == 1).all(-1).sum() > 20  # the number, white on the colour
    assert shares[0] == 1
    assert 0.4 < shares[1] < 0.8


def test_the_preview_shows_four_people():
    boxes = preset_boxes("faces only", 400, 300, 4)
    picture = draw_layout(boxes, layout_masks(boxes, 400, 300))
    for person, (x0, y0, x1, y1) in enumerate(pixel_boxes(boxes, 400, 300)):
        color = torch.tensor(ImageColor.getrgb(person_color(person))) / 255
        inside = (picture[y0:y1, x0:x1] - color).abs().amax(-1) < 0.01
        assert inside.sum() > 400  # line and label
        assert (picture[y0 : y0 + 27, x0:x1] == 1).all(-1).sum() > 20  # the number


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (16, 1), (8, 8), (3, 4000), (4000, 3)])
@every_preset
def test_pictures_of_a_few_pixels_are_drawn(name, people, size):
    boxes = preset_boxes(name, *size, people)
    masks = layout_masks(boxes, *size, front=preset_front(name, people))
    assert draw_layout(boxes, masks).shape == (*size[::-1], 3)


@pytest.mark.parametrize("size", [("a", 64), (None, 64), (64, 12.5), (float("nan"), 64), (0, 64), (-8, 64)])
def test_what_is_no_size_is_refused(size):
    with refused("no-picture-size", f"{size[0]} x {size[1]}", error=LayoutError):
        preset_boxes("side by side", *size)


def test_a_picture_larger_than_memory_is_refused():
    with refused("picture-too-large", "1000000000 x 64", error=LayoutError):
        layout_masks(preset_boxes("side by side", 64, 64), 10**9, 64)


@pytest.mark.parametrize("text", [None, 7, ["0 0 1 1"], {"boxes": 1}])
def test_what_is_no_text_is_no_boxes(text):
    with refused("not-two-boxes", error=LayoutError):
        parse_boxes(text)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_background_of_any_channels_is_drawn(channels):
    boxes = preset_boxes("side by side", 64, 64)
    masks = layout_masks(boxes, 64, 64)
    assert draw_layout(boxes, masks, torch.ones(32, 40, channels)).shape == (64, 64, 3)
    with refused("photo-not-finite", "background"):
        draw_layout(boxes, masks, torch.full((32, 40, channels), float("nan")))
