"""The world as files: pictures, PairHuman's annotation, masks and reference photos, as `python -m training prepare` reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from ..design import DESIGN
from .dice import Dice
from .identity import Identity, people
from .picture import REFERENCE_SIZE, SIZE, draw_reference
from .sample import sample_couple, sample_pair, sample_script, tell_faces

__all__ = ["write_album", "write_dataset"]


def write_dataset(
    folder: str | Path,
    seeds: Iterable[int],
    pool: Sequence[Identity],
    references: int = 2,
    size: tuple[int, int] = SIZE,
    reference_size: int = REFERENCE_SIZE,
    couple: Callable[[int, Sequence[Identity]], tuple[Identity, Identity]] = sample_couple,
    tell: float = 0.0,
) -> int:
    """Write the pictures of some seeds, of people out of a pool; returns how many. couple: who meets, by seed and pool; tell: share of
    pictures with an expression and a turn of the head for either person by the dice, which the caption says.

        images/<id>.png  annotations/<id>.json  masks/<id>_1.png, <id>_2.png  references/<person>/<n>.png

    References are drawn once a person, with other seeds than any picture's. What is there already is written again,
    the same.
    """
    root = Path(folder)
    for room in ("images", "annotations", "masks", "references"):
        (root / room).mkdir(parents=True, exist_ok=True)
    drawn: set[str] = set()
    count = 0
    for seed in seeds:
        script = sample_script(seed, couple(seed, pool))
        if Dice("tell", seed).chance(tell):
            script = tell_faces(script, seed)
        sample = sample_pair(seed, references=0, size=size, script=script)
        name = f"{seed:08d}"
        Image.fromarray(sample.picture).save(root / "images" / f"{name}.png")
        for k, portrait in enumerate(sample.people, 1):
            Image.fromarray(portrait.mask.astype(np.uint8) * 255).save(root / "masks" / f"{name}_{k}.png")
        text = json.dumps(sample.annotation, ensure_ascii=False, indent=1)
        (root / "annotations" / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        for who in sample.script.people:
            if who.name not in drawn:
                write_references(root / "references" / who.name, who, references, reference_size)
                drawn.add(who.name)
        count += 1
    return count


def write_album(folder: str | Path, couples: int = 10, each: int = 4) -> int:
    """Write pictures as people have them, a folder a couple: couple_01/1.png and 1.txt with the caption; returns how many.

    They are as large as the miniature draws. Beside the album, in a folder of its name and "_portraits", lies a photo of each person
    to draw with: couple_01_1.png.

    Args:
        folder: the album's; made if need be.
        couples: how many.
        each: pictures of a couple.
    """
    pool, portraits = people("train", 2 * couples), Path(f"{folder}_portraits")
    portraits.mkdir(parents=True, exist_ok=True)
    for couple in range(couples):
        for which in (0, 1):
            photo = draw_reference(pool[2 * couple + which], 0).picture
            Image.fromarray(photo).save(portraits / f"couple_{couple + 1:02d}_{which + 1}.png")
        room = Path(folder) / f"couple_{couple + 1:02d}"
        room.mkdir(parents=True, exist_ok=True)
        for number in range(each):
            first, second = pool[2 * couple], pool[2 * couple + 1]
            two = (first, second) if number % 2 == 0 else (second, first)
            sample = sample_pair(couple * each + number, two, references=0, size=DESIGN.size)
            Image.fromarray(sample.picture).save(room / f"{number + 1}.png")
            text = sample.annotation["image_caption"]["text"]
            (room / f"{number + 1}.txt").write_text(text + "\n", encoding="utf-8")
    return couples * each


def write_references(folder: Path, who: Identity, count: int, size: int = REFERENCE_SIZE) -> None:
    """Write `count` photos of one person: 0.png, 1.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(draw_reference(who, number, size).picture).save(folder / f"{number}.png")
