"""Who is who in the data: numbers for identities, and further photos of people, which paired references are made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dhumandiff.errors import ImageError
from dhumandiff.io import decode_text

from .. import TrainingError
from .annotation import read_annotation
from .seeding import named_rng
from .settings import Source
from .sources import Part, Picture, reference_photos, source_name

__all__ = ["Identities", "PairedPhoto", "identity_number"]


def identity_number(identity: str | None) -> int:
    """A number for an identity's name, the same in every process; 0 for none."""
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=7).digest(), "big") if identity else 0


@dataclass(frozen=True)
class PairedPhoto:
    """A photo of somebody: alone, or as annotated person number `person` (from 0) of another picture of the data."""

    name: str
    image: Part
    picture: Picture | None = None
    person: int = 0


class Identities:
    """Who is on which photo, over all sources.

    From folders references/<identity>/ and from the field `identity` of annotated people; the same identity in two
    sources is two people, unless the sources have one name.
    """

    def __init__(self, sources: Sequence[Source], pictures: Sequence[Picture]) -> None:
        self._photos: dict[tuple[str, str], list[PairedPhoto]] = {}
        self._people: dict[tuple[str, str], tuple[str, ...]] = {}  # picture -> identity of each annotated person
        for source in sources:
            for identity, parts in reference_photos(source).items():
                found = [PairedPhoto(f"{identity}/{part.path.rpartition('/')[2]}", part) for part in parts]
                self._photos.setdefault((source_name(source), identity), []).extend(found)
        for picture in pictures:
            names = _identities(picture)
            if any(names):
                self._people[picture.source, picture.name] = names
            for person, name in enumerate(names):
                if name:
                    paired = PairedPhoto(picture.name, picture.image, picture, person)
                    self._photos.setdefault((picture.source, name), []).append(paired)

    def __len__(self) -> int:
        return len(self._photos)

    def choose(self, picture: Picture, most: int, seed: str) -> tuple[tuple[PairedPhoto, ...], ...]:
        """For each annotated person of a picture up to `most` other photos; drawn by `seed`, in a fixed order."""
        chosen = []
        for person, name in enumerate(self._people.get((picture.source, picture.name), ())):
            photos = self._photos.get((picture.source, name), []) if name else []
            others = [one for one in photos if one.picture is None or one.picture.name != picture.name]
            drawn = named_rng(seed, person).sample(range(len(others)), min(most, len(others)))
            chosen.append(tuple(others[i] for i in sorted(drawn)))
        return tuple(chosen)


def _identities(picture: Picture) -> tuple[str, ...]:
    """The identity of each annotated person; () where the annotation has none or cannot be read (reported later)."""
    annotation = picture.annotation
    try:
        if isinstance(annotation, Part):
            data = decode_text(annotation.read(), annotation.path)
            if '"identity' not in data:
                return ()
            annotation = json.loads(data)
        if not isinstance(annotation, Mapping):
            return ()
        return tuple(person.identity for person in read_annotation(annotation, (1, 1)).people)
    except (ValueError, ImageError, TrainingError):
        return ()
