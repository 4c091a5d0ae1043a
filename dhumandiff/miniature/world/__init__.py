"""A small drawn world: portraits of two people, of whom everything is known, from integer seeds.

    pool = people("train", 2000)                      # people who look clearly different
    sample = sample_pair(7, sample_couple(7, pool))   # picture, sentence, annotation, masks, faces, references
    write_dataset("world", range(10_000), pool)       # as files, for `python -m training prepare`
    color, score = read_clothing_color(sample.picture, sample.people[0].face_box)

A person is an `Identity`: a face, which stays from picture to picture. Pose, expression, light, clothes, action and
scene vary apart from it. No torch, no files: PIL and NumPy only. `python -m dhumandiff.miniature.world --help` draws a sheet.
"""

from .body import ACTIONS, COLORS, GARMENTS, Outfit
from .caption import HEAD_WORDS, SCENE_WORDS, Script, write_caption
from .dataset import write_album, write_dataset
from .identity import APART, SPLITS, Identity, distance, features, people, sample_identity
from .light import LIGHTS, relight
from .picture import EVEN_LIGHT, SIZE, Drawn, Figure, Portrait, draw_figures, draw_reference, reference_pose
from .read import read_clothing_color, read_scene
from .sample import (
    Sample,
    draw_script,
    head_of,
    sample_couple,
    sample_pair,
    sample_script,
    sample_strangers,
    say_faces,
    tell_faces,
)
from .scene import SCENES
from .shape import EXPRESSIONS

__all__ = [
    "ACTIONS",
    "APART",
    "COLORS",
    "EVEN_LIGHT",
    "EXPRESSIONS",
    "GARMENTS",
    "HEAD_WORDS",
    "LIGHTS",
    "SCENES",
    "SCENE_WORDS",
    "SIZE",
    "SPLITS",
    "Drawn",
    "Figure",
    "Identity",
    "Outfit",
    "Portrait",
    "Sample",
    "Script",
    "distance",
    "draw_figures",
    "draw_reference",
    "draw_script",
    "features",
    "head_of",
    "people",
    "read_clothing_color",
    "read_scene",
    "reference_pose",
    "relight",
    "sample_couple",
    "sample_identity",
    "sample_pair",
    "sample_script",
    "sample_strangers",
    "say_faces",
    "tell_faces",
    "write_album",
    "write_caption",
    "write_dataset",
]
