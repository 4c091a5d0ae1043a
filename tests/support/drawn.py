"""Pictures of two people made of discs and boxes, with PairHuman annotation, and a detector that finds the discs."""

import functools
import json
import os
import tarfile
import time

import numpy as np
from PIL import Image, ImageDraw
from safetensors.torch import load
from scipy import ndimage

from dhumandiff.faces import ARCFACE_TEMPLATE, Face
from dhumandiff.testing import TinyFaces
from training.data.encode import Encoders
from training.data.pipeline import prepare
from training.data.settings import FaceSettings, PrepareSettings, ReferenceSettings

SKIN = 250  # the red of every face, and of nothing else
CAPTION = "A man and a woman stand in a garden. The groom wears a black suit (and a tie), the bride a white dress."


class DrawnFaces(TinyFaces):
    """Finds discs of red 250 in pictures that were not resampled; who it is, is what the disc looks like."""

    name = "drawn"

    def detect(self, image):
        if os.environ.get("DRAWN_SLOW"):  # so that there is a moment to be killed in
            time.sleep(0.02)
        labels, _ = ndimage.label(image[..., 0] == SKIN)
        found = []
        for rows, columns in ndimage.find_objects(labels):
            corner = np.float32([columns.start, rows.start])
            size = np.float32([columns.stop, rows.stop]) - corner
            if size.min() >= 6:
                box = np.concatenate([corner, corner + size]).astype(np.float32)
                found.append(Face(box, (corner + ARCFACE_TEMPLATE / 112 * size).astype(np.float32)))
        return found


def analyzer():
    return DrawnFaces()


def broken():
    raise RuntimeError("no such detector")


class Deadly(DrawnFaces):
    """Ends its process at the first picture, as a system without memory does."""

    def detect(self, image):
        os._exit(9)


def draw(path, people, size=(96, 128), paper=(90, 120, 150)):
    """people: (x, y, radius, (green, blue) of the skin) a face. size: (height, width) px."""
    image = Image.new("RGB", size[::-1], paper)
    canvas = ImageDraw.Draw(image)
    for x, y, radius, (green, blue) in people:
        canvas.rectangle([x - 1.5 * radius, y + radius, x + 1.5 * radius, size[0]], fill=(30, green, blue))
        canvas.ellipse([x - radius, y - radius, x + radius, y + radius], fill=(SKIN, green, blue))
        canvas.rectangle([x - radius / 2, y - 2, x - radius / 3, y], fill=(SKIN, blue, green))
        canvas.rectangle([x - radius / 3, y + radius / 2, x + radius / 3, y + radius / 2 + 2], fill=(SKIN, 20, 20))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def person(number, gender, x, y, radius, size=(96, 128), **more):
    box = [x - 1.5 * radius, y - radius, x + 1.5 * radius, size[0]]
    return {"object_id": number, "gender": gender, "age_group": "adult", "unique_coordinate": box, **more}


def annotation(people, caption=CAPTION, words=None, size=(96, 128)):
    """words: sentence -> phrases that name somebody; by default those of CAPTION."""
    if words is None:
        words = {
            "A man and a woman stand in a garden.": ["A man", "a woman"],
            "The groom wears a black suit (and a tie), the bride a white dress.": ["The groom", "the bride"],
        }
    match_info = []
    for number, (sentence, phrases) in enumerate(words.items()):
        starts = [sentence.index(phrase) for phrase in phrases]
        info = [
            {"words": phrase, "start_idx": start, "end_idx": start + len(phrase)}
            for phrase, start in zip(phrases, starts, strict=True)
        ]
        match_info.append({"sentence_ID": number, "sentence": sentence, "person_info": info})
    return {
        "Information": {"height": size[0], "width": size[1], "Image category": "couple"},
        "image_caption": {"text": caption, "match_info": match_info},
        "people": people,
        "objects": [],
    }


def skin(number):
    return 60 + (number * 37) % 150, 50 + (number * 61) % 170


def couple(folder, number, swapped=False, **more):
    """One good picture and its annotation; in every second one the woman stands on the left."""
    man, woman = (32, 96) if not swapped else (96, 32)
    radius = 12 + number % 4
    path = folder / f"{number:03d}.png"
    draw(path, [(man, 34, radius, skin(2 * number)), (woman, 40, radius, skin(2 * number + 1))])
    people = [person(1, "female", woman, 40, radius), person(2, "male", man, 34, radius)]
    path.with_suffix(".json").write_text(json.dumps(annotation(people, **more)))
    return path


def world(folder, good=10, refused=True):
    """A small data set: `good` couples, further photos of one person, one picture of every kind that is refused."""
    for number in range(good):
        path = couple(folder, number, swapped=number % 2 == 1)
    for photo in range(2):
        draw(folder / "references" / "anna" / f"{photo}.png", [(40 + photo, 40, 20, skin(1))], (80, 80), (10, 90, 20))
    told = json.loads((folder / "000.json").read_text())
    told["people"][0]["identity"] = "anna"
    (folder / "000.json").write_text(json.dumps(told))
    if not refused:
        return folder

    (folder / "900_corrupt.png").write_bytes(path.read_bytes()[:200])
    draw(folder / "901_tiny.png", [(10, 10, 6, skin(1)), (26, 10, 6, skin(2))], (32, 36))
    draw(folder / "902_one.png", [(40, 40, 12, skin(3))])
    draw(folder / "903_three.png", [(20, 40, 12, skin(3)), (60, 40, 12, skin(4)), (100, 40, 12, skin(5))])
    draw(folder / "904_nobody.png", [])
    couple(folder, 905)
    told = json.loads((folder / "905.json").read_text())
    told["people"].append(told["people"][0])
    (folder / "905.json").write_text(json.dumps(told))
    couple(folder, 906, caption="Two people hug.", words={"Two people hug.": []})
    couple(folder, 907)
    (folder / "907.json").write_text('{"people": [')
    draw(folder / "908_small.png", [(32, 34, 12, skin(3)), (96, 34, 4, skin(4))])
    draw(folder / "909_twins.png", [(32, 40, 12, skin(3)), (96, 40, 12, skin(3))])
    return folder


SETTINGS = {
    "base": "tiny",
    "vision": "tiny",
    "resolution": 112,
    "bucket_step": 32,
    "min_side": 48,
    "shard_size": 4,
    "batch_size": 3,
    "workers": 0,
    "device": "cpu",
}


@functools.cache
def encoders():
    """The tiny encoders, loaded once for all tests."""
    settings = PrepareSettings(**SETTINGS)
    return Encoders.load(settings)


def settings_for(data, out, **more):
    """Settings for drawn pictures; faces_... and references_... reach into the parts."""
    parts = {"faces": {"pack": "support.drawn:analyzer", "min_size": 10.0, "same_person": 0.995}, "references": {}}
    for name in list(more):
        part, _, field = name.partition("__")
        if field:
            parts[part][field] = more.pop(name)
    settings = PrepareSettings(
        data=str(data),
        out=str(out),
        faces=FaceSettings(**parts["faces"]),
        references=ReferenceSettings(**parts["references"]),
        **{**SETTINGS, **more},
    )
    settings.check()
    return settings


def prepared(data, out, **more):
    """Prepare in this process; gives back what the command would print."""
    return prepare(settings_for(data, out, **more), encoders(), analyzer())


def samples(out):
    """key -> (JSON, tensors) of everything in the shards."""
    found = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            parts = {member.name: tar.extractfile(member).read() for member in tar}
        for name, content in parts.items():
            key, _, ending = name.partition(".")
            if ending == "json":
                found[key] = json.loads(content), load(parts[f"{key}.safetensors"])
    return found


def contents(out):
    """File name -> bytes of everything that has to be the same however it was made."""
    names = [*out.glob("*.tar"), *out.glob("*.json"), *out.glob("common.safetensors"), *out.glob("journal/*.json")]
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(names)}


def reasons(out):
    """Picture -> why it was set aside."""
    report = json.loads((out / "report.json").read_text())
    return {one["name"]: (one["reason"], one["message"]) for one in report["set_aside_pictures"]}
