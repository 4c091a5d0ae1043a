"""Pictures whose faces are squares, told apart by their color, and cases made of them: for tests of scoring."""

import json

import numpy as np
from PIL import Image

from dhumandiff.faces import Face
from training.evaluation.cases import read_cases
from training.evaluation.measure import Measurer, measure_all

RED, GREEN, BLUE = (220, 30, 40), (40, 160, 60), (40, 70, 200)


class ColorFaces:
    """Faces are squares of 20 px on black; who it is, is the colour."""

    name = "colours"

    def detect(self, image):
        found = []
        for y in range(0, image.shape[0] - 19, 20):
            for x in range(0, image.shape[1] - 19, 20):
                if image[y + 10, x + 10].any():
                    box = np.array([x, y, x + 20, y + 20], dtype=np.float32)
                    found.append(Face(box, np.full((5, 2), [x + 10, y + 10], dtype=np.float32)))
        return found

    def identity(self, image, face, swap_channels=False):
        x, y = map(int, face.center)
        vector = np.zeros(512, dtype=np.float32)
        vector[:3] = image[y, x]
        return vector / np.linalg.norm(vector)


def paint(path, *colors, width=120):
    """A picture with a face of each colour from left to right; None leaves a gap."""
    pixels = np.zeros((40, width, 3), dtype=np.uint8)
    for place, color in enumerate(colors):
        if color is not None:
            pixels[0:20, 40 * place : 40 * place + 20] = color
    Image.fromarray(pixels).save(path)


LEFT_RIGHT = "A man@1 on the left and a woman@2 on the right."


def cases_of(folder, *pictures, **more):
    lines = []
    for number, (colors, prompt) in enumerate(pictures):
        name = f"made_{number}.png"
        if colors is not None:
            paint(folder / name, *colors)
        line = {"id": f"c{number}", "prompt": prompt, "references": ["red.png", "green.png"], "picture": name, **more}
        lines.append(json.dumps(line))
    (folder / "cases.jsonl").write_text("\n".join(lines))
    return read_cases(folder / "cases.jsonl")


def measure(folder, *pictures, **more):
    return measure_all(cases_of(folder, *pictures, **more), Measurer(ColorFaces()), folder / "scores.jsonl")
