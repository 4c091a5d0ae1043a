"""Prepare on odd pictures: which face is whose, crops that keep both heads, given masks, photos from elsewhere."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("diffusers", reason="install it with: pip install '.[train]'")
for package in ("jsonargparse", "matplotlib", "scipy", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from PIL import Image
from support.drawn import (
    annotation,
    couple,
    draw,
    encoders,
    person,
    prepared,
    reasons,
    samples,
    settings_for,
    skin,
    world,
)


def test_people_without_a_face_are_set_aside(tmp_path):
    """People without a face of their own are set aside."""
    path = couple(tmp_path / "data", 0)
    told = json.loads(path.with_suffix(".json").read_text())
    told["people"][0]["unique_coordinate"] = [52, 60, 60, 96]
    path.with_suffix(".json").write_text(json.dumps(told))
    path = couple(tmp_path / "data", 1)
    told = json.loads(path.with_suffix(".json").read_text())
    for one in told["people"]:
        one["unique_coordinate"] = [500, 500, 600, 600]
    path.with_suffix(".json").write_text(json.dumps(told))
    prepared(tmp_path / "data", tmp_path / "out")
    assert reasons(tmp_path / "out")["000.png"] == (
        "not matched",
        "person 1 has no face; 2 faces found in the picture.",
    )
    assert reasons(tmp_path / "out")["001.png"][1].startswith("the annotated people have no box inside the picture")


def test_an_unusable_box_gets_the_remaining_face(tmp_path):
    """A person whose box is unusable gets the face that is left."""
    path = couple(tmp_path / "data", 0)
    told = json.loads(path.with_suffix(".json").read_text())
    told["people"][0]["unique_coordinate"] = [500, 500, 600, 600]
    path.with_suffix(".json").write_text(json.dumps(told))
    prepared(tmp_path / "data", tmp_path / "out")
    ((told, _),) = samples(tmp_path / "out").values()
    assert [one["gender"] for one in told["persons"]] == ["male", "female"]
    assert told["persons"][0]["face_box"][0] < told["persons"][1]["face_box"][0]


def test_keypoints_of_the_head_decide_where_boxes_overlap(tmp_path):
    size = (96, 128)
    whole = [4, 4, 124, 96]
    points = {"male": (90, 40), "female": (36, 40)}
    people = [
        {**person(number, gender, 64, 40, 12), "unique_coordinate": whole, "keypoints": [[*points[gender], 0.9]] * 17}
        for number, gender in ((1, "male"), (2, "female"))
    ]
    path = tmp_path / "data" / "a.png"
    draw(path, [(90, 40, 12, skin(1)), (36, 40, 12, skin(2))], size)
    path.with_suffix(".json").write_text(json.dumps(annotation(people)))
    prepared(tmp_path / "data", tmp_path / "out")
    ((told, _),) = samples(tmp_path / "out").values()
    man, woman = told["persons"]
    assert man["face_box"][0] > woman["face_box"][0]


def test_small_faces_of_whole_figures_are_found(tmp_path):
    """Small faces of whole figures are looked for more closely."""
    from support.drawn import DrawnFaces

    from training.data.pipeline import prepare

    class ShortSighted(DrawnFaces):
        def detect(self, image):
            return [face for face in super().detect(image) if face.size > 0.3 * min(image.shape[:2])]

    couple(tmp_path / "data", 0)
    prepare(settings_for(tmp_path / "data", tmp_path / "out"), encoders(), ShortSighted())
    ((told, _),) = samples(tmp_path / "out").values()
    assert [one["face_box"] for one in told["persons"]] == [[20.0, 22.0, 45.0, 47.0], [84.0, 28.0, 109.0, 53.0]]


def test_an_unusable_further_photo_is_noted(tmp_path):
    """A further photo that cannot be used is left out and noted."""
    data = world(tmp_path / "data", good=1, refused=False)
    (data / "references" / "anna" / "0.png").write_bytes(b"no picture")
    draw(data / "references" / "anna" / "1.png", [], (80, 80))
    prepared(data, tmp_path / "out")
    ((told, _),) = samples(tmp_path / "out").values()
    assert [row["origin"] for row in told["persons"][1]["references"]] == ["target", "target"]
    ((noted),) = json.loads((tmp_path / "out" / "report.json").read_text())["noted_pictures"]
    assert [note.split(":")[0] for note in noted["notes"]] == [
        "the paired photo anna/0.png is left out",
        "the paired photo anna/1.png is left out",
    ]


def test_pictures_are_cut_to_buckets_that_keep_both_heads(tmp_path):
    draw(tmp_path / "data" / "wide.png", [(30, 50, 14, skin(3)), (330, 50, 14, skin(4))], (120, 360))
    draw(tmp_path / "data" / "tall.png", [(40, 60, 14, skin(3)), (100, 70, 14, skin(4))], (400, 140))
    prepared(tmp_path / "data", tmp_path / "out", unknown_gender="left_to_right")
    assert reasons(tmp_path / "out") == {
        "wide.png": ("crop", "the two faces are too far apart for any bucket; a larger max_aspect may hold them.")
    }
    ((told, tensors),) = samples(tmp_path / "out").values()
    assert told["bucket"] == told["target_size"] == [128, 96]
    assert told["original_size"] == [400, 140]
    for one in told["persons"]:
        box = one["face_box"]
        assert 0 < box[0] < box[2] < 96
        assert 0 < box[1] < box[3] < 128
    assert tensors["latent_mean"].shape == (4, 16, 12)


def test_given_masks_are_used_instead_of_boxes(tmp_path):
    path = couple(tmp_path / "data", 0)
    for number, columns in ((1, slice(64, 128)), (2, slice(0, 64))):  # as annotated: the woman is number 1
        mask = np.zeros((96, 128), np.uint8)
        mask[:, columns] = 255
        (tmp_path / "data" / "masks").mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / "data" / "masks" / f"{path.stem}_{number}.png")
    prepared(tmp_path / "data", tmp_path / "out")
    ((_, tensors),) = samples(tmp_path / "out").values()
    man = torch.zeros(12, 16, dtype=torch.uint8)
    man[:, :8] = 255
    assert torch.equal(tensors["mask_1"], man)
    assert torch.equal(tensors["mask_2"], 255 - man)
