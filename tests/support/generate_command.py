"""The command `generate` in this process: photos for it, a command line that works, and a mask."""

import numpy as np
from PIL import Image

from dhumandiff.__main__ import main


def make_photos(folder):
    """Four pictures that nobody took, each a different person to the tiny face analyzer."""
    random = np.random.default_rng(0)
    for name in "abcd":
        small = random.integers(40, 216, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(small).resize((300, 320), Image.Resampling.BICUBIC).save(folder / f"{name}.png")
    return folder


def command_line(photos, folder):
    """A command line that works, as a dict to change; the picture goes into the folder."""
    return {
        "--person-1": [photos / "a.png"],
        "--person-2": [photos / "b.png"],
        "--prompt": ["A man@1 and a woman@2 in a garden"],
        "--base": ["tiny"],
        "--device": ["cpu"],
        "--out": [folder / "portrait.png"],
        "--size": ["64x96"],
        "--steps": [2],
    }


def run(arguments):
    """Exit code of the command."""
    line = ["generate"]
    for option, values in arguments.items():
        line += [option, *map(str, values)]
    return main(line)


def half_mask(path, size=(64, 96), mode="L"):
    """A picture whose left half is white."""
    pixels = np.zeros((size[1], size[0]), dtype=np.uint8)
    pixels[:, : size[0] // 2] = 255
    Image.fromarray(pixels).convert(mode).save(path)
    return path
