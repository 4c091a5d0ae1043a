"""Whether two recognizers are one: what is certain, what is not, and what is not known."""

from types import SimpleNamespace

import pytest

from dhumandiff.faces.same_recognizer import (
    compare,
    compare_analyzer,
    is_published,
    recognizer_hash,
    recognizer_name,
    recognizer_note,
    same_recognizer,
)

A, B = "a" * 16, "b" * 16


def pack(folder, name, content=b"weights"):
    (folder / "net.onnx").write_bytes(content)
    return SimpleNamespace(name=name, recognizer=SimpleNamespace(model_file=str(folder / "net.onnx")))


def test_a_recognizer_is_named_by_pack_and_file(tmp_path):
    ours = pack(tmp_path, "antelopev2")
    assert recognizer_name(ours) == "antelopev2/net"
    assert recognizer_name(SimpleNamespace(name="mini", recognizer=object())) == "mini"
    said = recognizer_note(recognizer_name(ours), recognizer_hash(ours))
    assert compare_analyzer(said, ours) == compare_analyzer("insightface antelopev2", ours) == "same"
    assert compare_analyzer(said, pack(tmp_path, "antelopev2", b"others")) == "other"


@pytest.mark.parametrize(
    ("said", "name", "digest", "found"),
    [
        ("", "mini", "", "unknown"),
        ("buffalo_l", "", "", "unknown"),
        (f"buffalo_l (sha256 {A})", "", "", "unknown"),
        (f"buffalo_l (sha256 {A})", "renamed/w600k_r50", A, "same"),
        (f"buffalo_l (sha256 {A})", "buffalo_l/w600k_r50", B, "other"),
        (f"buffalo_l (sha256 {A})", "mini", "", "other"),
        ("insightface buffalo_l", "buffalo_l/w600k_r50", A, "same"),
        ("insightface buffalo_l", "antelopev2/glintr100", A, "other"),
        ("insightface buffalo_l", "buffalo_m/w600k_r50", A, "unsure"),
        ("insightface buffalo_l", "mine/net", A, "unsure"),
        ("antelopev2", "auraface/glintr100", A, "unsure"),  # the same name for another network
        ("mini", "buffalo_l/w600k_r50", A, "unsure"),
        ("mini", "mini", "", "same"),
    ],
)
def test_what_an_adapter_says_is_compared(said, name, digest, found):
    assert compare(said, name, digest) == found


def test_two_that_are_known_are_one_or_not():
    assert same_recognizer(("buffalo_l/w600k_r50", A), ("mine/net", A)) is True
    assert same_recognizer(("buffalo_l/w600k_r50", A), ("buffalo_l/w600k_r50", B)) is False
    assert same_recognizer(("mini", ""), ("mini", "")) is True
    assert same_recognizer(("mini", ""), ("mini judge", "")) is False
    assert same_recognizer(("mini", ""), ("buffalo_l/w600k_r50", A)) is False
    assert same_recognizer(("", ""), ("buffalo_l/w600k_r50", A)) is None


@pytest.mark.parametrize(
    ("name", "digest", "found"),
    [
        ("antelopev2/glintr100", A, True),
        ("antelopev2/glintr100", "", True),
        ("antelopev2", "", True),
        ("antelopev2", B, False),
        ("auraface/glintr100", "", False),
        ("glintr100", "", False),  # AuraFace's has the same name
        ("buffalo_l", "", False),
        ("", "", None),
    ],
)
def test_a_published_recognizer_is_known_by_its_pack_alone(name, digest, found):
    assert is_published((name, digest), ("antelopev2/glintr100", A)) is found
