"""Where two people shall be: presets, boxes and masks."""

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
from dhumandiff.layout.person_style import person_color

SIZES = {"portrait": (208, 304), "square": (256, 256), "landscape": (304, 208)}
HALVES = ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0))
CROSSED = ((0.1, 0.2, 0.7, 0.9), (0.3, 0.1, 0.9, 0.8))

every_size = pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
every_preset = pytest.mark.parametrize("name", PRESETS)


def test_a_picture_s_shape_follows_from_its_sides():
    assert {name: shape_of(*size) for name, size in SIZES.items()} == {name: name for name in SIZES}
    assert shape_of(1024, 1100) == "square"
    assert shape_of(832, 1216) == "portrait"


@every_size
@every_preset
def test_presets_lie_inside_with_person_1_left(name, size):
    boxes = preset_boxes(name, *size)
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= 1
        assert 0 <= top < bottom <= 1
        assert min(right - left, bottom - top) > 5 * MIN_BOX
    middles = [(box[0] + box[2]) / 2 for box in boxes]
    assert middles[0] < middles[1]
    assert parse_boxes(format_boxes(boxes)) == boxes


@every_size
@every_preset
@pytest.mark.parametrize("front", [None, 1, 2])
def test_masks_are_soft_and_never_exceed_one(name, size, front):
    width, height = size
    masks = layout_masks(preset_boxes(name, width, height), width, height, front=front)
    assert masks.shape == (2, height, width)
    assert masks.dtype == torch.float32
    assert masks.min() >= 0
    assert masks.sum(0).max() <= 1 + 1e-6
    for mask in masks:
        assert mask.max() > 0.99
        assert ((mask > 0.1) & (mask < 0.9)).sum() > 50
        assert mask.diff(dim=1).abs().max() < 0.35


def test_faces_only_are_as_large_as_faces():
    for size in SIZES.values():
        for x0, y0, x1, y1 in pixel_boxes(preset_boxes("faces only", *size), *size):
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


def test_other_bad_settings_are_named():
    with refused("unknown-preset", "'back to back'", "side by side, ", "custom"):
        preset_boxes("back to back", 64, 64)
    with refused("no-picture-size", "0 x 64"):
        layout_masks(HALVES, 0, 64)
    with refused("feather-out-of-range", "feather is 2"):
        layout_masks(HALVES, 64, 64, feather=2.0)
    with refused("nobody-in-front", "person 3"):
        layout_masks(HALVES, 64, 64, front=3)


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


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (16, 1), (8, 8), (3, 4000), (4000, 3)])
@pytest.mark.parametrize("name", PRESETS)
def test_pictures_of_a_few_pixels_are_drawn(name, size):
    boxes = preset_boxes(name, *size)
    masks = layout_masks(boxes, *size, front=preset_front(name))
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
