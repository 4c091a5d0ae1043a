"""`python -m dhumandiff generate --method parts2whole`: people from pictures of their parts.

--person-1 face=a.jpg upper=shirt.png upper-mask=shirt_mask.png shoes=shoes.jpg shoes-strength=0.8
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..catalogue import PARTS2WHOLE
from ..errors import HostError, ImageError
from ..io import write_png
from ..optional import require
from .files import check_outputs, check_writable
from .models import folders_of
from .people import NUMBERS, each, people_of, read_regions, refuse_options

if TYPE_CHECKING:
    from ..hosts.diffusers.parts2whole_pipeline import PartsPipeline
    from ..methods.paired.settings import SamplingSettings

__all__ = ["PartFile", "add_options", "parts_of", "refuse_options_of_parts", "run_parts"]

ADAPTER = Path("models") / PARTS2WHOLE.folder / PARTS2WHOLE.name
"""Where `python -m dhumandiff download --method parts2whole` puts the weights."""


@dataclass(frozen=True)
class PartFile:
    """What the command line says of one part."""

    person: int
    label: str
    file: str
    mask: str | None = None
    strength: float = 1.0


def add_options(add: Callable[..., Any]) -> None:
    """Add the options of this method."""
    add("--pose", type=Path, metavar="PICTURE", help="parts2whole: a DensePose map (raw IUV), of the picture's shape")
    add(
        "--drop-masked",
        action="store_true",
        help="parts2whole: leave masked areas out, instead of zeroing as published",
    )
    add("--image-strength", type=float, metavar="FACTOR", help="parts2whole: of the image tokens (default: 1.0)")


def refuse_options_of_parts(args: argparse.Namespace) -> None:
    """Refuse this method's options beside another one. HostError."""
    refuse_options(args, ("pose", "drop_masked", "image_strength"), args.method, "Choose --method parts2whole")


def run_parts(args: argparse.Namespace) -> None:
    """Make the picture that `args` describe and write it to `args.out`."""
    from ..hosts.diffusers.loading import choose_device
    from ..hosts.diffusers.parts2whole_pipeline import DEFAULTS, NEGATIVE, PartsPipeline
    from ..methods.paired.settings import SamplingSettings
    from ..prompts.parse import without_tags

    others = ("swap", *(f"{option}_{n}" for option in ("which_face", "save_reference") for n in NUMBERS))
    others += ("face_pack", "face_root", "vae", "offload")
    refuse_options(args, (*others, "normalise_light", "focus", "focus_out"), "parts2whole", "Leave it away")
    people = people_of(args)
    released = _released(args)
    if args.base is None:
        args.base = str(released)  # which is a base, too
        print(f"base: {args.base}")
    parts = [part for person in people for part in parts_of(person.number, person.sources)]
    check_writable(args.out, "picture", ".png")
    pictures = [path for part in parts for path in (part.file, part.mask)]
    check_outputs({"--out": args.out}, [*pictures, *each(args, "mask"), args.pose, args.base, args.adapter])
    size = args.parsed_size or DEFAULTS["size"]
    sampling = SamplingSettings(
        steps=args.steps or DEFAULTS["steps"],
        cfg=DEFAULTS["cfg"] if args.cfg is None else args.cfg,
        sampler=args.sampler or DEFAULTS["sampler"],
        seed=args.seed,
        size=size,
    )
    sampling.check()
    prompt = without_tags(args.prompt, len(people))
    negative = NEGATIVE if args.negative is None else args.negative
    device = choose_device(args.device)
    files = [_read(part) for part in parts]
    regions = read_regions(each(args, "mask")[: len(people)], size)
    pose = _pose(args.pose, size) if args.pose else None
    for name in ("transformers", "diffusers"):
        require(name)
    pipeline = PartsPipeline.from_base(args.base, _adapter(args), args.image_encoder, device, args.dtype)
    started = time.monotonic()
    factors = [1.0 if factor is None else factor for factor in each(args, "strength")]
    encoded = [
        pipeline.encode_part(
            pixels, part.label, size, mask, part.person, part.strength * factors[part.person - 1], args.seed
        )
        for part, (pixels, mask) in zip(parts, files, strict=True)
    ]
    settings = {
        "pose": pose,
        "regions": regions,
        "scale": 1.0 if args.image_strength is None else args.image_strength,
        "drop_masked": args.drop_masked,
    }
    image = _with_progress(pipeline, encoded, prompt, negative, sampling, settings)
    write_png(image, args.out, _record(args, parts, sampling, negative, settings, pipeline))
    print(f"{args.out}: {size[0]} x {size[1]} px, seed {args.seed}, {time.monotonic() - started:.1f} s")


def parts_of(person: int, words: list[str]) -> list[PartFile]:
    """What --person-<number> says: PART=PICTURE, and for a part PART-mask=PICTURE and PART-strength=FACTOR.

    Raises:
        HostError: a word is none of these, or says something of a part that has no picture.
    """
    from ..methods.parts2whole.part import label_of

    pictures: list[tuple[str, str]] = []
    more: dict[tuple[str, str], str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name or not value:
            raise HostError(
                f"--person-{person} {word!r} is not clear: write PART=PICTURE, for instance face=a.jpg or upper=shirt.png.",
                code="part-not-clear",
            )
        stem, _, kind = name.rpartition("-")
        if kind in ("mask", "strength"):
            more[label_of(stem), kind] = value
        else:
            pictures.append((label_of(name), value))
    known = {label for label, _ in pictures}
    for label, kind in more:
        if label not in known:
            raise HostError(
                f"--person-{person} has a {kind} for the part {label!r}, but no picture of it. Add one, or leave it away.",
                code="part-without-picture",
            )
    return [
        PartFile(person, label, file, more.get((label, "mask")), _factor(more.get((label, "strength"), "1"), label))
        for label, file in pictures
    ]


def _factor(text: str, label: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise HostError(
            f"The strength {text!r} of the part {label!r} is no number: write for instance 0.8.", code="part-strength"
        ) from None


def _read(part: PartFile) -> tuple[Any, Any]:
    """Pixels, and a mask uint8 [H, W] or None: the one that is given, else what is opaque."""
    from ..faces.photos import load_photo

    photo = load_photo(part.file)
    if part.mask is None:
        return photo.pixels, photo.opaque
    return photo.pixels, load_photo(part.mask).pixels.max(axis=-1)


def _pose(path: Path, size: tuple[int, int]) -> Any:
    """A pose map [1, 3, H, W] at the picture's size."""
    from ..conditioning.masks import check_shape
    from ..faces.photos import load_photo
    from ..methods.parts2whole.pictures import check_pose_picture, squash

    pixels = load_photo(path).pixels
    check_pose_picture(pixels, str(path))
    try:
        check_shape((pixels.shape[0], pixels.shape[1]), (size[1], size[0]), "pose map")
    except HostError as error:
        raise ImageError(
            f"The pose map {path} is {pixels.shape[1]} x {pixels.shape[0]} px, the picture {size[0]} x {size[1]}: crop the map to "
            "the picture's shape, or choose a --size of the map's.",
            code="pose-picture-of-another-shape",
        ) from error
    return squash(pixels, size)


def _released(args: argparse.Namespace) -> Path:
    """Where the released folder is or would be."""
    from ..formats.parts2whole import is_folder

    if args.models is None and is_folder(ADAPTER):
        return ADAPTER
    places = [folder / PARTS2WHOLE.name for folder in folders_of(args).adapters]
    return next(filter(is_folder, places), places[0])


def _adapter(args: argparse.Namespace) -> str | Path:
    from ..formats.parts2whole import is_folder

    if args.adapter:
        return args.adapter
    if is_folder(args.base):
        return args.base
    if is_folder(released := _released(args)):
        return released
    raise HostError(
        f"There are no weights of Parts2Whole at {released}, nor in the base. Fetch them with `python -m dhumandiff download "
        "--method parts2whole`, or say where they are with --adapter.",
        code="no-adapter",
    )


def _with_progress(
    pipeline: PartsPipeline,
    parts: list[Any],
    prompt: str,
    negative: str,
    sampling: SamplingSettings,
    settings: dict[str, Any],
) -> Any:
    from tqdm import tqdm

    with tqdm(desc="sampling", unit="step", total=sampling.steps) as bar:

        def progress(done: int, _: int) -> None:
            bar.update(done - bar.n)

        return pipeline(
            parts,
            prompt,
            negative,
            sampling=sampling,
            told=lambda note: bar.write(f"note: {note}"),
            progress=progress,
            **settings,
        )


def _record(
    args: argparse.Namespace,
    parts: list[PartFile],
    sampling: SamplingSettings,
    negative: str,
    settings: dict[str, Any],
    pipeline: PartsPipeline,
) -> dict[str, str]:
    """What the PNG says about how it was made. Names of files, not where they lay: pictures are passed on."""
    from .. import __version__

    persons = max(part.person for part in parts)
    made = {
        "version": __version__,
        "method": "parts2whole",
        "prompt": args.prompt,
        "negative": negative,
        "size": sampling.size,
        "seed": sampling.seed,
        "steps": sampling.steps,
        "cfg": sampling.cfg,
        "sampler": sampling.sampler,
        "parts": [
            {
                "person": part.person,
                "part": part.label,
                "picture": Path(part.file).name,
                "mask": part.mask and Path(part.mask).name,
                "strength": part.strength,
            }
            for part in parts
        ],
        "person_strengths": each(args, "strength")[:persons],
        "masks": [path and path.name for path in each(args, "mask")[:persons]],
        "pose": args.pose and args.pose.name,
        "image_strength": settings["scale"],
        "drop_masked": settings["drop_masked"],
        "base": Path(args.base).name,
        "device": pipeline.device.type,
        "dtype": str(pipeline.dtype).removeprefix("torch."),
    }
    line = (
        f"Steps: {sampling.steps}, Sampler: {sampling.sampler}, CFG scale: {sampling.cfg}, Seed: {sampling.seed}, "
        f"Size: {sampling.size[0]}x{sampling.size[1]}, Model: {made['base']}, DHumanDiff: parts2whole"
    )
    return {
        "dhumandiff": json.dumps(made, ensure_ascii=False),
        "parameters": f"{args.prompt}\nNegative prompt: {negative}\n{line}",
    }
