"""Packs without InsightFace: the open one, InsightFace's own, and what is refused by name."""

import hashlib
import sys

import numpy as np
import pytest
from support.refused import refused

pytest.importorskip("onnxruntime", reason="install it with: pip install onnxruntime")
pytest.importorskip("onnx", reason="install it with: pip install onnx")

from support.open_files import draw_face, save_recognizer, save_yunet

from dhumandiff.errors import FaceError
from dhumandiff.faces import FaceAnalyzer, InsightFaceAnalyzer, OnnxAnalyzer, load_face_analysis, load_photo, onnx_packs
from dhumandiff.faces.same_recognizer import compare_analyzer, recognizer_hash, recognizer_name


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """YuNet, AuraFace and SFace by their layouts."""
    folder = tmp_path_factory.mktemp("files")
    save_yunet(folder / "face_detection_yunet_2023mar.onnx", 640)
    save_recognizer(folder / "glintr100.onnx", 512)
    save_recognizer(folder / "face_recognition_sface_2021dec.onnx", 128, normalizes=True, given="data")
    return folder


@pytest.fixture
def root(files, tmp_path):
    """A root of packs with the open one, whose files may be changed."""
    folder = tmp_path / "models" / "open"
    folder.mkdir(parents=True)
    for file in files.iterdir():
        (folder / file.name).symlink_to(file)
    return tmp_path


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def publish(monkeypatch, files):
    """Let these files be the published ones."""
    aura, sface = files / "glintr100.onnx", files / "face_recognition_sface_2021dec.onnx"
    monkeypatch.setattr(onnx_packs, "AURAFACE_RECOGNIZER", ("auraface/glintr100", digest(aura)))
    monkeypatch.setattr(onnx_packs, "SFACE_RECOGNIZER", ("sface/face_recognition_sface_2021dec", digest(sface)))


class TestOpen:
    def test_yunet_finds_and_auraface_recognizes(self, root, files, monkeypatch):
        publish(monkeypatch, files)
        for package in ("insightface", "insightface.app"):
            monkeypatch.setitem(sys.modules, package, None)
        analyzer = load_face_analysis("open", root, "CPU")
        assert isinstance(analyzer, FaceAnalyzer)
        assert (recognizer_name(analyzer), analyzer.note, analyzer.provider) == ("auraface/glintr100", None, "CPU")
        assert not analyzer.scores_only
        picture = np.full((400, 500, 3), 90, np.uint8)
        draw_face(picture, 204, 180, 110)
        (face,) = analyzer.detect(picture)
        assert face.size == pytest.approx(110, abs=0.5)
        identity, length = analyzer.identity_and_length(picture, face)
        assert identity.shape == (512,)
        assert np.linalg.norm(identity) == pytest.approx(1, abs=1e-5)
        assert length > 0

    def test_sface_is_a_judge(self, root, files, monkeypatch):
        publish(monkeypatch, files)
        analyzer = load_face_analysis("sface", root, "CPU")
        assert recognizer_name(analyzer) == "sface/face_recognition_sface_2021dec"
        assert analyzer.scores_only
        picture = np.full((400, 500, 3), 90, np.uint8)
        draw_face(picture, 204, 180, 110)
        assert analyzer.identity(picture, analyzer.detect(picture)[0]).shape == (128,)

    def test_a_file_that_nobody_published_is_told(self, root):
        assert "glintr100.onnx is not the file that was published as auraface" in load_face_analysis("open", root).note
        assert "published as sface" in load_face_analysis("sface", root).note

    def test_the_newest_detector_that_is_not_quantized_is_taken(self, root, files):
        folder = root / "models" / "open"
        for name in ("face_detection_yunet_2026may.onnx", "face_detection_yunet_2026may_int8.onnx"):
            (folder / name).symlink_to(files / "face_detection_yunet_2023mar.onnx")
        assert onnx_packs.open_files(root)[0].name == "face_detection_yunet_2026may.onnx"

    @pytest.mark.parametrize(
        ("lacking", "pack", "named"),
        [
            (
                "glintr100.onnx",
                "open",
                ("AuraFace", "Apache-2.0", "https://huggingface.co/fal/AuraFace-v1", "this file alone"),
            ),
            ("face_detection_yunet_2023mar.onnx", "open", ("YuNet", "MIT")),
            ("face_recognition_sface_2021dec.onnx", "sface", ("SFace", "Apache-2.0")),
        ],
    )
    def test_a_missing_file_is_told_with_its_source_and_license(self, root, lacking, pack, named):
        (root / "models" / "open" / lacking).unlink()
        with refused("open-pack-missing", str(root), lacking, *named, error=FaceError):
            load_face_analysis(pack, root)

    def test_a_folder_that_is_not_there(self, tmp_path):
        with refused("open-pack-missing", str(tmp_path / "models" / "open"), "yunet", "glintr100.onnx"):
            load_face_analysis("open", tmp_path)

    @pytest.mark.parametrize("foreign", ["scrfd_10g_bnkps.onnx", "genderage.onnx", "1k3d68.onnx", "2d106det.onnx"])
    def test_insightface_s_files_beside_them_are_named(self, root, foreign):
        """AuraFace's repository has these four beside its own."""
        (root / "models" / "open" / foreign).write_bytes(b"anything")
        with refused("open-pack-with-insightface-files", foreign, "non-commercial", "Remove"):
            load_face_analysis("open", root)
        with refused("open-pack-with-insightface-files", foreign):
            load_face_analysis("sface", root)

    def test_insightface_s_recognizer_under_auraface_s_name_is_known_by_its_hash(self, root, files, monkeypatch):
        name = "glintr100.onnx"
        monkeypatch.setattr(onnx_packs, "WITHANYONE_RECOGNIZER", ("antelopev2/glintr100", digest(files / name)))
        with refused("open-pack-with-insightface-files", name):
            load_face_analysis("open", root)

    @pytest.mark.parametrize(
        ("name", "part"), [("glintr100", "recognizer"), ("face_detection_yunet_2023mar", "detector")]
    )
    def test_a_file_under_anothers_name_is_refused(self, root, files, name, part):
        other = "face_detection_yunet_2023mar" if part == "recognizer" else "glintr100"
        path = root / "models" / "open" / f"{name}.onnx"
        path.unlink()
        path.symlink_to(files / f"{other}.onnx")
        with refused("not-that-face-model", str(path), f"no face {part}"):
            load_face_analysis("open", root)

    @pytest.mark.parametrize("how", ["pointer", "half", "empty"])
    def test_a_damaged_file_is_named(self, root, files, how):
        path = root / "models" / "open" / "glintr100.onnx"
        whole = path.read_bytes()
        path.unlink()
        path.write_bytes({"pointer": b"version https://git-lfs", "half": whole[: len(whole) // 2], "empty": b""}[how])
        with refused("face-model-damaged", str(path)):
            load_face_analysis("open", root)

    def test_without_onnxruntime_the_command_is_told(self, root, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
        with refused("onnxruntime-missing", "pip install onnxruntime opencv-python-headless"):
            load_face_analysis("open", root)

    def test_on_cuda_no_size_of_a_picture_is_searched_exhaustively(self, root, monkeypatch):
        """As far as that can be told without a GPU: what ONNX Runtime is asked for, and a note that it runs elsewhere."""
        import onnxruntime

        asked, session = [], onnxruntime.InferenceSession

        def make(path, options, providers):
            asked.append(providers)
            return session(path, options, providers=["CPUExecutionProvider"])

        monkeypatch.setattr(onnxruntime, "InferenceSession", make)
        monkeypatch.setattr(
            onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
        )
        analyzer = load_face_analysis("open", root, "auto")
        (name, options), last = asked[0]
        assert (name, last) == ("CUDAExecutionProvider", "CPUExecutionProvider")
        assert options["cudnn_conv_algo_search"] == "HEURISTIC"
        assert "CUDA was wanted for face analysis, but ONNX Runtime runs it on CPU" in analyzer.note

    def test_two_files_from_anywhere(self, files, tmp_path):
        analyzer = OnnxAnalyzer.from_files(
            files / "face_detection_yunet_2023mar.onnx", files / "glintr100.onnx", "CPU", name="ours"
        )
        assert recognizer_name(analyzer) == "ours/glintr100"
        with refused("face-model-missing", "nowhere.onnx"):
            OnnxAnalyzer.from_files(tmp_path / "nowhere.onnx", files / "glintr100.onnx")


def test_auraface_is_another_recognizer_than_the_ones_that_adapters_name(root, files, monkeypatch):
    publish(monkeypatch, files)
    analyzer = load_face_analysis("open", root)
    assert compare_analyzer("InsightFace buffalo_l", analyzer) == "other"
    assert compare_analyzer("auraface", analyzer) == "same"
    assert compare_analyzer(f"auraface (sha256 {recognizer_hash(analyzer)})", analyzer) == "same"
    assert compare_analyzer("antelopev2 (sha256 4ab1d6435d639628)", analyzer) == "other"


@pytest.mark.faces
class TestInsightFacesPacks:
    def test_insightface_loads_them_where_it_is_installed(self, faces_root):
        pytest.importorskip("insightface")
        analyzer = load_face_analysis("mini", faces_root, "CPU")
        assert isinstance(analyzer, InsightFaceAnalyzer)
        assert analyzer.note is None

    def test_without_insightface_they_run_all_the_same_and_a_note_says_so(
        self, faces_root, face_photos, face_analyzer, monkeypatch
    ):
        monkeypatch.setitem(sys.modules, "insightface.app", None)
        analyzer = load_face_analysis("mini", faces_root, "CPU")
        assert isinstance(analyzer, OnnxAnalyzer)
        assert "InsightFace cannot be imported" in analyzer.note
        assert (recognizer_name(analyzer), recognizer_hash(analyzer)) == (
            recognizer_name(face_analyzer),
            recognizer_hash(face_analyzer),
        )
        photo = load_photo(face_photos / "obama.jpg").pixels
        (face,), (other,) = analyzer.detect(photo), face_analyzer.detect(photo)
        assert np.abs(face.box - other.box).max() < 0.01
        assert analyzer.identity(photo, face) @ face_analyzer.identity(photo, other) > 0.9999

    def test_without_insightface_a_download_is_refused_with_what_to_install(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "insightface.app", None)
        with refused("insightface-missing", "pip install insightface"):
            load_face_analysis("buffalo_l", tmp_path, allow_download=True)
        with refused("pack-missing", "buffalo_l"):
            load_face_analysis("buffalo_l", tmp_path)

    @pytest.mark.parametrize(("kept", "part"), [("rec", "detector"), ("det", "recognizer")])
    def test_half_a_pack_is_refused(self, faces_root, tmp_path, kept, part):
        (file,) = (faces_root / "models" / "mini").glob(f"{kept}_*.onnx")
        (tmp_path / file.name).symlink_to(file)
        with refused(f"pack-without-{part}", file.name):
            OnnxAnalyzer.from_pack(tmp_path)

    def test_a_damaged_file_is_left_out_or_named(self, faces_root, tmp_path):
        for file in (faces_root / "models" / "mini").glob("*.onnx"):
            (tmp_path / file.name).symlink_to(file)
        (tmp_path / "1k3d68.onnx").write_bytes(b"half")  # needed by nobody, and not looked at
        assert OnnxAnalyzer.from_pack(tmp_path).note is None
        (tmp_path / "zzz.onnx").write_bytes(b"half")
        assert "zzz.onnx" in OnnxAnalyzer.from_pack(tmp_path).note
        next(tmp_path.glob("rec_*.onnx")).unlink()
        with refused("face-model-damaged", "zzz.onnx"):
            OnnxAnalyzer.from_pack(tmp_path)

    def test_auraface_s_whole_repository_as_a_pack_is_told_what_is_insightface_s(
        self, faces_root, tmp_path, monkeypatch
    ):
        detector, recognizer = (
            next((faces_root / "models" / "mini").glob(f"{part}_*.onnx")) for part in ("det", "rec")
        )
        folder = tmp_path / "models" / "auraface"
        folder.mkdir(parents=True)
        (folder / "scrfd_10g_bnkps.onnx").symlink_to(detector)
        (folder / "glintr100.onnx").symlink_to(recognizer)
        monkeypatch.setattr(onnx_packs, "AURAFACE_RECOGNIZER", ("auraface/glintr100", digest(recognizer)))
        note = load_face_analysis("auraface", tmp_path, "CPU").note
        assert "scrfd_10g_bnkps.onnx" in note
        assert "`open`" in note
