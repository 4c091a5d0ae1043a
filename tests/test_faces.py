"""Photos in every shape they come in, and the faces in them."""

import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from dhumandiff.errors import FaceError, ImageError
from dhumandiff.faces import (
    ARCFACE_TEMPLATE,
    Face,
    FaceAnalyser,
    InsightFaceAnalyser,
    align,
    as_photo,
    assess,
    choose_face,
    crop_face,
    load_photo,
    normalise_light,
    photo_from_tensor,
)
from dhumandiff.faces import insightface as backend
from dhumandiff.faces.light import measure_light
from dhumandiff.faces.quality import PhotoQuality, estimate_yaw


def gradient(height: int = 40, width: int = 60) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), 128 + 0 * x], axis=-1).astype(np.uint8)


def face_at(x: float, y: float, size: float) -> Face:
    """An upright frontal face whose box is a square of that size around a centre."""
    points = (ARCFACE_TEMPLATE - ARCFACE_TEMPLATE.mean(axis=0)) * size / 91 + [x, y]
    return Face(
        np.array([x - size / 2, y - size / 2, x + size / 2, y + size / 2], np.float32), points.astype(np.float32)
    )


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b)


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
        assert choose_face(self.faces, which).centre[0] == pytest.approx(x)

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
        assert face.centre[0] / 512 == pytest.approx(0.505, abs=0.01)
        assert face.centre[1] / 512 == pytest.approx(0.665, abs=0.01)

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
        assert np.array_equal(normalise_light(crop, face), crop)
        crop[:, :256] = 110
        before, after = measure_light(crop, face), measure_light(normalise_light(crop, face), face)
        assert before.imbalance < -0.8
        assert 0.45 < after.imbalance / before.imbalance < 0.75
        assert after.brightness == pytest.approx(before.brightness, abs=0.02)

    def test_normalisation_keeps_hues_and_brightens_a_dark_face_by_half_a_stop_at_most(self):
        pytest.importorskip("cv2")
        face = face_at(256, 330, 300)
        crop = np.zeros((512, 512, 3), np.uint8) + np.array([40, 30, 20], np.uint8)
        after = normalise_light(crop, face)
        linear = [((value[256, 256] / 255 + 0.055) / 1.055) ** 2.4 for value in (crop, after)]
        assert linear[1] / linear[0] == pytest.approx([2**0.5] * 3, rel=0.1)


class TestPacks:
    def test_a_missing_package_says_how_to_install_it(self, monkeypatch):
        for package in ("insightface.app", "onnxruntime"):
            with monkeypatch.context() as patch:
                patch.setitem(sys.modules, package, None)
                with pytest.raises(
                    FaceError, match=r"pip install insightface onnxruntime\. .*onnxruntime-gpu.*never both"
                ):
                    InsightFaceAnalyser.from_pack("buffalo_l")

    def test_without_opencv_alignment_says_how_to_install_it(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "cv2", None)
        with pytest.raises(FaceError, match="pip install opencv-python-headless"):
            align(gradient(), ARCFACE_TEMPLATE)

    def test_a_missing_pack_is_not_downloaded_and_the_folder_is_named(self, tmp_path):
        pytest.importorskip("insightface")
        (tmp_path / "models" / "antelopev2").mkdir(parents=True)
        with pytest.raises(FaceError, match=r"models.buffalo_l\. Packs that are there: antelopev2\. .*allow_download"):
            InsightFaceAnalyser.from_pack("buffalo_l", root=tmp_path)
        with pytest.raises(FaceError, match="no face model pack at"):
            InsightFaceAnalyser.from_pack(tmp_path / "nowhere")
        with pytest.raises(FaceError, match=r"antelopev2 has no \.onnx file"):
            InsightFaceAnalyser.from_pack("antelopev2", root=tmp_path)
        with pytest.raises(FaceError, match="No face model pack was named"):
            InsightFaceAnalyser.from_pack("", root=tmp_path)

    def test_a_download_that_fails_says_what_to_put_where(self, tmp_path, monkeypatch):
        utils = pytest.importorskip("insightface.utils")

        def offline(*_args, **_kwargs):
            raise ConnectionError("no network")

        monkeypatch.setattr(utils, "ensure_available", offline)
        with pytest.raises(FaceError, match=r"could not be downloaded \(no network\).*unpack it to .*buffalo_l"):
            InsightFaceAnalyser.from_pack("buffalo_l", root=tmp_path, allow_download=True)

    def test_a_damaged_pack_is_refused(self, tmp_path):
        pytest.importorskip("insightface")
        (tmp_path / "det.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1")
        with pytest.raises(FaceError, match="cannot be loaded"):
            InsightFaceAnalyser.from_pack(tmp_path)

    @pytest.mark.faces
    def test_a_pack_is_found_by_name_by_folder_and_nested(self, faces_root, tmp_path, capfd):
        mini = faces_root / "models" / "mini"
        nested = tmp_path / "models" / "mini" / "mini"
        nested.mkdir(parents=True)
        for file in mini.glob("*.onnx"):
            (nested / file.name).symlink_to(file)
        for given, root in (("mini", faces_root), (mini, None), ("mini", tmp_path), (nested.parent, None)):
            analyser = InsightFaceAnalyser.from_pack(given, root=root, provider="CPU")
            assert (analyser.name, analyser.note, analyser.provider) == ("mini", None, "CPU")
        assert isinstance(analyser, FaceAnalyser)
        assert capfd.readouterr().out == ""  # insightface's own prints are kept off the console

    @pytest.mark.faces
    @pytest.mark.parametrize(("kept", "part"), [("rec", "face detector"), ("det", "face recogniser")])
    def test_half_a_pack_is_refused(self, faces_root, tmp_path, kept, part):
        (file,) = (faces_root / "models" / "mini").glob(f"{kept}_*.onnx")
        (tmp_path / file.name).symlink_to(file)
        with pytest.raises(FaceError, match=f"has no {part} among {file.name}"):
            InsightFaceAnalyser.from_pack(tmp_path)

    @pytest.mark.faces
    def test_a_provider_that_cannot_be_had_becomes_cpu_with_a_note(self, faces_root):
        import onnxruntime

        for wanted, full in backend.PROVIDERS.items():
            if full not in onnxruntime.get_available_providers():
                analyser = InsightFaceAnalyser.from_pack("mini", root=faces_root, provider=wanted)
                assert analyser.provider == "CPU"
                assert analyser.note.startswith(f"{wanted} was wanted for face analysis")
        with pytest.raises(FaceError, match='no provider "TPU"'):
            InsightFaceAnalyser.from_pack("mini", root=faces_root, provider="TPU")

    @pytest.mark.faces
    def test_a_provider_lost_while_loading_is_noticed_in_the_session(self, faces_root, monkeypatch):
        import onnxruntime

        # What onnxruntime-gpu does without CUDA's libraries: the provider is listed, and the session runs on the CPU.
        monkeypatch.setattr(
            onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
        )
        with pytest.warns(UserWarning, match="CUDAExecutionProvider"):
            analyser = InsightFaceAnalyser.from_pack("mini", root=faces_root, provider="auto")
        assert analyser.provider == "CPU"
        assert analyser.note.startswith("CUDA was wanted for face analysis, but ONNX Runtime runs it on CPU")

    @pytest.mark.faces
    def test_another_packs_object_is_taken_as_it_is(self, faces_root, face_photos, face_analyser):
        from insightface.app import FaceAnalysis

        app = FaceAnalysis(name="mini", root=str(faces_root), providers=["CPUExecutionProvider"])
        app.prepare(ctx_id=0, det_size=(640, 640))
        analyser = InsightFaceAnalyser(app)
        photo = load_photo(face_photos / "obama.jpg").pixels
        (face,) = analyser.detect(photo)
        assert analyser.name == "mini"
        assert np.array_equal(analyser.identity(photo, face), face_analyser.identity(photo, face))

    def test_an_object_that_cannot_do_it_is_refused(self):
        with pytest.raises(FaceError, match=r"\(dict\) has no face detector.*Load Face Analysis"):
            InsightFaceAnalyser({})


class FlexibleDetector:
    """Stands where InsightFace's detector of any input size stands; finds its face from one size downwards."""

    input_shape = (1, 3, "?", "?")

    def __init__(self, finds_at: int):
        self.finds_at, self.tried = finds_at, []

    def detect(self, image, input_size=None):
        self.tried.append(input_size)
        if input_size[0] > self.finds_at:
            return np.zeros((0, 5)), np.zeros((0, 5, 2))
        face = face_at(image.shape[1] / 2, image.shape[0] / 2, 100)
        return np.append(face.box, 0.9)[None], face.landmarks[None]


def test_a_detector_of_any_size_is_tried_at_smaller_and_smaller_ones():
    detector = FlexibleDetector(finds_at=384)
    app = type("App", (), {"det_model": detector, "models": {"detection": detector, "recognition": object()}})()
    (face,) = InsightFaceAnalyser(app).detect(np.zeros((400, 500, 3), np.uint8))
    assert detector.tried == [(640, 640), (512, 512), (384, 384)]
    assert face.centre == pytest.approx((250, 200))


@pytest.mark.faces
class TestRealFaces:
    def test_one_person_is_alike_and_two_are_not(self, face_photos, face_analyser):
        identities = {}
        for name in ("obama", "obama2", "biden"):
            photo = load_photo(face_photos / f"{name}.jpg").pixels
            identities[name] = face_analyser.identity(photo, choose_face(face_analyser.detect(photo)))
            assert identities[name].dtype == np.float32
            assert np.linalg.norm(identities[name]) == pytest.approx(1, abs=1e-5)
        assert similarity(identities["obama"], identities["obama2"]) > 0.6
        assert similarity(identities["obama"], identities["biden"]) < 0.3

    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_identity_is_what_insightface_itself_says_and_swapped_is_its_answer_to_rgb(
        self, face_photos, face_analyser
    ):
        from insightface.app.common import Face as InsightFace

        photo = load_photo(face_photos / "obama.jpg").pixels
        (face,) = face_analyser.detect(photo)
        recogniser = face_analyser.app.models["recognition"]
        for swap, picture in ((False, photo[..., ::-1]), (True, photo)):
            theirs = recogniser.get(np.ascontiguousarray(picture), InsightFace(kps=face.landmarks))
            ours = face_analyser.identity(photo, face, swap_channels=swap)
            assert similarity(ours, theirs / np.linalg.norm(theirs)) > 0.9999
        assert similarity(ours, face_analyser.identity(photo, face)) < 0.99

    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_alignment_equals_insightfaces(self, face_photos, face_analyser):
        from insightface.utils.face_align import norm_crop

        for path in sorted(face_photos.glob("*.jpg")):
            photo = load_photo(path).pixels
            for face in face_analyser.detect(photo):
                for size in (112, 224):
                    exact = face.landmarks.astype(np.float64)
                    difference = np.abs(align(photo, exact, size).astype(int) - norm_crop(photo, exact, size))
                    # OpenCV rounds positions to 1/32 px; a position on the border between two may fall either way.
                    assert difference.max() <= 1
                    assert (difference > 0).mean() < 1e-4

    def test_an_exif_rotated_photo_gives_the_same_identity(self, tmp_path, face_photos, face_analyser):
        exif = Image.Exif()
        exif[0x0112] = 6
        turned = Image.open(face_photos / "obama.jpg").transpose(Image.Transpose.ROTATE_90)
        turned.save(tmp_path / "turned.png", exif=exif)
        upright, read = (load_photo(path).pixels for path in (face_photos / "obama.jpg", tmp_path / "turned.png"))
        assert np.array_equal(upright, read)
        (face,) = face_analyser.detect(read)
        same = face_analyser.identity(upright, face_analyser.detect(upright)[0])
        assert similarity(face_analyser.identity(read, face), same) > 0.9999

    def test_faces_in_a_group_photo_are_chosen_by_place_and_by_size(self, face_analyser):
        insightface = pytest.importorskip("insightface")
        photo = load_photo(Path(insightface.__file__).parent / "data" / "images" / "t1.jpg").pixels
        faces = face_analyser.detect(photo)
        assert len(faces) >= 4
        left, right = choose_face(faces, "left-most"), choose_face(faces, "right-most")
        assert left.centre[0] < 200
        assert right.centre[0] > 850
        sizes = [choose_face(faces, index).size for index in range(len(faces))]
        assert sizes == sorted(sizes, reverse=True)
        with pytest.raises(FaceError, match=f"{len(faces)} faces were found"):
            choose_face(faces, len(faces))

    @pytest.mark.parametrize("name", ["obama", "obama2", "biden"])
    @pytest.mark.parametrize("inset", [-0.1, 0.0, 0.1])
    def test_a_tight_crop_is_found_and_recognised(self, face_photos, face_analyser, name, inset):
        photo = load_photo(face_photos / f"{name}.jpg").pixels
        face = choose_face(face_analyser.detect(photo))
        x0, y0, x1, y1 = (face.box + np.array([1, 1, -1, -1]) * inset * face.size).round().astype(int)
        tight = np.ascontiguousarray(photo[y0:y1, x0:x1])
        found = choose_face(face_analyser.detect(tight))
        assert similarity(face_analyser.identity(tight, found), face_analyser.identity(photo, face)) > 0.6

    def test_crops_look_to_the_detector_like_the_released_references(self, face_photos, face_analyser):
        for path in sorted(face_photos.glob("*.jpg")):
            photo = load_photo(path).pixels
            crop, _, _ = crop_face(photo, choose_face(face_analyser.detect(photo)))
            face = choose_face(face_analyser.detect(crop))
            # 0.60 to 0.65, 0.50 to 0.51 and 0.65 to 0.68, give or take what this small detector wavers by
            assert 0.58 < face.size / 512 < 0.67
            assert 0.47 < face.centre[0] / 512 < 0.54
            assert 0.63 < face.centre[1] / 512 < 0.70

    def test_no_face_is_found_where_there_is_none(self, face_analyser):
        assert face_analyser.detect(gradient(480, 640)) == []
        assert face_analyser.detect(np.zeros((30, 20, 3), np.uint8)) == []

    def test_portraits_pass_and_a_blurred_one_is_told(self, face_photos, face_analyser):
        photo = load_photo(face_photos / "obama.jpg").pixels
        face = choose_face(face_analyser.detect(photo))

        def judge(pixels):
            crop, moved, _ = crop_face(pixels, face)
            return assess(pixels, face, crop, moved)

        assert judge(photo).warnings() == []
        blurred = np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(face.size * 0.03)))
        assert any("blurred" in warning for warning in judge(blurred).warnings())
        assert any("very dark" in warning for warning in judge((photo * 0.15).astype(np.uint8)).warnings())
        shade = np.where(np.arange(photo.shape[1]) < face.centre[0], 1.0, 0.5)[None, :, None]
        (warning,) = judge((photo * shade).astype(np.uint8)).warnings()
        assert "left half of the face" in warning

    def test_mirroring_a_photo_turns_yaw_and_light_around(self, face_photos, face_analyser):
        photo = load_photo(face_photos / "obama2.jpg").pixels
        yaw, light = [], []
        for pixels in (photo, np.ascontiguousarray(photo[:, ::-1])):
            face = choose_face(face_analyser.detect(pixels))
            yaw.append(estimate_yaw(face.landmarks))
            light.append(measure_light(pixels, face).imbalance)
        assert yaw[0] < 0 < yaw[1]
        assert light[1] == pytest.approx(-light[0], abs=0.25)
