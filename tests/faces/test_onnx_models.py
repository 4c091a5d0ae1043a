"""Face models on ONNX Runtime alone: what the released files' layouts say, and what InsightFace and OpenCV make of the same files."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="install it with: pip install onnxruntime")
pytest.importorskip("onnx", reason="install it with: pip install onnx")

from support.open_files import POINTS, draw_face, save_recognizer, save_scrfd, save_yunet

from dhumandiff.faces import load_photo
from dhumandiff.faces.analyzer import ModelAnalyzer
from dhumandiff.faces.onnx_models import FaceRecognizer, Scrfd, YuNet, open_model

CPU = ["CPUExecutionProvider"]
SIZES = [640, None]
"""Of YuNet's input: fixed as in 2023mar, any as in 2026may."""


def bgr(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture[..., ::-1])


@pytest.fixture(scope="module", params=SIZES, ids=["fixed size", "any size"])
def yunet(request, tmp_path_factory):
    return save_yunet(tmp_path_factory.mktemp("yunet") / "face_detection_yunet.onnx", request.param)


class TestYuNet:
    def test_planted_faces_are_decoded(self, yunet):
        detector = open_model(yunet, CPU)
        assert isinstance(detector, YuNet)
        picture = np.zeros((448, 600, 3), np.uint8)
        for x, y, side in ((100, 92, 40), (300, 200, 120), (432, 304, 200)):  # one of each stride
            draw_face(picture, x, y, side)
        draw_face(picture, 500, 60, 50, score=100)  # too unsure
        boxes, points = detector.detect(bgr(picture), (640, 640))
        assert len(boxes) == 3
        for box, landmarks in zip(boxes, points, strict=True):
            side = box[2] - box[0]
            center = (box[:2] + box[2:4]) / 2
            assert box[3] - box[1] == pytest.approx(side, abs=1e-3)
            assert landmarks == pytest.approx(center + side * np.array(POINTS), abs=1e-3)
            assert box[4] == pytest.approx(250 / 255, abs=1e-5)
        assert sorted((boxes[:, 2] - boxes[:, 0]).round()) == [40, 120, 200]
        # The middle of the cell of 8, 16 or 32 px in which each face was drawn.
        centers = sorted(map(tuple, (boxes[:, :2] + boxes[:, 2:4]) / 2))
        assert np.array(centers) == pytest.approx(np.array([(100, 92), (296, 200), (432, 304)]), abs=1e-3)

    def test_two_boxes_on_one_face_become_the_better_one(self, yunet):
        picture = np.zeros((320, 320, 3), np.uint8)
        draw_face(picture, 100, 100, 50, score=220)
        draw_face(picture, 108, 100, 50, score=240)
        boxes, _ = open_model(yunet, CPU).detect(bgr(picture))
        assert len(boxes) == 1
        assert boxes[0, 4] == pytest.approx(240 / 255, abs=1e-5)

    def test_opencv_decodes_the_same(self, yunet):
        cv2 = pytest.importorskip("cv2")
        generator = np.random.default_rng(0)
        picture = np.zeros((448, 608, 3), np.uint8)
        for _ in range(25):
            x, y = generator.integers(20, 420, 2)
            draw_face(picture, int(x), int(y), int(generator.integers(20, 250)), int(generator.integers(140, 256)))
        theirs = cv2.FaceDetectorYN.create(str(yunet), "", (608, 448), YuNet.SCORE, YuNet.OVERLAP)
        _, rows = theirs.detect(bgr(picture))
        boxes, points = open_model(yunet, CPU).detect(bgr(picture))
        assert len(boxes) == len(rows) > 5
        ours, rows = boxes[np.argsort(boxes[:, 0])], rows[np.argsort(rows[:, 0])]
        order = np.argsort(boxes[:, 0])
        assert ours[:, :4] == pytest.approx(np.hstack([rows[:, :2], rows[:, :2] + rows[:, 2:4]]), abs=0.01)
        assert points[order] == pytest.approx(rows[:, 4:14].reshape(-1, 5, 2), abs=0.01)
        assert ours[:, 4] == pytest.approx(rows[:, 14], abs=1e-5)

    @pytest.mark.parametrize("shape", [(900, 1400), (1400, 900), (50, 77)])
    def test_boxes_are_px_of_the_picture(self, yunet, shape, monkeypatch):
        """Large pictures are scaled down, small ones never up; the padding moves nothing."""
        detector, shown = open_model(yunet, CPU), []
        run = detector.run
        monkeypatch.setattr(detector, "run", lambda pixels, names: shown.append(pixels) or run(pixels, names))
        picture = np.zeros((*shape, 3), np.uint8)
        scale = min(1.0, 640 / max(shape))
        at = np.round(np.array([shape[1], shape[0]]) * 0.4)
        # A face of 30 px at the scale that is looked at: as large a dot as scaling down makes one px of it.
        x, y = (at * scale).astype(int) // 8 * 8 + 4
        dot = max(1, round(1 / scale))
        left, top = round(x / scale), round(y / scale)
        picture[top : top + dot + 1, left : left + dot + 1] = (255, 30, 255)
        boxes, _ = detector.detect(bgr(picture))
        (canvas,) = {pixels.shape for pixels in shown}
        assert canvas[0] % 32 == canvas[1] % 32 == 0
        assert max(canvas[:2]) == 640 or detector.canvas is None
        if len(boxes):  # averaging may leave less of the dot than the file asks for
            center = (boxes[0, :2] + boxes[0, 2:4]) / 2
            assert np.abs(center - np.array([left, top])).max() < 16 / scale

    def test_a_face_that_is_larger_than_those_of_training_is_looked_at_in_a_smaller_picture(self, yunet, monkeypatch):
        detector, scales = open_model(yunet, CPU), []

        def at(bgr, scale):
            scales.append(scale)
            size = 400.0 if len(scales) == 1 else 390.0
            box = np.array([[50, 50, 50 + size, 50 + size, 0.9 if len(scales) == 1 else 0.7]], np.float32)
            small = np.array([[500, 10, 540, 50, 0.8]], np.float32)
            return np.vstack([box, small]), np.full((2, 5, 2), float(len(scales)), np.float32)

        monkeypatch.setattr(detector, "_at", at)
        boxes, points = detector.detect(np.zeros((600, 600, 3), np.uint8))
        assert scales == [1.0, pytest.approx(0.6 * 300 / 400)]
        assert boxes[:, 2] - boxes[:, 0] == pytest.approx([390, 40])
        assert points[:, 0, 0].tolist() == [2, 1]  # the large one of the second look, the small one of the first


class TestRecognizers:
    def test_opencv_sees_the_same_face_with_sface(self, tmp_path):
        cv2 = pytest.importorskip("cv2")
        path = save_recognizer(tmp_path / "sface.onnx", 128, normalizes=True, given="data")
        ours = open_model(path, CPU)
        assert isinstance(ours, FaceRecognizer)
        assert ours.raw
        assert ours.scores_only
        face = np.random.default_rng(1).integers(0, 256, (112, 112, 3), dtype=np.uint8)
        theirs = cv2.FaceRecognizerSF.create(str(path), "").feature(face)
        assert ours.get_feat(face) == pytest.approx(theirs, rel=1e-3, abs=1e-3)

    @pytest.mark.parametrize("normalizes", [True, False])
    def test_insightface_sees_the_same_face_with_arcface_s_kind(self, tmp_path, normalizes):
        zoo = pytest.importorskip("insightface.model_zoo.arcface_onnx")
        path = save_recognizer(tmp_path / "glintr100.onnx", 512, normalizes)
        ours = open_model(path, CPU)
        face = np.random.default_rng(2).integers(0, 256, (112, 112, 3), dtype=np.uint8)
        assert ours.raw == normalizes
        assert not ours.scores_only
        assert ours.get_feat(face) == pytest.approx(zoo.ArcFaceONNX(str(path)).get_feat(face), rel=1e-4, abs=1e-4)

    def test_what_is_neither_is_not_taken(self, tmp_path):
        from dhumandiff.onnx_bytes import tiny_model

        (tmp_path / "other.onnx").write_bytes(tiny_model())
        assert open_model(tmp_path / "other.onnx", CPU) is None


@pytest.fixture(scope="module")
def ours(faces_root):
    detector, recognizer = (
        open_model(next((faces_root / "models" / "mini").glob(f"{part}_*.onnx")), CPU) for part in ("det", "rec")
    )
    assert isinstance(detector, Scrfd)
    return ModelAnalyzer(detector, recognizer, "mini")


@pytest.mark.faces
class TestBesideInsightFace:
    """The same files, run by InsightFace and by ONNX Runtime alone."""

    def photos(self, face_photos):
        insightface = pytest.importorskip("insightface")
        images = Path(insightface.__file__).parent / "data" / "images"
        return [*sorted(face_photos.glob("*.jpg")), images / "t1.jpg", images / "Tom_Hanks_54745.png"]

    def test_faces_and_people_are_the_same(self, ours, face_photos, face_analyzer):
        seen = 0
        for path in self.photos(face_photos):
            photo = load_photo(path).pixels
            found, theirs = ours.detect(photo), face_analyzer.detect(photo)
            assert len(found) == len(theirs) > 0
            for face, other in zip(found, theirs, strict=True):
                assert np.abs(face.box - other.box).max() < 0.01
                assert np.abs(face.landmarks - other.landmarks).max() < 0.01
                assert face.score == pytest.approx(other.score, abs=1e-4)
                for swap in (False, True):
                    cosine = ours.identity(photo, face, swap) @ face_analyzer.identity(photo, other, swap)
                    assert cosine > 0.9999
                seen += 1
        assert seen >= 9

    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_what_insightface_itself_gets_is_the_same(self, ours, face_photos, face_analyzer):
        for path in self.photos(face_photos)[:4]:
            photo = load_photo(path).pixels
            boxes, points = ours.detector.detect(bgr(photo))
            theirs = face_analyzer.app.get(bgr(photo))
            assert len(boxes) == len(theirs)
            for box, landmarks, other in zip(boxes, points, theirs, strict=True):
                assert np.abs(box[:4] - other.bbox).max() < 0.01
                assert np.abs(landmarks - other.kps).max() < 0.01


@pytest.mark.parametrize("shape", [(700, 500), (500, 700), (333, 333), (90, 41)])
@pytest.mark.parametrize("outputs", [6, 9, 10, 15])
def test_insightface_decodes_an_scrfd_of_any_size_alike(tmp_path, shape, outputs):
    """On the layouts of InsightFace's zoo: 3 strides with two faces a place or 5 with one, with landmarks or without."""
    zoo = pytest.importorskip("insightface.model_zoo.scrfd")
    path = save_scrfd(tmp_path / "scrfd.onnx", outputs)
    ours, theirs = open_model(path, CPU), zoo.SCRFD(str(path), static_shape_sessions=False)
    picture = np.random.default_rng(3).integers(0, 256, (*shape, 3), dtype=np.uint8)
    for size in ((320, 320), (256, 192)):
        boxes, points = ours.detect(picture, size)
        expected, landmarks = theirs.detect(picture, input_size=size)
        assert len(boxes) == len(expected) > 0
        assert boxes == pytest.approx(expected, abs=0.02)
        assert (points is None) == (landmarks is None) == (outputs in (6, 10))
        if points is not None:
            assert points == pytest.approx(landmarks, abs=0.02)


def test_a_picture_as_thin_as_a_line_has_no_face(tmp_path, yunet):
    for path in (save_scrfd(tmp_path / "scrfd.onnx", 9), yunet):
        detector = open_model(path, CPU)
        for shape in ((1, 3000, 3), (3000, 1, 3)):
            boxes, points = detector.detect(np.zeros(shape, np.uint8), (256, 256))
            assert boxes.shape[1:] == (5,)
            assert points.shape[1:] == (5, 2)
