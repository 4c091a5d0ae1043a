"""Portrait Layout on a real ComfyUI: by numbers alone, for one to four people, its masks in the pair, boxes for other nodes, and what it refuses."""

import copy

import pytest
import torch
from dhd_pack.nodes.layout import DHDPortraitLayout
from PIL import Image
from support.refused import refused
from test_server import node_of, portrait  # noqa: F401 (a fixture)

BOXES = "0.1 0.2 0.4 0.9; 0.5 0.1 0.9 0.8"


def run(**inputs):
    return DHDPortraitLayout.execute(**inputs).result


def test_a_preset_s_name_is_all_it_needs():
    first, second, boxes, preview, *_ = run(preset="side by side")
    assert first.shape == second.shape == (1, 1024, 1024)
    assert preview.shape == (1, 1024, 1024, 3)
    picture = {"picture_width": 1024, "picture_height": 1024}
    assert boxes == [
        [
            {"x": 41, "y": 123, "width": 471, "height": 901, **picture},
            {"x": 512, "y": 123, "width": 471, "height": 901, **picture},
        ]
    ]


@pytest.mark.parametrize("people", [1, 2, 3, 4])
def test_each_person_has_a_box_and_a_mask_and_nobody_else(people):
    """Masks of those who are not there are black."""
    preset = "faces only"
    first, second, (boxes,), _, third, fourth = run(preset=preset, width=104, height=152, people=people)
    masks = torch.cat([first, second, third, fourth])
    assert masks.shape == (4, 152, 104)
    assert masks.flatten(1).any(dim=1).tolist() == [True] * people + [False] * (4 - people)
    assert len(boxes) == people
    for mask, box in zip(masks, boxes, strict=False):
        assert mask[box["y"] + box["height"] // 2, box["x"] + box["width"] // 2] == 1
        assert (box["picture_width"], box["picture_height"]) == (104, 152)


def test_the_boxes_of_a_prompt_of_before_hold_for_two():
    """A prompt made before there was the input: the same masks."""
    old = run(preset="custom", boxes=BOXES, width=64, height=64)
    new = run(preset="custom", boxes=BOXES, width=64, height=64, people=2)
    assert all(torch.equal(a, b) for a, b in zip(old[:2], new[:2], strict=True))
    assert not old[4].any()


def test_somebody_beyond_the_second_can_be_in_front():
    crossed = "0 0 0.6 1; 0.4 0 1 1; 0.2 0 0.8 1"
    masks = run(preset="custom", boxes=crossed, in_front="person 3", people=3, width=64, height=64, feather=0.0)
    assert [float(masks[k][0, 32, 32]) for k in (0, 1, 4)] == [0.0, 0.0, 1.0]


def test_the_size_is_a_connected_latent_s():
    latent = {"samples": torch.zeros(2, 4, 152, 104)}
    masks = run(preset="full body", width=512, height=512, latent=latent)[:2]
    assert [mask.shape for mask in masks] == [(1, 1216, 832)] * 2


def test_in_front_says_who_has_the_overlap():
    crossed = "0.1 0.1 0.7 0.9; 0.3 0.1 0.9 0.9"
    at = (0, 32, 32)
    size = {"width": 64, "height": 64, "boxes": crossed, "preset": "custom"}
    for front, expected in (("person 1", (1.0, 0.0)), ("person 2", (0.0, 1.0))):
        assert tuple(float(mask[at]) for mask in run(**size, in_front=front)[:2]) == expected
    behind = {"preset": "one behind", "width": 64, "height": 64}
    assert torch.equal(run(**behind)[0], run(**behind, in_front="person 1")[0])
    assert not torch.equal(run(**behind)[0], run(**behind, in_front="person 2")[0])


def test_boxes_hold_with_custom_only():
    size = {"width": 80, "height": 60}
    first = {"x": 8, "y": 12, "width": 24, "height": 42, "picture_width": 80, "picture_height": 60}
    assert run(**size, preset="custom", boxes=BOXES)[2][0][0] == first
    assert run(**size, preset="faces only", boxes="nonsense")[2] == run(**size, preset="faces only")[2]
    plain = run(**size, preset="custom", boxes=BOXES)
    over = run(**size, preset="custom", boxes=BOXES, background=torch.rand(1, 50, 50, 3))
    assert torch.equal(plain[0], over[0])
    assert not torch.equal(plain[3], over[3])


def laid_out(prompt, **inputs):
    """The prompt with a layout node of these inputs whose masks go into the pair."""
    prompt = copy.deepcopy(prompt)
    prompt["900"] = {"class_type": "DHDPortraitLayout", "inputs": inputs}
    prompt[node_of(prompt, "DHDApplyPair")]["inputs"] |= {"mask_1": ["900", 0], "mask_2": ["900", 1]}
    return prompt


def drawn(server, prompt):
    result = server.run(prompt)
    assert result["error"] is None
    saved = result["outputs"][node_of(prompt, "SaveImage")]["images"][0]["filename"]
    return Image.open(server.base / "output" / saved).tobytes(), result


@pytest.mark.parametrize(
    ("inputs", "code"),
    [
        ({"latent": {}}, "input-of-another-kind"),
        ({"latent": {"samples": torch.zeros(3)}}, "no-latent"),
        ({"latent": {"samples": torch.zeros(1, 4, 0, 8)}}, "no-picture-size"),
        ({"background": torch.zeros(0, 8, 8, 3)}, "no-background"),
        ({"background": torch.zeros(8, 8, 3)}, "no-background"),
        ({"background": torch.zeros(1, 8, 8, 2)}, "photo-of-another-shape"),
        ({"background": torch.full((1, 8, 8, 3), float("nan"))}, "photo-not-finite"),
        ({"preset": "custom", "boxes": 7}, "input-of-another-kind"),
        ({"width": 10**9}, "picture-too-large"),
        ({"people": 3, "preset": "one behind"}, "preset-for-other-people"),
        ({"people": 3, "preset": "custom", "boxes": BOXES}, "not-two-boxes"),
        ({"people": 1, "preset": "custom", "boxes": BOXES}, "not-two-boxes"),
        ({"in_front": "person 3"}, "nobody-in-front"),
        ({"people": "3"}, "input-of-another-kind"),
        ({"people": 5}, "people-out-of-range"),
    ],
)
def test_odd_shapes_and_sizes_are_refused(inputs, code):
    with refused(code):
        run(**{"preset": "side by side", "width": 64, "height": 64, **inputs})


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_background_of_any_channels_is_shown(channels):
    preview = run(preset="side by side", width=64, height=64, background=torch.rand(2, 20, 30, channels))[3]
    assert preview.shape == (1, 64, 64, 3)


@pytest.mark.slow
def test_by_api_the_masks_decide_the_picture(server, portrait):  # noqa: F811 (the fixture)
    latent = portrait[node_of(portrait, "DHDCascadeKSampler")]["inputs"]["latent_image"]
    there, result = drawn(server, laid_out(portrait, preset="custom", boxes=BOXES, latent=latent))
    told = result["outputs"]["900"]["layout"]
    assert told == [{"width": 512, "height": 512, "people": 2, "background": None}]
    exchanged = "; ".join(reversed(BOXES.split("; ")))
    assert drawn(server, laid_out(portrait, preset="custom", boxes=exchanged, latent=latent))[0] != there


def test_a_text_is_no_number_of_people(server, portrait):  # noqa: F811 (the fixture)
    prompt = laid_out(portrait, preset="side by side", people=["901", 0])
    prompt["901"] = {"class_type": "PrimitiveString", "inputs": {"value": "3"}}
    assert "mismatch" in server.run(prompt)["error"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"preset": "custom", "boxes": "0 0 1 1"}, "boxes needs 2 boxes and has 1"),
        (
            {"preset": "custom", "boxes": "0 0 512 1024; 512 0 1024 1024"},
            "person 1's box (0 0 512 1024) leaves the picture",
        ),
        ({"preset": "back to back"}, "choose one of side by side"),
        ({"preset": "side by side", "in_front": "nobody"}, "in_front"),
        ({"preset": "side by side", "in_front": "person 4"}, "Nobody is called person 4"),
        ({"preset": "side by side", "people": 7}, "1 to 4 people"),
        ({"preset": "two rows"}, "choose one of side by side"),
        ({"preset": "custom", "boxes": BOXES, "people": 4}, "boxes needs 4 boxes and has 2"),
        ({"preset": "side by side", "feather": 7.0}, "feather"),
    ],
)
def test_bad_input_is_refused_before_the_run(server, portrait, inputs, message):  # noqa: F811 (the fixture)
    assert message in server.run(laid_out(portrait, **inputs))["error"]
