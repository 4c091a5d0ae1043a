"""Twins of the workflows on Parts2Whole: small enough for a test, on a tiny Stable Diffusion 1.5, with drawn parts.

    fill_parts(models); write_parts(folder)     # the files and pictures that those workflows name
    server.run(on_the_tiny_parts(prompt))

All nodes stay as they are shipped, the loaders included: the tiny base's text encoders, autoencoder and vision tower, and a
released folder whose widths fit them, lie under the shipped names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tools.workflows.clothes import GARMENTS, pose_map
from tools.workflows.parts2whole import CHECKPOINT, FOLDER, POSE, VISION
from tools.workflows.pictures import FACES, part_picture

WIDTH = 128
STEPS = 2


def on_the_tiny_parts(prompt: dict[str, Any]) -> dict[str, Any]:
    """A prompt in API form, made small; pictures for loaders that have none yet."""
    width, height = (node["inputs"] for node in prompt.values() if node["class_type"] == "PrimitiveInt")
    width["value"], height["value"] = WIDTH, WIDTH * height["value"] // width["value"]
    poses = [node["inputs"]["pose"][0] for node in prompt.values() if "pose" in node["inputs"]]
    for key, node in prompt.items():
        if node["class_type"] == "LoadImage":
            node["inputs"].setdefault("image", POSE if key in map(str, poses) else "face.png")
        elif node["class_type"] == "KSampler":
            node["inputs"]["steps"] = STEPS
    return prompt


def fill_parts(models: Path) -> None:
    """The files of a models folder that workflows on Parts2Whole name; the tiny base is there already."""
    from support import tiny_parts

    folder = models / "dhumandiff" / FOLDER
    folder.mkdir(parents=True)
    tiny_parts.released(folder, image=tiny_parts.SERVER_IMAGE, context=tiny_parts.SERVER_CONTEXT)
    (models / "checkpoints" / CHECKPOINT).hardlink_to(models / "checkpoints" / "tiny_sdxl.safetensors")
    (models / "clip_vision" / VISION).hardlink_to(models / "clip_vision" / "tiny_vision.safetensors")


def write_parts(folder: Path) -> None:
    """Drawn faces, garments and a pose map under the names that the workflows load."""
    for file in (*FACES, *GARMENTS):
        part_picture(file).save(folder / file)
    pose_map().save(folder / POSE)
