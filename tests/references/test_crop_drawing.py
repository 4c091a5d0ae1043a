"""What the crop of a reference shows people: the face's box, and a short word for whatever is wrong with the photo."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from support.plain_faces import face_at

from dhumandiff.faces import choose_face, load_photo
from dhumandiff.faces.drawing import draw_crop
from dhumandiff.faces.quality import PhotoQuality
from dhumandiff.references.encode import encode_reference

LABEL = (240, 228, 66)
FACE = face_at(258, 340, 307)
GOOD = PhotoQuality(300, 0.2, 3, 0.5, 0.01, 0.2)
EVERYTHING = [issue.label for issue in PhotoQuality(84, 0.001, 48, 0.1, 0.3, -1.4, 55).issues()]


def labelled(crop):
    """Where a label's ground is: bool [S, S]."""
    return np.abs(crop.astype(int) - LABEL).max(axis=-1) < 4


@pytest.mark.parametrize(
    ("change", "label"),
    [
        ({"face_size": 84.4}, "small: 84 px"),
        ({"sharpness": 0.004}, "blurred"),
        ({"yaw": -38}, "turned 38°"),
        ({"roll": 52}, "tilted 52°"),
        ({"brightness": 0.1}, "dark"),
        ({"brightness": 0.9}, "overexposed"),
        ({"clipped": 0.3}, "30% without detail"),
        ({"light_imbalance": 1.5}, "light from the left"),
        ({"light_imbalance": -1.5}, "light from the right"),
    ],
)
def test_each_fault_has_a_label_beside_its_sentence(change, label):
    (issue,) = PhotoQuality(**{**vars(GOOD), **change}).issues()
    assert issue.label == label
    assert "use a" in issue.advice or "turn the photo" in issue.advice


def test_a_good_photo_gets_a_box_and_no_label():
    crop = np.full((512, 512, 3), 120, np.uint8)
    drawn = draw_crop(crop, FACE, [issue.label for issue in GOOD.issues()])
    assert not labelled(drawn).any()
    changed = (drawn != crop).any(axis=-1)
    assert changed[340, round(FACE.box[0])]
    x0, y0, x1, y1 = (round(float(edge)) for edge in FACE.box)
    assert not changed[y0 + 6 : y1 - 6, x0 + 6 : x1 - 6].any()  # the face itself is as it was
    assert not changed[: y0 - 6].any()


@pytest.mark.parametrize("labels", [["blurred"], EVERYTHING, [*EVERYTHING, "someone else?"] * 2])
@pytest.mark.parametrize("side", [512, 128])
def test_labels_do_not_stand_on_the_face(labels, side):
    face = type(FACE)(FACE.box * side / 512, FACE.landmarks * side / 512)
    crop = np.full((side, side, 3), 120, np.uint8)
    drawn = draw_crop(crop, face, labels)
    assert drawn.shape == crop.shape
    places = np.argwhere(labelled(drawn))
    assert len(places) > 0.01 * side * side
    assert places[:, 0].max() < face.box[1]


def test_a_label_can_be_read_at_half_size():
    drawn = draw_crop(np.zeros((512, 512, 3), np.uint8), FACE, ["dark"])
    rows = np.flatnonzero(labelled(drawn).any(axis=1))
    assert rows.max() - rows.min() > 36  # px; letters of about 15 px there


@pytest.mark.faces
class TestRealPhotos:
    def spoilt(self, photo, face):
        """Label -> the photo made so that it should get it, and no other."""
        shade = np.where(np.arange(photo.shape[1]) < face.center[0], 0.4, 1.0)[None, :, None]
        picture = Image.fromarray(photo)
        scale = 84 / face.size
        return {
            "": photo,
            "blurred": np.asarray(picture.filter(ImageFilter.GaussianBlur(face.size * 0.03))),
            "dark": (photo * 0.15).astype(np.uint8),
            "light from the right": (photo * shade).astype(np.uint8),
            "small": np.asarray(
                picture.resize([round(edge * scale) for edge in picture.size], Image.Resampling.LANCZOS)
            ),
        }

    @pytest.mark.parametrize("name", ["obama.jpg", "obama2.jpg", "biden.jpg"])
    def test_a_spoilt_photo_is_labelled(self, face_photos, face_analyzer, name):
        photo = load_photo(face_photos / name).pixels
        for wanted, pixels in self.spoilt(photo, choose_face(face_analyzer.detect(photo))).items():
            reference, report = encode_reference(pixels, lambda seen: torch.zeros(len(seen), 2, 4), face_analyzer)
            (told,) = report.photos
            labels = [issue.label for issue in told.issues()]
            assert [label.split(":")[0] for label in labels] == [wanted] * bool(wanted)
            crop = (reference.crop[0] * 255).round().byte().numpy()
            new = labelled(draw_crop(crop, told.face_in_crop, labels)) & ~labelled(crop)
            assert new.sum() > 2000 if wanted else not new.any()
