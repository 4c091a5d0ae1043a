"""The people of `python -m dhumandiff generate`: photos or saved references, and masks, from the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FaceReferenceError, HostError, ImageError
from ..layout.presets import MOST_PEOPLE
from .files import check_writable

if TYPE_CHECKING:
    from torch import Tensor

    from ..references.reference import FaceReference

__all__ = [
    "NUMBERS",
    "Person",
    "add_person_options",
    "check_saves",
    "each",
    "people_of",
    "read",
    "read_mask",
    "read_masks",
    "read_regions",
    "references_of",
    "refuse_options",
]

NUMBERS = range(1, MOST_PEOPLE + 1)
"""Of the people whom the command line can name."""

_WORDS = ("nobody", "one", "two", "three", "four")
_PLACES = ("first", "second", "third", "fourth")


@dataclass(frozen=True)
class Person:
    """What the command line says of --person-<number>."""

    number: int
    sources: list[str]
    which: str
    save: Path | None


def add_person_options(add: Callable[..., Any]) -> None:
    """Add what there is to say of each person."""
    for n, place in zip(NUMBERS, _PLACES, strict=True):
        photos = f"photos of the {place} person, or a saved reference .safetensors"
        photos += "; parts2whole: face=FILE upper=FILE upper-mask=FILE ..." if n == 1 else ""
        add(f"--person-{n}", nargs="+", required=n == 1, metavar="PHOTO", help=photos)
        add(f"--which-face-{n}", metavar="FACE", help=f"in the photos of --person-{n}, instead of --which-face")
        add(f"--save-reference-{n}", type=Path, metavar="FILE", help=f"keep person {n} as .safetensors; overwritten")
        add(f"--strength-{n}", type=float, metavar="FACTOR", help=f"of @{n}, multiplied with the others (default: 1.0)")
        add(f"--mask-{n}", type=Path, metavar="PICTURE", help=f"greyscale, white where @{n} may be (default: anywhere)")


def each(args: argparse.Namespace, option: str) -> list[Any]:
    """What is given for an option of each person, such as "mask"; None where nothing is."""
    return [getattr(args, f"{option}_{n}") for n in NUMBERS]


def people_of(args: argparse.Namespace) -> list[Person]:
    """The people, @1 first.

    Raises:
        HostError: somebody is left out in between, or there is an option about a person who is not there.
    """
    given = vars(args)
    there = [n for n in NUMBERS if given[f"person_{n}"]]
    persons = len(there)
    if there[-1] != persons:
        missing = next(n for n in NUMBERS if n not in there)
        raise HostError(
            f"--person-{there[-1]} is given, but --person-{missing} is not: number people without a gap.",
            code="person-gap",
        )
    if args.swap and persons > 2:
        raise HostError(
            f"--swap exchanges two people, but {_WORDS[persons]} are given. Give the photos in the order that you want.",
            code="swap-of-more-than-two",
        )
    about = [
        (n, f"{option}-{n}") for n in NUMBERS for option in ("--which-face", "--save-reference", "--strength", "--mask")
    ]
    for n, option in ((2, "--swap"), *about):
        value = given[option[2:].replace("-", "_")]
        if n > persons and value is not None and value is not False:  # a strength of 0 is given too
            raise HostError(
                f"{option} needs {_WORDS[n]} people, but only {_WORDS[persons]} {'is' if persons == 1 else 'are'} given. "
                f"Add --person-{n}, or leave it away.",
                code="option-needs-two-people",
            )
    people = []
    for n in there:
        sources, which = given[f"person_{n}"], given[f"which_face_{n}"]
        if which is not None and sources[0].endswith(".safetensors"):
            raise HostError(
                f"--which-face-{n} is for photos, but {sources[0]} is one person already. Leave it away.",
                code="no-photos-to-choose-from",
            )
        people.append(Person(n, sources, which or args.which_face, given[f"save_reference_{n}"]))
    return people[::-1] if args.swap else people


def refuse_options(args: argparse.Namespace, names: Sequence[str], method: str, todo: str) -> None:
    """Refuse options of another method.

    Args:
        args: of the command line.
        names: of those options; None and False say that one was not given.
        method: that is asked for.
        todo: what to do about it.

    Raises:
        HostError: one is given.
    """
    for name in names:
        value = getattr(args, name)
        if value is not None and value is not False:  # a strength of 0 is given too
            raise HostError(
                f"--{name.replace('_', '-')} is not for the method {method}. {todo}.", code="option-of-another-method"
            )


def check_saves(paths: Sequence[Path]) -> None:
    """Refuse files that references cannot be kept in, or that hold something else already.

    Raises:
        FaceReferenceError: naming the file.
    """
    from ..references.reference import FaceReference

    for path in paths:
        check_writable(path, "reference", ".safetensors")
        try:
            if path.exists():
                FaceReference.load(path)
        except FaceReferenceError as error:
            what = "it exists and holds something else. Choose another name."
            raise FaceReferenceError(
                f"The reference cannot be written to {path}: {what}", code="file-of-something-else"
            ) from error


def read(person: Person) -> FaceReference | list[Any]:
    """A saved reference, or photos, read at once: a wrong name shall not come out after minutes of loading."""
    from ..faces.photos import load_photo
    from ..references.reference import FaceReference

    saved = [source for source in person.sources if source.endswith(".safetensors")]
    if saved and len(person.sources) > 1:
        raise ImageError(
            f"{saved[0]} is a saved reference, one person already: give it alone, or photos alone.",
            code="photos-beside-a-saved-reference",
        )
    return FaceReference.load(saved[0]) if saved else [load_photo(source) for source in person.sources]


def references_of(
    people: Sequence[Person],
    found: Sequence[FaceReference | list[Any]],
    load_vision: Callable[[], Any],
    load_faces: Callable[[], Any],
    normalize_light: bool,
    drawn: bool,
) -> list[FaceReference]:
    """Encode the people who are not saved references yet, and save those who are to be saved. The models are let go afterwards.

    Args:
        people: as the command line names them.
        found: what `read` gave for each.
        load_vision: makes the image encoder; called when there is anything to encode.
        load_faces: makes the face analyzer; called when a face has to be found.
        normalize_light: even out the light on the faces.
        drawn: the miniature's face models look, at drawn people of any size.
    """
    from ..faces.face import MIN_FACE_SIZE
    from ..references.encode import WHOLE_PHOTO, encode_reference
    from ..references.reference import FaceReference

    vision: Any = None
    faces: Any = None
    encoded = [who.which for who, known in zip(people, found, strict=True) if not isinstance(known, FaceReference)]
    if encoded:
        vision = load_vision()
        faces = load_faces() if any(which != WHOLE_PHOTO for which in encoded) else None
    references = []
    for number, (person, reference) in enumerate(zip(people, found, strict=True), 1):
        if not isinstance(reference, FaceReference):
            name = f"person {number}"
            reference, report = encode_reference(
                reference,
                vision,
                faces,
                which=int(person.which) if person.which.isdecimal() and len(person.which) < 10 else person.which,
                normalize_light=normalize_light,
                name=name,
                min_size=DRAWN_SIZE if drawn else MIN_FACE_SIZE,
            )
            # What is a good photo was measured on photos: it says nothing about a drawing.
            for warning in [] if drawn else report.warnings():
                print(f"warning: {name}, {warning}")
        if person.save:  # under the file's name: whom the file shows need not be person 1 next time
            replace(reference, name=person.save.stem).save(person.save)
            print(f"{person.save}: whom --person-{person.number} shows")
        references.append(reference)
    return references


DRAWN_SIZE = 32
"""Px of the smallest drawn face that is taken: the miniature's recogniser looks at about 40 px of it."""


def read_masks(paths: Sequence[Path | None], size: tuple[int, int]) -> Tensor | None:
    """Where each person may be, [P, 1, H, W] 0..1 at the latent's size; None when nobody has a mask."""
    import torch

    if not any(paths):
        return None
    anywhere = torch.ones(1, 1, size[1] // 8, size[0] // 8)
    return torch.cat([read_mask(path, size, "the person may be") if path else anywhere for path in paths])


def read_regions(paths: Sequence[Path | None], size: tuple[int, int]) -> list[Tensor | None] | None:
    """Where each person may be, [1, H, W] each, at the latent's size; None when nobody has a mask."""
    if not any(paths):
        return None
    return [None if path is None else read_mask(path, size, "the person may be")[0] for path in paths]


def read_mask(path: Path, size: tuple[int, int], where: str) -> Tensor:
    """A picture as a mask [1, 1, H, W] at the latent's size.

    Args:
        path: of the picture.
        size: (width, height) of the portrait, px.
        where: what white is for, in messages.

    Raises:
        ImageError: it is no mask; the message names the file.
    """
    import torch

    from ..conditioning.masks import resize_masks
    from ..faces.photos import load_photo

    try:
        photo = load_photo(path)
        pixels = photo.pixels
        if any("transparent" in note for note in photo.notes):
            raise ImageError(
                "parts of it are transparent, which is neither white nor black. Fill them.", code="mask-transparent"
            )
        if (pixels.max(axis=-1) - pixels.min(axis=-1)).max() > 16:  # JPEG leaves a trace of colour in grey
            raise ImageError(
                f"it has colours. A mask is greyscale: white where {where}, black elsewhere.", code="mask-not-gray"
            )
        mask = resize_masks(
            torch.from_numpy(pixels.mean(axis=-1, dtype="float32"))[None, None] / 255, (size[1] // 8, size[0] // 8), 1
        )
        if not mask.any():
            raise ImageError(f"it is black all over. Paint white where {where}.", code="mask-empty")
    except (ImageError, HostError) as error:
        raise ImageError(f"The mask {path} cannot be used: {error}", code=error.code) from error
    return mask
