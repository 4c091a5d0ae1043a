"""Pictures of the world as arrays on disk, drawn once by several processes and read by every stage.

pictures/  images.npy [N, H, W, 3], boxes.npy [N, 2, 4] and landmarks.npy [N, 2, 5, 2] (people in the order of the
           sentence), told.json, and what the rules need to judge: colors, sides, scenes
people/    references: images.npy [people, views, 96, 96, 3], boxes, landmarks, and aligned.npy [people, views, 64, 64, 3]
meetings/  pictures of people of a pool: images, landmarks, people.npy [N, 2], heads.npy [N, 2, 96, 96, 3] as CLIP sees
           them, aligned.npy [N, 2, 64, 64, 3] as recognizers do
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dhumandiff.faces import Face, crop_face
from dhumandiff.io import atomic_write
from dhumandiff.miniature.faces import ALIGNED, align_face
from dhumandiff.miniature.world import (
    SIZE,
    Identity,
    Script,
    draw_reference,
    people,
    sample_couple,
    sample_pair,
    write_caption,
)
from dhumandiff.miniature.world.caption import looks_of
from dhumandiff.miniature.world.picture import REFERENCE_SIZE

__all__ = ["Renders", "describe_picture", "render_pair_images", "render_people", "render_pictures"]

CHUNK = 64


class Renders:
    """A folder of arrays, memory-mapped, each by its file's name: `drawings["images"]`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")

    def descriptions(self) -> Any:
        """What told.json says: a list, one entry a picture or a person."""
        return json.loads((self.folder / "told.json").read_text(encoding="utf-8"))


def render_pictures(folder: Path, count: int, workers: int, first: int = 0, size: tuple[int, int] = SIZE) -> Renders:
    """Pictures of two strangers of the training split each, seeds from `first`; size: width and height, px."""
    width, height = size
    shapes = {"images": (height, width, 3), "boxes": (2, 4), "landmarks": (2, 5, 2)}
    return _draw(folder, shapes, range(first, first + count), partial(_one_picture, size=size), workers)


def render_people(folder: Path, split: str, count: int, views: int, workers: int) -> Renders:
    """`views` references of each of the first `count` people of a split; their faces aligned, too."""
    side = REFERENCE_SIZE
    shapes = {
        "images": (views, side, side, 3),
        "boxes": (views, 4),
        "landmarks": (views, 5, 2),
        "aligned": (views, ALIGNED, ALIGNED, 3),
    }
    jobs = [(who, views) for who in people(split, count)]
    return _draw(folder, shapes, jobs, _one_person, workers)


def render_pair_images(folder: Path, split: str, count: int, pictures: int, workers: int) -> Renders:
    """Pictures of two of the first `count` people of a split; their faces as CLIP and recognizers see them."""
    width, height = SIZE
    shapes = {
        "images": (height, width, 3),
        "landmarks": (2, 5, 2),
        "people": (2,),
        "heads": (2, REFERENCE_SIZE, REFERENCE_SIZE, 3),
        "aligned": (2, ALIGNED, ALIGNED, 3),
    }
    pool = people(split, count)
    number = {who.seed: n for n, who in enumerate(pool)}
    jobs = []
    for seed in range(pictures):
        couple = sample_couple(seed + 10_000_000, pool)
        jobs.append((seed + 10_000_000, couple, [number[who.seed] for who in couple]))
    return _draw(folder, shapes, jobs, _one_pair_image, workers)


def _one_picture(seed: int, size: tuple[int, int]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    sample = sample_pair(seed, references=0, size=size)
    script = sample.script
    arrays = {
        "images": sample.picture,
        "boxes": np.stack([person.face_box for person in sample.people]),
        "landmarks": np.stack([person.landmarks for person in sample.people]),
    }
    return arrays, describe_picture(script, seed)


def describe_picture(script: Script, seed: int, looks: bool = True) -> dict[str, Any]:
    """What a picture's sentence says, people in its order.

    looks: whether it describes people, and then what it says of each. "faces", of each the expression and the turn of the head, is
    there only where the sentence says them.
    """
    faces = [list(both) for both in zip(script.expressions, script.heads, strict=True)]
    return {
        "caption": write_caption(script, seed, looks=looks)[1].text,
        "scene": script.scene,
        "colours": [outfit.color for outfit in script.outfits],
        "sides": [script.side(k) for k in (0, 1)],
        "genders": [who.gender for who in script.people],
        "looks": [look.said if looks else {} for look in looks_of(script, seed)],
        **({"faces": faces} if script.tells_faces else {}),
    }


def _one_person(job: tuple[Identity, int]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    who, views = job
    drawn = [draw_reference(who, 1000 + view) for view in range(views)]
    arrays = {
        "images": np.stack([one.picture for one in drawn]),
        "boxes": np.stack([one.people[0].face_box for one in drawn]),
        "landmarks": np.stack([one.people[0].landmarks for one in drawn]),
        "aligned": np.stack([align_face(one.picture, one.people[0].landmarks) for one in drawn]),
    }
    return arrays, {"name": who.name, "seed": who.seed}


def _one_pair_image(
    job: tuple[int, tuple[Identity, Identity], list[int]],
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    seed, couple, numbers = job
    sample = sample_pair(seed, couple, references=0)
    heads = []
    for person in sample.people:
        face = Face(person.face_box.astype(np.float32), person.landmarks.astype(np.float32))
        heads.append(crop_face(sample.picture, face, REFERENCE_SIZE)[0])
    arrays = {
        "images": sample.picture,
        "landmarks": np.stack([person.landmarks for person in sample.people]),
        "people": np.array(numbers),
        "heads": np.stack(heads),
        "aligned": np.stack([align_face(sample.picture, person.landmarks) for person in sample.people]),
    }
    return arrays, {"seed": seed}


_BYTES = ("images", "heads", "aligned")


def _draw(folder: Path, shapes: dict[str, tuple], jobs: Any, draw: Callable, workers: int) -> Renders:
    """Draw every job's arrays into <folder>/<name>.npy; a finished folder is only opened."""
    if (folder / "told.json").exists():
        return Renders(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        name: np.lib.format.open_memmap(
            folder / f"{name}.npy", "w+", np.uint8 if name in _BYTES else np.float32, (len(jobs), *shape)
        )
        for name, shape in shapes.items()
    }
    descriptions = []
    with ProcessPoolExecutor(max_workers=max(workers, 1)) as pool:
        for number, (found, description) in enumerate(
            tqdm(
                pool.map(draw, jobs, chunksize=CHUNK), total=len(jobs), desc=folder.name, unit="drawing", mininterval=5
            )
        ):
            for name, value in found.items():
                arrays[name][number] = value
            descriptions.append(description)
    for array in arrays.values():
        array.flush()
    with atomic_write(folder / "told.json") as part:
        part.write_text(json.dumps(descriptions, ensure_ascii=False), encoding="utf-8")
    return Renders(folder)
