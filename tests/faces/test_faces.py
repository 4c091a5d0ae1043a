"""Photos in every shape they come in, and the faces in them: chosen, aligned, cropped and judged."""

import math
import re

import numpy as np
import pytest
import torch
from PIL import Image
from support.plain_faces import face_at, gradient

from dhumandiff.errors import FaceError, ImageError
from dhumandiff.faces import (
    ARCFACE_TEMPLATE,
    Face,
    align,
    as_photo,
    choose_face,
    crop_face,
    load_photo,
    normalize_light,
    photo_from_tensor,
)
from dhumandiff.faces.light import measure_light
from dhumandiff.faces.quality import PhotoQuality, estimate_yaw


class TestPhotos:
    def test_a_plain_photo_keeps_its_pixels_and_has_no_notes(self, tmp_path):
        Image.fromarray(gradient()).save(tmp_path / "plain.png")
        photo = load_photo(tmp_path / "plain.png")
        assert np.array_equal(photo.pixels, gradient())
        assert photo.pixels.dtype == np.uint8
        assert (photo.notes, photo.name) == ((), "plain.png")

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_is_applied(self, tmp_path, orientation):
        undo = {
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_90,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_270,
        }
        image = Image.fromarray(gradient())
        stored = image.transpose(undo[orientation]) if orientation in undo else image
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored.save(tmp_path / "turned.png", exif=exif)
        assert np.array_equal(load_photo(tmp_path / "turned.png").pixels, gradient())

    def test_sixteen_bit_grey_is_scaled_not_clipped(self, tmp_path):
        values = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
        Image.fromarray(values).save(tmp_path / "deep.png")
        photo = load_photo(tmp_path / "deep.png")
        assert np.abs(photo.pixels[..., 0].astype(float) - values / 257).max() <= 0.5
        assert "16 bit" in photo.notes[0]

    def test_sixteen_bit_colour_is_scaled(self, tmp_path):
        cv2 = pytest.importorskip("cv2")
        assert cv2.imwrite(str(tmp_path / "deep.png"), gradient()[..., ::-1].astype(np.uint16) * 257)
        assert np.array_equal(load_photo(tmp_path / "deep.png").pixels, gradient())

    def test_floating_point_grey_is_scaled(self, tmp_path):
        Image.fromarray(np.linspace(0, 1, 2400, dtype=np.float32).reshape(40, 60)).save(tmp_path / "float.tiff")
        photo = load_photo(tmp_path / "float.tiff")
        assert (photo.pixels.min(), photo.pixels.max()) == (0, 255)
        assert "floating point" in photo.notes[0]

    def test_grey_cmyk_and_palette_become_rgb(self, tmp_path):
        image = Image.fromarray(gradient())
        image.convert("L").save(tmp_path / "grey.jpg")
        image.convert("CMYK").save(tmp_path / "print.jpg", quality=95)
        image.quantize(256).save(tmp_path / "palette.png")
        grey, print_, palette = (load_photo(tmp_path / name) for name in ("grey.jpg", "print.jpg", "palette.png"))
        assert "greyscale" in grey.notes[0]
        assert grey.pixels.shape == (40, 60, 3)
        assert "CMYK" in print_.notes[0]
        assert np.abs(print_.pixels.astype(int) - gradient()).mean() < 6
        assert palette.notes == ()
        assert np.abs(palette.pixels.astype(int) - gradient()).mean() < 12

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
    def test_transparency_is_laid_on_white(self, tmp_path, mode):
        path = tmp_path / "clear.png"
        black = Image.new("RGBA", (8, 4), (0, 0, 0, 255))
        black.paste((0, 0, 0, 0), (0, 0, 4, 4))
        if mode == "P":
            picture = Image.new("P", (8, 4), 1)
            picture.putpalette([9, 9, 9, 0, 0, 0])
            picture.paste(0, (0, 0, 4, 4))
            picture.save(path, transparency=0)
        elif mode == "RGB":
            picture = Image.new("RGB", (8, 4), (0, 0, 0))
            picture.paste((9, 9, 9), (0, 0, 4, 4))
            picture.save(path, transparency=(9, 9, 9))
        else:
            black.convert(mode).save(path)
        photo = load_photo(path)
        assert (photo.pixels[:, :4] == 255).all()
        assert (photo.pixels[:, 4:] == 0).all()
        assert "white" in photo.notes[0]

    @pytest.mark.parametrize("ending", ["gif", "webp", "png"])
    def test_of_an_animation_the_first_frame_is_used_with_a_note(self, tmp_path, ending):
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
        path = tmp_path / f"moving.{ending}"
        frames[0].save(
            path, save_all=True, append_images=frames[1:], **({"lossless": True} if ending == "webp" else {})
        )
        photo = load_photo(path)
        assert tuple(photo.pixels[4, 4]) == (255, 0, 0)
        assert "3 pictures" in photo.notes[0]

    def test_a_file_that_cannot_be_used_is_named(self, tmp_path):
        with pytest.raises(ImageError, match=r"gone\.jpg does not exist"):
            load_photo(tmp_path / "gone.jpg")
        with pytest.raises(ImageError, match="is a folder"):
            load_photo(tmp_path)
        (tmp_path / "text.jpg").write_text("not a picture")
        with pytest.raises(ImageError, match=r"text\.jpg is not a picture"):
            load_photo(tmp_path / "text.jpg")
        (tmp_path / "empty.png").write_bytes(b"")
        with pytest.raises(ImageError, match=r"empty\.png"):
            load_photo(tmp_path / "empty.png")
        noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        for ending in ("png", "jpg", "webp", "tiff"):
            whole = tmp_path / f"whole.{ending}"
            Image.fromarray(noise).save(whole)
            half = tmp_path / f"half.{ending}"
            half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
            with pytest.raises(ImageError, match=rf"half\.{ending} is (damaged|not a picture)"):
                load_photo(half)

    def test_a_tensor_is_read_with_one_three_or_four_channels(self):
        rgb = torch.from_numpy(gradient()).float() / 255
        assert np.array_equal(photo_from_tensor(rgb).pixels, gradient())
        assert np.array_equal(photo_from_tensor(torch.from_numpy(gradient())).pixels, gradient())
        grey = photo_from_tensor(rgb[..., :1])
        assert grey.pixels.shape == (40, 60, 3)
        assert "greyscale" in grey.notes[0]
        clear = photo_from_tensor(torch.cat([rgb, torch.zeros_like(rgb[..., :1])], dim=-1))
        assert (clear.pixels == 255).all()
        assert "white" in clear.notes[0]
        assert photo_from_tensor(rgb * 1.2).notes == ("values from 0.00 to 1.20 were clipped to 0..1",)

    def test_a_tensor_that_is_no_picture_is_refused(self):
        rgb = torch.rand(8, 8, 3)
        with pytest.raises(ImageError, match="NaN"):
            photo_from_tensor(torch.where(rgb > 0.5, torch.nan, rgb), "image 2")
        with pytest.raises(ImageError, match=r"image 2 has values from .* to 2.*Scale"):
            photo_from_tensor(rgb * 255 + 1, "image 2")
        with pytest.raises(ImageError, match=r"shape \[8, 8, 2\]"):
            photo_from_tensor(rgb[..., :2])
        with pytest.raises(ImageError, match=r"shape \[1, 8, 8, 3\]"):
            photo_from_tensor(rgb[None])
        with pytest.raises(ImageError, match="int64"):
            photo_from_tensor(torch.zeros(8, 8, 3, dtype=torch.int64))

    def test_whatever_a_photo_comes_as_is_read(self, tmp_path):
        Image.fromarray(gradient()).save(tmp_path / "a.png")
        read = load_photo(tmp_path / "a.png")
        assert as_photo(read) is read
        for given in (str(tmp_path / "a.png"), gradient(), torch.from_numpy(gradient())):
            assert np.array_equal(as_photo(given).pixels, gradient())
        with pytest.raises(ImageError, match="image 3 is a int"):
            as_photo(7, "image 3")


class TestChoice:
    faces = (face_at(300, 100, 80), face_at(100, 100, 120), face_at(500, 100, 100))

    @pytest.mark.parametrize(
        ("which", "x"), [("largest", 100), ("left-most", 100), ("right-most", 500), (0, 100), (1, 500), (2, 300)]
    )
    def test_each_way_of_choosing_finds_its_face(self, which, x):
        assert choose_face(self.faces, which).center[0] == pytest.approx(x)

    def test_a_choice_that_cannot_be_made_says_what_there_is(self):
        with pytest.raises(FaceError, match=r"no face with index 3\. 3 faces were found: indices go from 0"):
            choose_face(self.faces, 3)
        with pytest.raises(FaceError, match="1 face was found"):
            choose_face(self.faces[:1], 1)
        with pytest.raises(FaceError, match="index -1"):
            choose_face(self.faces, -1)
        with pytest.raises(FaceError, match="'biggest'"):
            choose_face(self.faces, "biggest")
        with pytest.raises(FaceError, match="No face was found"):
            choose_face([])

    def test_a_face_too_small_is_refused_with_its_size(self):
        with pytest.raises(FaceError, match="48 px in size, less than the 64 px"):
            choose_face([face_at(100, 100, 48)])
        assert choose_face([face_at(100, 100, 48)], minimum_size=40).size == pytest.approx(48)


class TestGeometry:
    def test_landmarks_on_the_template_are_left_where_they_are(self):
        pytest.importorskip("cv2")
        image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
        assert np.array_equal(align(image, ARCFACE_TEMPLATE), image)

    def test_bad_landmarks_are_refused(self):
        with pytest.raises(FaceError, match="five landmarks"):
            align(gradient(), np.zeros((4, 2)))
        with pytest.raises(FaceError, match="finite"):
            align(gradient(), np.full((5, 2), math.nan))
        with pytest.raises(FaceError, match="one point"):
            align(gradient(), np.zeros((5, 2)))

    def test_the_crop_has_the_geometry_of_the_released_references(self):
        crop, face, note = crop_face(gradient(900, 1200), face_at(640, 500, 240))
        assert crop.shape == (512, 512, 3)
        assert note is None
        assert face.size / 512 == pytest.approx(0.60, abs=0.01)
        assert face.center[0] / 512 == pytest.approx(0.505, abs=0.01)
        assert face.center[1] / 512 == pytest.approx(0.665, abs=0.01)

    def test_a_detector_of_tall_boxes_gives_the_same_crop(self):
        square = face_at(640, 500, 240)
        tall = Face(np.array([540, 332, 740, 620], np.float32), square.landmarks)  # same area, same chin
        same, taller = (crop_face(gradient(900, 1200), face)[0] for face in (square, tall))
        assert np.array_equal(same, taller)

    def test_landmarks_and_pixels_move_together(self):
        image = np.zeros((600, 600, 3), np.uint8)
        face = face_at(300, 320, 200)
        x, y = face.landmarks[2].round().astype(int)
        image[y - 4 : y + 5, x - 4 : x + 5] = 255
        crop, moved, _ = crop_face(image, face)
        rows, columns = np.nonzero(crop[..., 0] > 128)
        assert (columns.mean() + 0.5, rows.mean() + 0.5) == pytest.approx(tuple(moved.landmarks[2]), abs=1.5)

    def test_beyond_the_edge_pixels_repeat_and_a_note_says_so(self):
        crop, _, note = crop_face(gradient(300, 300), face_at(40, 60, 100))
        assert (crop[:20] == crop[0]).all(axis=(1, 2)).sum() > 10
        assert "close to the picture's edge" in note


class TestQuality:
    good = PhotoQuality(300, 0.2, 3, 0.5, 0.01, 0.2)

    def test_a_good_photo_has_no_warnings(self):
        assert self.good.warnings() == []
        assert "face 300 px" in str(self.good)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"face_size": 100}, "small .100 px"),
            ({"sharpness": 0.004}, "blurred"),
            ({"yaw": -45}, "turned by about 45 degrees"),
            ({"brightness": 0.1}, "very dark"),
            ({"brightness": 0.9}, "overexposed"),
            ({"clipped": 0.3}, "30% of the face is pure black or white"),
            ({"light_imbalance": 1.5}, "left half of the face gets 2.8 times"),
            ({"light_imbalance": -1.5}, "right half of the face"),
        ],
    )
    def test_each_fault_has_its_sentence_with_what_to_do(self, change, words):
        values = {**vars(self.good), **change}
        (warning,) = PhotoQuality(**values).warnings()
        assert re.search(words, warning)
        assert "use a" in warning

    @pytest.mark.parametrize("yaw", [-40, -20, 0, 20, 40])
    @pytest.mark.parametrize("roll", [0, 25])
    def test_yaw_is_read_from_landmarks_whatever_the_roll(self, yaw, roll):
        # A simple head in units of the pupils' distance: x right, y down, z towards the camera.
        head = np.array([[-0.5, 0, 0], [0.5, 0, 0], [0, 0.55, 0.45], [-0.4, 1.1, 0.05], [0.4, 1.1, 0.05]])
        turn, tilt = math.radians(yaw), math.radians(roll)
        x = head[:, 0] * math.cos(turn) + head[:, 2] * math.sin(turn)
        seen = np.stack([x, head[:, 1]], axis=1) * 100
        seen = seen @ np.array([[math.cos(tilt), math.sin(tilt)], [-math.sin(tilt), math.cos(tilt)]]) + 400
        assert estimate_yaw(seen) == pytest.approx(yaw, abs=10)

    def test_light_from_one_side_is_measured_and_evened_out_mildly(self):
        pytest.importorskip("cv2")
        face = face_at(256, 330, 300)
        crop = np.full((512, 512, 3), 150, np.uint8)
        assert measure_light(crop, face).imbalance == pytest.approx(0, abs=0.01)
        assert np.array_equal(normalize_light(crop, face), crop)
        crop[:, :256] = 110
        before, after = measure_light(crop, face), measure_light(normalize_light(crop, face), face)
        assert before.imbalance < -0.8
        assert 0.45 < after.imbalance / before.imbalance < 0.75
        assert after.brightness == pytest.approx(before.brightness, abs=0.02)

    def test_normalisation_keeps_hues_and_brightens_a_dark_face_by_half_a_stop_at_most(self):
        pytest.importorskip("cv2")
        face = face_at(256, 330, 300)
        crop = np.zeros((512, 512, 3), np.uint8) + np.array([40, 30, 20], np.uint8)
        after = normalize_light(crop, face)
        linear = [((value[256, 256] / 255 + 0.055) / 1.055) ** 2.4 for value in (crop, after)]
        assert linear[1] / linear[0] == pytest.approx([2**0.5] * 3, rel=0.1)
