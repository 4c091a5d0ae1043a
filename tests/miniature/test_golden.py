"""The drawn world stage by stage, as it was drawn for the weights that ship: one digest each.

A stage that is meant to change gets a new digest here, and the miniature is trained anew: its weights know this world.
"""

import dataclasses
import hashlib
import json

import pytest

from dhumandiff.miniature.world import (
    GARMENTS,
    SCENES,
    SPLITS,
    Figure,
    Outfit,
    draw_figures,
    draw_reference,
    draw_script,
    people,
    read_clothing_color,
    read_scene,
    sample_identity,
    sample_pair,
    sample_script,
    write_caption,
)
from dhumandiff.miniature.world.identity import STYLES


def scripts(count):
    return [
        (seed, sample_script(seed, (sample_identity(2 * seed), sample_identity(2 * seed + 1)))) for seed in range(count)
    ]


def said(one):
    """The values of a dataclass, whatever its fields are called."""
    return [repr(value) for value in dataclasses.astuple(one)]


def drawn(portrait):
    yield portrait.picture.tobytes()
    for person in portrait.people:
        yield person.mask.tobytes()
        yield person.face_box.round(3).tobytes()
        yield person.landmarks.round(3).tobytes()


def people_of_all_splits():
    for split in SPLITS:
        for who in people(split, 300):
            yield json.dumps(said(who)).encode()


def scripts_and_sentences():
    for seed, script in scripts(200):
        assert not script.tells_faces
        yield json.dumps(said(script)[:-2]).encode()  # without what is told of faces, which came later
        for looks in (False, True):
            yield write_caption(script, seed, looks)[0].encode()


def annotations():
    for seed in range(20):
        yield json.dumps(sample_pair(seed, references=0).annotation).encode()


def pictures():
    for seed, script in scripts(24):
        yield from drawn(draw_script(script, seed))


def every_scene_and_garment():
    woman, man = sample_identity(0, "woman"), sample_identity(1, "man")
    for scene in SCENES:
        for garment in GARMENTS["woman"]:
            pair = [Figure(woman, Outfit(garment, "red")), Figure(man, Outfit("shirt", "blue"))]
            yield draw_figures(pair, scene, 1, size=(64, 64)).picture.tobytes()


def references():
    who = sample_identity(1)
    for style in STYLES:
        yield from drawn(draw_reference(dataclasses.replace(who, hair_style=style), 0, 48))
    for size in (64, 96, 128):
        for seed in range(4):
            yield from drawn(draw_reference(sample_identity(seed), seed, size))


def what_is_read():
    for seed in range(12):
        sample = sample_pair(seed, references=0)
        boxes = [person.face_box for person in sample.people]
        yield read_scene(sample.picture, boxes)[0].encode()
        for box in boxes:
            yield read_clothing_color(sample.picture, box)[0].encode()


@pytest.mark.parametrize(
    ("stage", "digest"),
    [
        (people_of_all_splits, "254ff1da7ae8a54f"),
        (scripts_and_sentences, "4c44c631bc898c7c"),
        (annotations, "582248e71da1acf3"),
        (pictures, "ba16288540eb3d28"),
        (every_scene_and_garment, "be474068d0eda7ba"),
        (references, "e483dadcef76952d"),
        (what_is_read, "70aef08b1f737b9f"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_a_stage_is_drawn_as_it_was(stage, digest):
    found = hashlib.sha256()
    for part in stage():
        found.update(part)
    assert found.hexdigest()[:16] == digest
