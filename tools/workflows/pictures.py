"""The pictures beside the workflows: what their miniature twins really drew, enlarged; and the pictures that two of them load.

python -m tools.workflows --pictures
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from dhumandiff.layout.person_style import person_color

from . import REPOSITORY, WORKFLOWS, clothes
from .running import Run, drawn_photo, ran, shipped_server

EXAMPLES = REPOSITORY / "examples"

PAPER, INK, SOFT = (255, 255, 255), (28, 30, 34), (98, 102, 110)
LINE = "drawn by the miniature that ships with the pack"
MOST = 195_000
"""Bytes of a picture."""


# --- sheets -----------------------------------------------------------------------------------------------------------------


def sheet(
    pictures: Sequence[tuple[str, Image.Image]], columns: int, size: tuple[int, int], line: str = LINE
) -> Image.Image:
    """Pictures in rows, each with a few words above, on white; a small line at the foot. `size` is that of each picture, px."""
    gap, head = 16, 30 if any(words for words, _ in pictures) else 0
    rows = -(-len(pictures) // columns)
    wide, high = columns * (size[0] + gap) + gap, rows * (size[1] + head + gap) + gap + 26
    made = Image.new("RGB", (wide, high), PAPER)
    draw = ImageDraw.Draw(made)
    for number, (words, picture) in enumerate(pictures):
        x, y = gap + number % columns * (size[0] + gap), gap + number // columns * (size[1] + head + gap)
        draw.text((x, y), words, INK, _font(20))
        made.paste(enlarged(picture, size), (x, y + head))
    draw.text((wide - gap, high - 14), line, SOFT, _font(16), anchor="rs")
    return made


def enlarged(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture within that size, on white: larger without blur at whole steps, then to size."""
    picture = picture.convert("RGB")
    scale = min(size[0] / picture.width, size[1] / picture.height)
    fit = picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.LANCZOS)
    if fit.size == size:
        return fit
    paper = Image.new("RGB", size, PAPER)
    paper.paste(fit, ((size[0] - fit.width) // 2, (size[1] - fit.height) // 2))
    return paper


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def write_jpg(picture: Image.Image, path: Path) -> None:
    """As good as fits into `MOST` bytes."""
    for quality in (92, 88, 84, 78, 70, 60):
        picture.save(path, quality=quality, optimize=True, subsampling=0 if quality > 80 else 2)
        if path.stat().st_size < MOST:
            return
    raise ValueError(f"{path.name}: more than {MOST} bytes at every quality")


# --- pictures that workflows load --------------------------------------------------------------------------------------------

# OpenPose's 18 points: nose, neck, right shoulder, elbow, wrist, left ones, right hip, knee, ankle, left ones, eyes, ears.
LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
# Round the colour circle in steps of 20 degrees, as the ControlNets for it were trained.
COLORS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85)),
    *((0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255)),
    *((255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
DANCERS = (
    # Left: turned to the right, one arm up to the partner's hand, one round the partner.
    (
        *(
            (0.37, 0.19),
            (0.33, 0.29),
            (0.26, 0.30),
            (0.22, 0.42),
            (0.30, 0.50),
            (0.41, 0.29),
            (0.47, 0.19),
            (0.51, 0.10),
        ),
        *((0.29, 0.54), (0.27, 0.73), (0.23, 0.92), (0.38, 0.54), (0.41, 0.73), (0.39, 0.92)),
        *((0.355, 0.17), (0.385, 0.17), (0.325, 0.18), None),
    ),
    # Right: turned to the left.
    (
        *(
            (0.63, 0.21),
            (0.67, 0.30),
            (0.59, 0.30),
            (0.54, 0.21),
            (0.51, 0.10),
            (0.74, 0.31),
            (0.79, 0.43),
            (0.71, 0.52),
        ),
        *((0.62, 0.55), (0.60, 0.73), (0.62, 0.92), (0.71, 0.55), (0.74, 0.73), (0.79, 0.91)),
        *((0.615, 0.19), (0.645, 0.19), None, (0.675, 0.20)),
    ),
)


def poses(people: Sequence[Sequence[tuple[float, float] | None]] = DANCERS, side: int = 768) -> Image.Image:
    """OpenPose's drawing of people whose points are shares of the picture; None: out of sight."""
    scale = 2
    picture = Image.new("RGB", (scale * side, scale * side))
    draw = ImageDraw.Draw(picture)
    for points in people:
        at = [point and tuple(scale * side * value for value in point) for point in points]
        for number, (a, b) in enumerate(LIMBS):
            if at[a] and at[b]:
                draw.line((*at[a], *at[b]), tuple(round(0.6 * part) for part in COLORS[number]), scale * 8)
        for number, point in enumerate(at):
            if point:
                x, y, r = *point, scale * 5
                draw.ellipse((x - r, y - r, x + r, y + r), COLORS[number])
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def region(person: int, width: int = 512, height: int = 512) -> Image.Image:
    """A canvas on which a person's place was painted with a round brush, as the mask editor saves it: see-through there."""
    middle, brush = (0.27 if person == 1 else 0.73) * width, 0.06 * height
    painted = Image.new("L", (width, height), 255)
    draw = ImageDraw.Draw(painted)
    for y in np.linspace(0.1, 1.02, 40):
        shoulders = 1 / (1 + np.exp(-24 * (y - 0.58)))
        head = 0.135 * (1 - ((y - 0.32) / 0.36) ** 2 * (1 - shoulders))
        wide = width * (head + 0.075 * shoulders) + 3 * np.sin(70 * y + person)
        draw.ellipse((middle - wide, y * height - brush, middle + wide, y * height + brush), 0)
    canvas = Image.new("RGBA", (width, height), (232, 227, 216, 255))
    canvas.putalpha(painted)
    return canvas


def write_examples() -> None:
    """examples/two_poses.png, region_1.png and region_2.png."""
    poses().save(EXAMPLES / "two_poses.png", optimize=True)
    for person in (1, 2):
        region(person).save(EXAMPLES / f"region_{person}.png", optimize=True)


# --- what each workflow shows --------------------------------------------------------------------------------------------------


def portrait(run: Run, picture: Image.Image | None = None, line: str = LINE) -> Image.Image:
    """The photos, and to the right of them what became of them."""
    gap, high = 16, 504 - 8
    side = (high + gap) // len(run.photos) - gap
    made = Image.new("RGB", (3 * gap + side + 672, high + 2 * gap + 30), PAPER)
    for number, photo in enumerate(run.photos):
        made.paste(enlarged(photo, (side, side)), (gap, gap + number * (side + gap)))
    made.paste(enlarged(picture or run.saved[-1], (672, 504)), (2 * gap + side, gap - 4))
    ImageDraw.Draw(made).text((made.width - gap, made.height - 14), line, SOFT, _font(16), anchor="rs")
    return made


def wedding(run: Run) -> Image.Image:
    """All ten."""
    return sheet([("", picture) for picture in run.saved], 5, (256, 192))


def posed(run: Run) -> Image.Image:
    """The poses; the miniature has no ControlNet, so there is no portrait to show."""
    return portrait(run, poses(), "photos drawn by the miniature; the poses lie in the folder examples")


def with_regions(run: Run) -> Image.Image:
    """Where each was painted, and the portrait."""
    picture, masks = run.saved[-1].resize((512, 384), Image.Resampling.LANCZOS), run.shown["MaskPreview"]
    tinted = Image.new("RGB", picture.size, (232, 227, 216))
    for person, mask in enumerate(masks):
        tinted.paste(person_color(person), (0, 0), mask.convert("L").resize(picture.size))
    return sheet([("painted in the mask editor", tinted), ("the portrait", picture)], 2, (512, 384))


def repaired(run: Run) -> Image.Image:
    """Before and after."""
    before, after = run.saved
    return sheet([("before", before), ("the faces drawn again", after)], 2, (512, 384))


def compared(run: Run) -> Image.Image:
    """The grid as it is saved."""
    return sheet([("left: DHumanDiff; right: an IP-Adapter, one set of weights for both", run.saved[0])], 1, (768, 576))


def styled(run: Run) -> Image.Image:
    """The twin's LoRA holds random numbers, and the picture says so."""
    return portrait(run, line="drawn by the miniature that ships with the pack, with a LoRA of random numbers")


def mini(run: Run) -> Image.Image:
    """What is shown instead of saved."""
    return portrait(run, run.shown["PreviewImage"][0])


def best(run: Run) -> Image.Image:
    """The four, and the best one with its scores."""
    four = Image.new("RGB", (548, 411), PAPER)
    for number, picture in enumerate(run.shown["PreviewImage"]):
        four.paste(enlarged(picture, (268, 201)), (number % 2 * 280, number // 2 * 210))
    return sheet([("four tries", four), ("the best, scored", run.shown["DHDIdentityScore"][0])], 2, (548, 411))


PLACED = "drawn photos, and the boxes of Portrait Layout; FLUX was not at hand for a portrait"


def placed(run: Run, picture: Image.Image | None = None, line: str = PLACED, **changed: Any) -> Image.Image:
    """The photos, and where Portrait Layout places them. A portrait would take FLUX, which no test has."""
    return portrait(run, places(run, picture, **changed), line)


def places(run: Run, picture: Image.Image | None = None, **changed: Any) -> Image.Image:
    """Where Portrait Layout places people."""
    from dhd_pack.nodes.layout import DHDPortraitLayout

    (inputs,) = (node["inputs"] for node in run.prompt.values() if node["class_type"] == "DHDPortraitLayout")
    values = {name: one for name, one in inputs.items() if not isinstance(one, list)} | changed
    background = None if picture is None else torch.from_numpy(np.array(picture))[None] / 255
    preview = DHDPortraitLayout.execute(**values, background=background).result[3][0]
    return Image.fromarray((preview * 255).round().byte().numpy())


def edited(run: Run) -> Image.Image:
    """The photo to edit, and a box over each face of it."""
    photo, faces = drawn_couple(), _couple().people
    boxes = "; ".join(
        " ".join(f"{one / side:.3f}" for one, side in zip(person.face_box, 2 * photo.size, strict=True))
        for person in faces
    )
    size = {"width": photo.width, "height": photo.height}
    people = replace(run, photos=run.photos[1:])  # the first one is the photo to edit
    return placed(people, photo, preset="custom", boxes=boxes, **size)


def schedule(run: Run) -> Image.Image:
    """How much noise is left at each step: as published, and as FLUX is sampled everywhere else in ComfyUI."""
    from .flux import SHIFT, STEPS

    curves = ((1.15, SOFT, "shift 1.15: ComfyUI's for FLUX"), (SHIFT, person_color(0), f"shift {SHIFT}: as published"))
    chart = Image.new("RGB", (672, 504), PAPER)
    draw = ImageDraw.Draw(chart)
    left, top, wide, high = 60, 30, 590, 420
    draw.line(((left, top), (left, top + high), (left + wide, top + high)), INK, 2)
    for number, (shift, color, words) in enumerate(curves):
        times = [1 - step / STEPS for step in range(STEPS + 1)]
        noise = [0.0 if t == 0 else 1 / (1 + np.exp(-shift) * (1 / t - 1)) for t in times]
        points = [(left + wide * k / STEPS, top + high * (1 - one)) for k, one in enumerate(noise)]
        draw.line(points, color, 3)
        for x, y in points:
            draw.ellipse((x - 4, y - 4, x + 4, y + 4), color)
        draw.text((left + 30, top + high - 66 + 28 * number), words, color, _font(20))
    draw.text((left + wide, top + high + 10), f"{STEPS} steps", INK, _font(18), anchor="rt")
    draw.text((left + 10, top + 80), "noise", INK, _font(18), anchor="lt")
    return portrait(run, chart, "drawn photos; FLUX was not at hand for a portrait")


PARTS_LINE = "drawn parts{}; Parts2Whole's weights were not at hand for a picture"
FACES = {"face.png": (4, "woman"), "bride_face.png": (8, "woman"), "groom_face.png": (7, "man")}
"""Number and gender for Draw Person."""


def part_picture(file: str) -> Image.Image:
    """What stands in for a photo of a face or a garment."""
    return drawn_photo(*FACES[file]) if file in FACES else clothes.picture(file)


def parts_of_one(run: Run) -> Image.Image:
    """A person's parts, and the pose map."""
    from .parts2whole import ONE

    shown = [(title, part_picture(file)) for title, file, _ in ONE] + [("Pose map", clothes.pose_map())]
    return sheet(shown, 4, (250, 375), PARTS_LINE.format(" and pose map"))


def parts_of_two(run: Run) -> Image.Image:
    """Bride's and groom's parts, and where Portrait Layout places the two."""
    from .parts2whole import BRIDE, GROOM

    shown = [(title, part_picture(file)) for title, file, _ in (*BRIDE, *GROOM)]
    return sheet([*shown, ("Where each stands", places(run))], 3, (300, 300), PARTS_LINE.format(" and boxes"))


SHEETS: dict[str, Callable[[Run], Image.Image]] = {
    "wedding_preview": wedding,
    "fixed_poses": posed,
    "style_lora": styled,
    "painted_regions": with_regions,
    "face_repair": repaired,
    "compare_adapters": compared,
    "other_expression": partial(portrait, line=f"{LINE}; asked for a laugh, and for closed eyes"),
    "full_body": partial(portrait, line=f"{LINE}, which draws no full bodies"),
    "other_age": partial(portrait, line=f"{LINE}, which knows no ages"),
    "mini_dual_portrait": mini,
    "mini_score": best,
    "withanyone_two": placed,
    "withanyone_four": placed,
    "withanyone_parity": schedule,
    "withanyone_kontext": edited,
    "parts_one": parts_of_one,
    "parts_wedding": parts_of_two,
}
"""Those that show something else than `portrait`."""


def make(names: Sequence[str]) -> None:
    """Run the twins of these workflows and write the picture of each, and the pictures in examples/."""
    with shipped_server() as server:
        write_examples()
        for name in names:
            write_jpg(SHEETS.get(name, portrait)(ran(server, name)), WORKFLOWS / f"{name}.jpg")
            print(f"workflows/{name}.jpg")


def drawn_couple() -> Image.Image:
    """A picture of two people in whose place others are put."""
    return Image.fromarray(_couple().picture)


@cache
def _couple() -> Any:
    from dhd_pack.dhumandiff.miniature.world import sample_pair
    from dhd_pack.nodes.miniature import drawn_person

    return sample_pair(5, (drawn_person(9, "woman"), drawn_person(8, "man")), size=(1184, 880))
