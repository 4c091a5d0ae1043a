"""The doctor on face models that businesses may use, and on InsightFace's files among them."""

import hashlib

import pytest
from support.model_folders import doctor, whole_folder, wrong

from dhumandiff.doctor import face_packs, versions
from dhumandiff.doctor.findings import DAMAGED, NOTE, OK
from dhumandiff.faces import onnx_packs
from dhumandiff.onnx_bytes import tiny_model

YUNET, AURAFACE = "face_detection_yunet_2023mar.onnx", "glintr100.onnx"


@pytest.fixture
def root(tmp_path):
    """A root of face packs with the open one."""
    folder = tmp_path / "insightface" / "models" / "open"
    folder.mkdir(parents=True)
    for name in (YUNET, AURAFACE):
        (folder / name).write_bytes(tiny_model())
    return tmp_path / "insightface"


def look(root, name="open"):
    return face_packs.pack(name, root, "get it")


def test_the_open_pack_is_told_with_its_licenses(root):
    found = look(root)
    assert found.state == OK
    assert all(word in found.text for word in ("YuNet", "MIT", "AuraFace", "Apache-2.0", YUNET, AURAFACE))


@pytest.mark.parametrize("lacking", [YUNET, AURAFACE])
def test_a_missing_file_is_named_with_the_command_that_fetches_it(root, lacking):
    (root / "models" / "open" / lacking).unlink()
    found = look(root)
    assert found.state == DAMAGED
    assert lacking in found.text
    assert "download --portrait --items yunet auraface" in found.todo


def test_a_file_cut_off_is_named(root):
    path = root / "models" / "open" / AURAFACE
    path.write_bytes(path.read_bytes()[:30])
    found = look(root)
    assert found.state == DAMAGED
    assert f"{path} is damaged" in found.text


def test_insightface_s_files_in_the_open_pack_are_named(root):
    (root / "models" / "open" / "scrfd_10g_bnkps.onnx").write_bytes(tiny_model())
    found = look(root)
    assert found.state == DAMAGED
    assert "scrfd_10g_bnkps.onnx" in found.text
    assert "Remove" in found.todo


def test_auraface_s_whole_repository_is_told_what_of_it_is_insightface_s(root, monkeypatch):
    folder = root / "models" / "auraface"
    folder.mkdir()
    for name in (AURAFACE, "scrfd_10g_bnkps.onnx", "genderage.onnx"):
        (folder / name).write_bytes(tiny_model())
    digest = hashlib.sha256(tiny_model()).hexdigest()[:16]
    assert look(root, "auraface").state == OK  # another recognizer of that name: somebody's own pack
    monkeypatch.setattr(face_packs, "AURAFACE_RECOGNIZER", ("auraface/glintr100", digest))
    found = look(root, "auraface")
    assert found.state == NOTE
    assert "genderage.onnx, scrfd_10g_bnkps.onnx is InsightFace's" in found.text
    assert "`open`" in found.todo
    monkeypatch.setattr(onnx_packs, "WITHANYONE_RECOGNIZER", ("antelopev2/glintr100", digest))
    assert "glintr100.onnx is InsightFace's" in look(root, "auraface").text


def test_without_insightface_nothing_stands_in_the_way(tmp_path, monkeypatch, capsys):
    """A pack of InsightFace's runs on ONNX Runtime alone."""
    real = versions.attempt

    def attempt(module):
        missing = ModuleNotFoundError(f"No module named '{module}'", name=module)
        return (None, missing) if module == "insightface" else real(module)

    monkeypatch.setattr(versions, "attempt", attempt)
    monkeypatch.setattr(versions, "version", lambda name: None if name == "insightface" else "1")
    insightface, _, opencv = versions.face_packages()
    assert insightface.state == NOTE
    assert "ONNX Runtime alone" in insightface.text
    assert opencv.name == "opencv-python-headless"
    _, text = doctor(capsys, whole_folder(tmp_path / "models"))
    assert not [line for line in wrong(text) if "insightface:" in line]
