"""Without InsightFace in ComfyUI: the open pack, a judge, and IP-Adapter Plus from head crops with no face models at all."""

import sys

import numpy as np
import pytest
import torch
from dhd_pack.dhumandiff.errors import FaceError
from dhd_pack.nodes import references
from dhd_pack.nodes.comfy.folders import face_pack_choices
from dhd_pack.nodes.references import DHDEncodeReference, DHDLoadFaceAnalysis
from support.refused import refused
from support.sampling import guider, sample
from test_people_nodes import NEGATIVE, POSITIVE, apply, beside_each_other, weights_for
from test_scoring_nodes import faces, scene, score  # noqa: F401 (fixtures)


@pytest.fixture
def no_face_models(monkeypatch):
    """A machine without InsightFace and ONNX Runtime."""
    for package in ("insightface", "insightface.app", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)


@pytest.fixture
def models(tmp_path, monkeypatch):
    import folder_paths

    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path))
    return tmp_path / "insightface" / "models" / "open"


@pytest.fixture
def clip_vision(monkeypatch):
    """What takes the place of CLIP_VISION: hidden states that are the picture's colors, as wide as the tiny adapter wants them."""
    width = weights_for(None)[0].info.clip_width

    def encode(pixels):
        small = torch.nn.functional.adaptive_avg_pool2d(pixels, 3).flatten(2).transpose(1, 2)
        return small.repeat(1, 1, -(-width // 3))[..., :width]

    monkeypatch.setattr(references, "ClipVisionEncoder", lambda vision: vision)
    return encode


def photo(seed):
    low = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(low, (300, 260), mode="bilinear").movedim(1, -1)


def test_the_open_packs_are_choices_behind_insightface_s(models):
    assert face_pack_choices() == ["buffalo_l", "antelopev2", "open", "sface"]
    with refused("open-pack-missing", str(models), "YuNet", "AuraFace", error=FaceError):
        DHDLoadFaceAnalysis.execute("open", "CPU", False)
    (models.parent / "mine").mkdir(parents=True)
    models.mkdir()
    assert face_pack_choices() == ["mine", "open", "buffalo_l", "antelopev2", "sface"]


def test_the_open_pack_finds_and_encodes_and_a_judge_does_not(models, clip_vision, monkeypatch):
    pytest.importorskip("onnx", reason="install it with: pip install onnx")
    pytest.importorskip("onnxruntime", reason="install it with: pip install onnxruntime")
    from support.open_files import draw_face, save_recognizer, save_yunet

    for package in ("insightface", "insightface.app"):
        monkeypatch.setitem(sys.modules, package, None)
    save_yunet(models / "face_detection_yunet_2023mar.onnx", 640)
    save_recognizer(models / "glintr100.onnx", 512)
    save_recognizer(models / "face_recognition_sface_2021dec.onnx", 128, normalizes=True, given="data")
    picture = np.full((400, 500, 3), 90, np.uint8)
    draw_face(picture, 204, 180, 110)
    image = torch.from_numpy(picture)[None].float() / 255
    (analyzer,) = DHDLoadFaceAnalysis.execute("open", "CPU", False).args
    reference, crop, report = DHDEncodeReference.execute(image, clip_vision, analyzer).args
    assert reference.recognizer == "auraface/glintr100"
    assert reference.identity.shape == (1, 512)
    assert "auraface/glintr100 (sha256 " in report
    assert crop.shape == (1, 512, 512, 3)
    (judge,) = DHDLoadFaceAnalysis.execute("sface", "CPU", False).args
    with refused("judge-conditions-nothing", "sface", error=FaceError):
        DHDEncodeReference.execute(image, clip_vision, judge)


def test_head_crops_with_masks_draw_by_an_ip_adapter_without_face_models(model, clip_vision, no_face_models):
    """The way that everybody may go today: CLIP alone says what people look like, and masks say where."""
    _, adapter = weights_for(None)
    with refused("no-face-analysis", "whole-photo", error=FaceError):
        DHDEncodeReference.execute(photo(1), clip_vision)
    encoded = [DHDEncodeReference.execute(photo(seed), clip_vision, which="whole-photo").args for seed in (1, 2)]
    people = [reference for reference, _, _ in encoded]
    assert [one.identity for one in people] == [None, None]
    assert "serves: IP-Adapter Plus" in encoded[0][2]
    assert torch.equal(encoded[0][1], people[0].crop)  # nothing is drawn in where no face was found

    def drawn(people):
        patched = apply(model, adapter, people, beside_each_other(2), (1.0, 1.0), cascade="one_pass")
        return sample(guider(patched, POSITIVE, NEGATIVE), (1, 4, 16, 12))

    picture = drawn(people)
    assert picture.isfinite().all()
    assert not torch.equal(picture, drawn(people[::-1]))


def test_a_judge_scores_by_the_crops_that_references_keep(scene, faces):  # noqa: F811
    from dhd_pack.dhumandiff.miniature.faces import mini_judge

    judge = mini_judge()
    other = type(
        "Judge", (), {"name": "judge", "scores_only": True, "detect": judge.detect, "identity": judge.identity}
    )()
    _, first, second, passed, report = score(scene, other)
    assert passed == [True]
    assert report.endswith("recognized by judge")
    assert min(*first, *second) > 0.3
    assert score(scene, other, references=scene.references[::-1])[3] == [False]
