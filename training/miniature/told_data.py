"""Pictures whose sentences say expressions and turns of heads, for a base that can draw them on request, and faces to read them from.

What is told is drawn alike often, so that neither follows from anything else. Most sentences say it; the others describe what
people look like instead, as those did that the base that ships learned from, so that nothing is forgotten.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn
from tqdm import tqdm

from dhumandiff.faces import Face
from dhumandiff.io import atomic_write
from dhumandiff.miniature.base import SIZE
from dhumandiff.miniature.faces import MiniFaces, align_face
from dhumandiff.miniature.world import (
    EXPRESSIONS,
    HEAD_WORDS,
    Script,
    draw_script,
    people,
    sample_couple,
    sample_pair,
    sample_script,
    sample_strangers,
    tell_faces,
)
from dhumandiff.miniature.world.dice import Dice

from .autoencoder import encode_all
from .latents import Drawing
from .renders import describe_picture
from .sampling import decode
from .scoring import faces_by_sentence

__all__ = ["HEADS", "TOLD", "draw_told", "found_faces", "head_label", "render_told_faces"]

TOLD = 0.75
"""Share of sentences that say either person's expression and the turn of the head."""
HEADS = tuple(HEAD_WORDS)
"""As somebody on the left holds it; of somebody on the right "inward" and "outward" are exchanged."""
FACES_FROM = 30_000_000
"""Seeds of the pictures that faces are read from."""
CHUNK = 64


def draw_told(seed: int) -> Drawing:
    """The seed's picture of two strangers, both with an expression and a turn of the head by the dice, and what is said of it."""
    script = tell_faces(sample_script(seed, sample_strangers(seed)), seed)
    sample = sample_pair(seed, script=script, references=0, size=SIZE)
    boxes = np.array([person.face_box for person in sample.people], np.float32)
    if Dice("told", seed).chance(TOLD):
        return sample.picture, boxes, describe_picture(script, seed, looks=False)
    silent = replace(script, expressions=("", ""), heads=("", ""))
    return sample.picture, boxes, describe_picture(silent, seed)


def head_label(head: str, side: str) -> int:
    """Number in `HEADS` of how somebody on this side holds the head."""
    exchanged = {"inward": "outward", "outward": "inward"}
    return HEADS.index(head if side == "left" else exchanged.get(head, head))


def found_faces(faces: MiniFaces, pictures: np.ndarray, scripts: list[Script]) -> list[tuple[Face, Face] | None]:
    """The faces of person 1 and 2 in each picture [N, H, W, 3] as its sentence puts them; None where there are not two."""
    found = [
        one
        for start in range(0, len(pictures), CHUNK)
        for one in faces.detect_all(list(pictures[start : start + CHUNK]))
    ]
    return [
        faces_by_sentence(both, script) if len(both) == 2 else None for both, script in zip(found, scripts, strict=True)
    ]


def render_told_faces(path: Path, vae: nn.Module, faces: MiniFaces, split: str, pool: int, pictures: int) -> None:
    """Write aligned faces of told pictures that went through the autoencoder, as the detector finds them, and what they show.

    An .npz: crops uint8 [N, 64, 64, 3], expressions and heads [N], numbers in `EXPRESSIONS` and `HEADS`.

    Args:
        path: of the file.
        vae: the trained autoencoder.
        faces: whose detector finds them.
        split: of the people.
        pool: how many of them.
        pictures: how many pictures.
    """
    everybody = people(split, pool)
    crops, labels = [], []
    for start in tqdm(range(0, pictures, CHUNK), desc=path.stem, unit="chunk", mininterval=5):
        seeds = range(FACES_FROM + start, FACES_FROM + min(start + CHUNK, pictures))
        scripts = [tell_faces(sample_script(seed, sample_couple(seed, everybody)), seed) for seed in seeds]
        drawn = np.stack([draw_script(script, seed, SIZE).picture for script, seed in zip(scripts, seeds, strict=True)])
        made = decode(vae, encode_all(vae, drawn))
        for picture, script, both in zip(made, scripts, found_faces(faces, made, scripts), strict=True):
            for person, face in enumerate(both or ()):
                crops.append(align_face(picture, face.landmarks))
                side = script.side(person)
                labels.append((EXPRESSIONS.index(script.expressions[person]), head_label(script.heads[person], side)))
    expressions, heads = np.array(labels).T
    with atomic_write(path) as part, part.open("wb") as file:
        np.savez(file, crops=np.stack(crops), expressions=expressions, heads=heads)
