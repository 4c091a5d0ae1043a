"""Drawing the pictures of cases: with the adapter's own recognizer, and anew when anything that a picture is made of changed."""

from types import SimpleNamespace

import pytest
from PIL import Image
from support.color_faces import GREEN, LEFT_RIGHT, RED, paint
from support.refused import refused

for package in ("jsonargparse", "matplotlib", "scipy", "webdataset"):
    pytest.importorskip(package, reason="install it with: pip install '.[train]'")

from dhumandiff.faces.same_recognizer import is_recognizer, recognizer_hash, recognizer_note
from dhumandiff.miniature import mini_adapter
from training import TrainingError
from training.data.dataset import _differ
from training.data.settings import FaceSettings
from training.evaluation.cases import Case
from training.evaluation.config import EvaluateConfig
from training.evaluation.draw import Settings, draw_cases
from training.evaluation.run import _reference_faces


def pack(folder, name, contents=b"weights"):
    """A stand-in for a pack of which only the recognizer's file counts."""
    (folder / f"{name}.onnx").write_bytes(contents)
    return SimpleNamespace(name=name, recognizer=SimpleNamespace(model_file=str(folder / f"{name}.onnx")))


def trained_with(said):
    return SimpleNamespace(info=SimpleNamespace(recognizer=said))


def test_a_finished_picture_is_known_by_the_contents_it_was_made_of(tmp_path):
    photos = tmp_path / "anna" / "1.png", tmp_path / "ben" / "1.png"
    for photo, color in zip(photos, (RED, GREEN), strict=True):
        photo.parent.mkdir()
        paint(photo, color)
    adapter, made = mini_adapter(), []

    def portrait(_adapter, references, *_, **__):
        made.append(references)
        return [Image.new("RGB", (8, 8))]

    def drawn(people, **made_by):
        case = Case("c0", LEFT_RIGHT, tuple((photo,) for photo in people), seed=0)
        found = draw_cases([case], portrait, adapter, Settings(), str, tmp_path / "out", made_by=made_by)
        assert not found[0].problem
        return len(made)

    assert [drawn(photos, base="one"), drawn(photos, base="one")] == [1, 1]
    assert [drawn(photos[::-1], base="one"), drawn(photos[::-1], base="one")] == [
        2,
        2,
    ]  # exchanged: the names are the same
    assert [drawn(photos[::-1], base="two"), drawn(photos[::-1], base="two", recognizer="other")] == [3, 4]
    paint(photos[0], (9, 9, 200))
    assert drawn(photos[::-1], base="two", recognizer="other") == 5


def test_a_recognizer_is_known_by_its_file(tmp_path):
    ours, renamed, other = pack(tmp_path, "buffalo_l"), pack(tmp_path, "my_pack"), pack(tmp_path, "l", b"others")
    said = recognizer_note(ours.name, recognizer_hash(ours))
    assert [is_recognizer(said, one) for one in (ours, renamed, other, SimpleNamespace(name="buffalo_l"))] == [
        True,
        True,
        False,
        False,
    ]
    assert is_recognizer("insightface buffalo_l", ours) is True  # adapters from before have a name alone
    assert is_recognizer("insightface buffalo_l", other) is False
    assert is_recognizer("", ours) is None


def test_data_of_a_renamed_pack_goes_together():
    one, renamed = {"name": "a", "width": 512, "sha256": "1"}, {"name": "b", "width": 512, "sha256": "1"}
    assert not _differ(one, renamed)
    assert not _differ(one, {"name": "a", "width": 512})
    assert _differ(one, {"name": "a", "width": 512, "sha256": "2"})
    assert _differ(one, {"name": "b", "width": 512})


def test_references_are_made_by_the_adapters_own_recognizer():
    judge = EvaluateConfig(cases="x", faces=FaceSettings(pack="tiny"))
    assert _reference_faces(judge, trained_with("mini"), "mini").name == "mini"  # whoever judges
    with refused("not-the-adapters-recognizer", "buffalo_l", "tiny", "--adapter_pack", error=TrainingError):
        _reference_faces(judge, trained_with("buffalo_l (sha256 0123456789abcdef)"), "sdxl")
    named = EvaluateConfig(cases="x", faces=FaceSettings(pack="tiny"), adapter_pack="mini")
    assert _reference_faces(named, trained_with("buffalo_l"), "sdxl").name == "mini"
