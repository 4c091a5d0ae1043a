"""Where one to four people shall be: a preset or boxes -> masks."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ..dhumandiff.errors import LayoutError
from ..dhumandiff.faces import photo_from_tensor
from ..dhumandiff.layout.layout import (
    FEATHER,
    MIN_BOX,
    Boxes,
    check_front,
    draw_layout,
    format_boxes,
    layout_masks,
    parse_boxes,
    pixel_boxes,
)
from ..dhumandiff.layout.person_style import PERSON_COLORS, PERSON_DASHES
from ..dhumandiff.layout.presets import (
    CUSTOM,
    MAX_SQUARE_RATIO,
    MOST_PEOPLE,
    PRESET_CHOICES,
    PRESETS,
    check_people,
    preset_boxes,
    preset_front,
)
from .comfy.schema import ADVANCED, BoundingBoxType, check_choice, schema

LATENT_SCALE = 8
"""Pixels of the picture to one of the latent, each way: SDXL's."""
AS_PRESET = "as preset"
FRONT = {AS_PRESET: None, "person 1": 1, "person 2": 2, "neither": None, "person 3": 3, "person 4": 4}
"""What `in_front` offers. As preset: what the preset says, in custom boxes neither."""


class DHDPortraitLayout(io.ComfyNode):
    """A box a person -> a soft mask for each of them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        side = {"default": 1024, "min": 16, "max": 16384, "step": 8, "optional": True}
        preset = io.Combo.Input(
            "preset",
            options=list(PRESET_CHOICES),
            default=next(iter(PRESETS)),
            tooltip="Where the people are, for a picture of this shape. Moving a box makes it custom, and then `boxes` holds.",
        )
        # What web/portrait_layout.js needs to know, so that nothing is written down twice.
        preset.extra_dict = {
            "layout": {
                "presets": {
                    name: {people: one._asdict() for people, one in known.items()} for name, known in PRESETS.items()
                },
                "custom": CUSTOM,
                "min_box": MIN_BOX,
                "max_square_ratio": MAX_SQUARE_RATIO,
                "front": FRONT,
                "colors": PERSON_COLORS[:MOST_PEOPLE],
                "dashes": PERSON_DASHES[:MOST_PEOPLE],
            }
        }
        return schema(
            node_id="DHDPortraitLayout",
            display_name="Portrait Layout",
            description="Says where one to four people shall be: choose a preset, or drag and resize the boxes. The masks go "
            "into Apply Disparity-Aware Conditioning, prompts of regions, detailers and Score Identity.",
            search_aliases=["layout", "regions", "boxes", "masks", "position", "two people", "group", "dhumandiff"],
            inputs=[
                preset,
                io.Combo.Input(
                    "in_front",
                    options=[*FRONT],
                    default=AS_PRESET,
                    optional=True,
                    tooltip="Who has the place where the boxes overlap. Neither: it goes to the one whose box's middle is nearer; "
                    "so it does in custom boxes with `as preset`.",
                ),
                io.Int.Input(
                    "width", **side, tooltip="Of the picture, in pixels. A latent's size holds where one is connected."
                ),
                io.Int.Input(
                    "height", **side, tooltip="Of the picture, in pixels. A latent's size holds where one is connected."
                ),
                io.Float.Input(
                    "feather",
                    default=FEATHER,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="How wide the soft edge of the masks is, as a share of the picture's shorter side. 0 is a hard edge.",
                    **ADVANCED,
                ),
                io.String.Input(
                    "boxes",
                    default=format_boxes(preset_boxes(next(iter(PRESETS)), side["default"], side["default"])),
                    optional=True,
                    tooltip="The boxes, with the preset custom: left top right bottom of person 1, a semicolon, the same of person 2 and so "
                    "on, as shares of the picture. The page writes them here.",
                ),
                io.Latent.Input("latent", optional=True, tooltip="The latent to be sampled: the picture has its size."),
                io.Image.Input(
                    "background",
                    optional=True,
                    tooltip="Shown behind the boxes after a run. It changes nothing in the masks.",
                ),
                io.Int.Input(
                    "people",
                    default=2,
                    min=1,
                    max=MOST_PEOPLE,
                    optional=True,
                    tooltip="How many people there are: each has a box and a mask.",
                ),
            ],
            outputs=[  # by name: an old page shows the type instead
                io.Mask.Output(
                    "mask_1", display_name="mask_1", tooltip="Where person 1 may be: white, with soft edges."
                ),
                io.Mask.Output(
                    "mask_2", tooltip="Where person 2 may be. Nowhere do the masks add up to more than white."
                ),
                BoundingBoxType.Output(
                    "boxes_out",
                    display_name="boxes",
                    tooltip="Each person's box in pixels: x, y, width, height; and the picture's size.",
                ),
                io.Image.Output(
                    "preview", display_name="preview", tooltip="Masks and labelled boxes over the background, or grey."
                ),
                io.Mask.Output(
                    "mask_3", display_name="mask_3", tooltip="Where person 3 may be. Black with fewer people."
                ),
                io.Mask.Output(
                    "mask_4", display_name="mask_4", tooltip="Where person 4 may be. Black with fewer people."
                ),
            ],
            is_output_node=True,  # or the page would not hear of the background again when all of a run is cached
        )

    @classmethod
    def validate_inputs(
        cls,
        preset: str | None = None,
        boxes: str | None = None,
        in_front: str | None = None,
        people: int | None = 2,
    ) -> bool | str:
        # In the place of ComfyUI's own check of the choices, which 0.3.64 does not make for optional inputs. What is linked comes
        # as None and is checked when it runs.
        if in_front is not None and in_front not in FRONT:
            return f"in_front is {in_front!r}: choose one of {', '.join(FRONT)}."
        try:
            if people is None:
                return True
            check_people(people)
            if preset is not None:
                preset_front(preset, people)
            if in_front is not None:
                check_front(FRONT[in_front], people)
            if preset == CUSTOM and boxes is not None:
                parse_boxes(boxes, people)
        except LayoutError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        preset: str,
        in_front: str = AS_PRESET,
        width: int = 1024,
        height: int = 1024,
        feather: float = FEATHER,
        boxes: str = "",
        latent: dict[str, Any] | None = None,
        background: Tensor | None = None,
        people: int = 2,
    ) -> io.NodeOutput:
        check_people(people)
        preset = check_choice("preset", preset, PRESET_CHOICES)
        in_front = check_choice("in_front", in_front, FRONT)
        if latent is not None:
            height, width = _picture_size(latent)
        chosen: Boxes = parse_boxes(boxes, people) if preset == CUSTOM else preset_boxes(preset, width, height, people)
        front = preset_front(preset, people) if in_front == AS_PRESET else FRONT[in_front]
        masks = layout_masks(chosen, width, height, feather=feather, front=front)
        if background is not None:
            background = _one_picture(background)
        preview = draw_layout(chosen, masks, None if background is None else background[0])
        # A list of pictures, each a list of boxes: what ComfyUI's detectors give, too.
        in_pixels = [
            {
                "x": x0,
                "y": y0,
                "width": x1 - x0,
                "height": y1 - y0,
                "picture_width": width,  # so that the boxes hold for a latent of another size, too
                "picture_height": height,
            }
            for x0, y0, x1, y1 in pixel_boxes(chosen, width, height)
        ]
        shown = ui.PreviewImage(background[:1], cls=cls).as_dict()["images"] if background is not None else []
        layout = {"width": width, "height": height, "people": people, "background": next(iter(shown), None)}
        # Black where nobody is: a mask that any node takes. For somebody who is there after all it is refused.
        nobody = torch.zeros(1, height, width)
        first, second, third, fourth = [*masks.split(1), *[nobody] * (MOST_PEOPLE - people)]
        return io.NodeOutput(first, second, [in_pixels], preview[None], third, fourth, ui={"layout": [layout]})


def _picture_size(latent: dict[str, Any]) -> tuple[int, int]:
    """(height, width) of a latent's picture, px.

    Raises:
        LayoutError: it has no size.
    """
    samples = latent.get("samples") if isinstance(latent, dict) else None
    shape = tuple(getattr(samples, "shape", ()))
    if len(shape) < 3:
        raise LayoutError(
            f"latent has the shape {list(shape)}: [pictures, channels, height, width] is needed. Connect a LATENT, or set "
            "width and height.",
            code="no-latent",
        )
    return LATENT_SCALE * shape[-2], LATENT_SCALE * shape[-1]


def _one_picture(background: Tensor) -> Tensor:
    """The first picture of a batch [1, H, W, 3], read as photos are: grey has one channel, RGBA four.

    Raises:
        LayoutError: there is none.
        ImageError: it is none.
    """
    if background.ndim != 4 or not len(background):
        raise LayoutError(
            f"background has the shape {list(background.shape)}: [pictures, height, width, channels] with at least one "
            "picture is needed. Connect an IMAGE, or none.",
            code="no-background",
        )
    pixels = photo_from_tensor(background[0], "background").pixels
    return background[:1].float() if background.shape[-1] == 3 else torch.from_numpy(pixels)[None].float() / 255
