"""Who is who in the data: numbers for identities, and further photos of people, which paired references are made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

from dhumandiff.errors import ImageError
from dhumandiff.io import decode_text

from .. import TrainingError
from .annotation import read_annotation
from .part import Part, Picture
from .seeding import named_rng
from .settings import Source
from .sources import reference_photos, source_name
from .store import StoreError, is_url, read_many

__all__ = ["Identities", "PairedPhoto", "identity_number"]


def identity_number(identity: str | None) -> int:
    """A number for an identity's name, the same in every process; 0 for none."""
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=7).digest(), "big") if identity else 0


By = Literal["annotation", "mention", "likeness"]
"""How it is known which of a picture's two people somebody is: the annotation says it; the caption names them in that order; or the
pictures show the same couple, and faces are compared."""


@dataclass(frozen=True)
class PairedPhoto:
    """A photo of somebody: alone, or as person number `person` (from 0, as `by` counts) of another picture of the data."""

    name: str
    image: Part
    picture: Picture | None = None
    person: int = 0
    by: By = "annotation"


class Identities:
    """Who is on which photo, over all sources.

    From folders references/<identity>/, the columns `identity` of tables and the field `identity` of annotated people; the same
    identity in two sources is two people, unless the sources have one name.

    Args:
        sources: that may have folders of references.
        pictures: of all of them.
        couple_folders: whether all pictures of one folder show the same two people.
    """

    def __init__(self, sources: Sequence[Source], pictures: Sequence[Picture], couple_folders: bool = False) -> None:
        self._photos: dict[tuple[str, str], list[PairedPhoto]] = {}
        self._people: dict[tuple[str, str], tuple[tuple[str, ...], By]] = {}  # picture -> its people
        for source in sources:
            for identity, parts in reference_photos(source).items():
                found = [PairedPhoto(f"{identity}/{part.path.rpartition('/')[2]}", part) for part in parts]
                self._photos.setdefault((source_name(source), identity), []).extend(found)
        annotated = _read_annotations(pictures)
        for picture in pictures:
            names, by = picture.identities, "mention"
            if not any(names):
                names, by = _identities(picture, annotated), "annotation"
            if not any(names) and couple_folders:
                folder = PurePosixPath(picture.name).parent
                names, by = (f"//{folder}/1", f"//{folder}/2"), "likeness"  # no file has a name like these
            if any(names):
                self._people[picture.source, picture.name] = names, by
            for person, name in enumerate(names):
                if name:
                    paired = PairedPhoto(picture.name, picture.image, picture, person, by)
                    self._photos.setdefault((picture.source, name), []).append(paired)

    def __len__(self) -> int:
        """How many people there are on pictures who have another photo."""
        seen = {(source, name) for (source, _), (names, _) in self._people.items() for name in names if name}
        return sum(len(self._photos[who]) > 1 for who in seen)

    @property
    def untied(self) -> list[str]:
        """The folders of references of whom no picture says that they are on it."""
        seen = {(source, name) for (source, _), (names, _) in self._people.items() for name in names}
        return sorted(name for source, name in self._photos if (source, name) not in seen)

    def choose(self, picture: Picture, most: int, seed: str) -> tuple[tuple[tuple[PairedPhoto, ...], ...], bool]:
        """Other photos of a picture's people.

        Args:
            picture: of which.
            most: how many, of each of the two.
            seed: draws them; they keep a fixed order.

        Returns:
            Those of each of the two, and whether the two are counted as the caption names them.
        """
        chosen = []
        people, by = self._people.get((picture.source, picture.name), ((), "annotation"))
        for person, name in enumerate(people):
            photos = self._photos.get((picture.source, name), []) if name else []
            others = [one for one in photos if one.picture is None or one.picture.name != picture.name]
            drawn = named_rng(seed, person).sample(range(len(others)), min(most, len(others)))
            chosen.append(tuple(others[i] for i in sorted(drawn)))
        return tuple(chosen), by == "mention"


def _read_annotations(pictures: Sequence[Picture]) -> dict[str, bytes]:
    """URL -> content of all annotations that are files of a store."""
    parts = [picture.annotation for picture in pictures if isinstance(picture.annotation, Part)]
    return read_many([part.path for part in parts if is_url(part.path) and part.size < 0])


def _identities(picture: Picture, read: Mapping[str, bytes]) -> tuple[str, ...]:
    """The identity of each annotated person; () where the annotation has none or cannot be read (reported later)."""
    annotation = picture.annotation
    try:
        if isinstance(annotation, Part):
            content = read.get(annotation.path)
            data = decode_text(annotation.read() if content is None else content, annotation.path)
            if '"identity' not in data:
                return ()
            annotation = json.loads(data)
        if not isinstance(annotation, Mapping):
            return ()
        return tuple(person.identity for person in read_annotation(annotation, (1, 1)).people)
    except StoreError:
        raise
    except (ValueError, ImageError, TrainingError):
        return ()
