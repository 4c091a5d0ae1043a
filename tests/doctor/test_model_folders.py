"""What the doctor finds in models folders in which one thing is not as it should be: a table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support import layouts
from support.model_folders import doctor, image_encoder, wrong

from dhumandiff.doctor import Folders, examine
from dhumandiff.doctor.findings import NOTE
from dhumandiff.onnx_bytes import tiny_model, why_damaged

LFS = b"version https://git-lfs.github.com/spec/v1"
ADAPTER, PACK = "dhumandiff/DHumanDiff", "insightface/models/buffalo_l"


@dataclass
class Case:
    """A change of a whole folder, and what the doctor says then.

    Args:
        name: of the test.
        change: what is done to the folder.
        wrong: words of the one line that stands in the way; () where nothing does. {base} is the folder.
        said, unsaid: words that stand, or do not stand, anywhere in the report.
    """

    name: str
    change: Callable[[Path], object]
    wrong: tuple[str, ...] = ()
    said: tuple[str, ...] = ()
    unsaid: tuple[str, ...] = ()


def beside_vit_h(first: Callable[[Path], object]) -> Callable[[Path], object]:
    """The change, in a folder that also has the encoder that is wanted where no adapter says which."""

    def change(base: Path) -> None:
        first(base)
        image_encoder(base / "clip_vision" / "vit_h.safetensors", 1280)

    return change


def spoiled(path: str, content: bytes | int) -> Callable[[Path], object]:
    """Other content, or the first bytes only."""

    def change(base: Path) -> None:
        file = base / path
        file.write_bytes(content if isinstance(content, bytes) else file.read_bytes()[:content])

    return change


def emptied(path: str, remove: bool = False) -> Callable[[Path], object]:
    def change(base: Path) -> None:
        for file in (base / path).iterdir():
            file.unlink()
        if remove:
            (base / path).rmdir()

    return change


def moved(path: str, to: str) -> Callable[[Path], object]:
    def change(base: Path) -> None:
        (base / to).parent.mkdir(parents=True, exist_ok=True)
        (base / path).rename(base / to)

    return change


def ip_adapters_only(base: Path) -> None:
    emptied(ADAPTER, remove=True)(base)
    layouts.ip_adapter_file(base / "ipadapter" / "ip-adapter-plus-face_sdxl_vit-h.bin")
    for name in ("ip-adapter_sd15", "faceid-plusv2_sdxl"):
        save_file({"image_proj.proj.weight": torch.zeros(2)}, base / "ipadapter" / f"{name}.safetensors")


def encoder_among_others(base: Path) -> None:
    moved("clip_vision/tower.safetensors", "ipadapter/image_encoder/model.safetensors")(base)
    (base / "ipadapter" / "image_encoder" / "clip_cut.safetensors").write_bytes(b"")


def another_encoder(base: Path) -> None:
    image_encoder(base / "clip_vision" / "tower.safetensors", 1664)
    (base / "clip_vision" / "cut.safetensors").write_bytes(b"")


def saved_person(base: Path) -> None:
    (base / "dhumandiff" / "references").mkdir()
    save_file({"clip_hidden": torch.zeros(2)}, base / "dhumandiff" / "references" / "anna.safetensors")


def loose_models(place: str, zipped: bool) -> Callable[[Path], object]:
    """The pack's models without their folder; or still a zip beside them."""

    def change(base: Path) -> None:
        root = base / "insightface"
        for model in (base / PACK).iterdir():
            model.rename(root / place / model.name)
        (base / PACK).rmdir()
        if zipped:
            (root / place / "antelopev2.zip").write_bytes(b"PK")

    return change


def bad_mapping(name: str, content: bytes | int, words: str) -> Case:
    line = ("DHumanDiff", words, "-m dhumandiff download")
    return Case(
        name,
        beside_vit_h(spoiled(f"{ADAPTER}/mapping.pt", content)),
        line,
        ("1 thing is damaged: the adapter DHumanDiff.",),
    )


def bad_model(name: str, content: bytes, words: str) -> Case:
    line = ("w600k_r50.onnx is damaged", words, "Remove the folder")
    return Case(name, spoiled(f"{PACK}/w600k_r50.onnx", content), line)


CASES = [
    bad_mapping("adapter cut off", 500, "cut off"),
    bad_mapping("adapter empty", b"", "the file is empty"),
    bad_mapping("adapter a web page", b"<!DOCTYPE html>", "a web page saved under this name"),
    Case(
        "adapter without a file",
        beside_vit_h(lambda base: (base / ADAPTER / "mapping.pt").unlink()),
        ("DHumanDiff", "mapping.pt is not there", "-m dhumandiff download"),
    ),
    Case(
        "one adapter damaged, another whole",
        lambda base: (base / "dhumandiff" / "old.safetensors").write_bytes(LFS),
        said=(
            "old.safetensors: this is a Git LFS pointer",
            "To do: Get it again from where you had it, or remove it.",
        ),
    ),
    Case("download just begun", beside_vit_h(emptied(ADAPTER)), ("It is empty.",)),
    Case(
        "an IP-Adapter is enough, those of other packs are left alone",
        ip_adapters_only,
        said=(
            "an IP-Adapter Plus for SDXL (sdxl, 17 cross-attention layers, one set of weights for everybody",
            "To do: Nothing, if another pack uses it.",
            f"  {NOTE:<8} DHumanDiff's released weights (four files) are not there.",
        ),
        unsaid=("ip-adapter_sd15",),
    ),
    Case("saved people are not listed", saved_person, unsaid=("anna",)),
    bad_model("face model cut off", tiny_model()[:-1], "it is cut off"),
    bad_model("face model cut short", tiny_model()[:40], "it is cut off"),
    bad_model("face model empty", b"", "empty"),
    bad_model("face model a pointer", LFS, "Git LFS pointer"),
    bad_model("face model a web page", b"<html>not found</html>", "a web page"),
    bad_model("face model of noise", b"\xff" * 100, "no ONNX model"),
    bad_model("face model without a graph", b"\x08\x08", "there is no graph"),
    Case(
        "face pack without a recognizer",
        lambda base: (base / PACK / "w600k_r50.onnx").unlink(),
        ("holds only det_10g.onnx",),
    ),
    Case("face pack without files", emptied(PACK), ("no .onnx file in it",)),
    Case("face pack beside models", moved(PACK, "insightface/buffalo_l")),
    *[
        Case(
            f"face models loose in {place}",
            loose_models(place, zipped=False),
            ("a pack has a folder of its own", "Move the .onnx files of one pack into {base}/" + PACK + "."),
        )
        for place in ("models", ".")
    ],
    *[
        Case(
            f"face pack a zip in {place}",
            loose_models(place, zipped=True),
            ("antelopev2.zip is not unpacked. To do: Unpack it to {base}/insightface/models/antelopev2.",),
        )
        for place in ("models", ".")
    ],
    *[
        Case(
            f"released weights in {kind}",
            beside_vit_h(moved(ADAPTER, f"{kind}/downloaded")),
            (
                f"lie in {{base}}/{kind}/downloaded, but are looked for in {{base}}/{ADAPTER}",
                "To do: Move the files face_projection.pt",
            ),
        )
        for kind in ("ipadapter", "clip_vision", "checkpoints")
    ],
    Case(
        "image encoder in ipadapter",
        encoder_among_others,
        (
            "lies in {base}/ipadapter/image_encoder, but is looked for in {base}/clip_vision",
            "To do: Move {base}/ipadapter/image_encoder/model.safetensors to {base}/clip_vision.",
        ),
    ),
    Case(
        "another face pack is enough",
        moved(PACK, "insightface/models/antelopev2"),
        said=("buffalo_l is not among them",),
    ),
    Case(
        "another image encoder does not count",
        another_encoder,
        ("The image encoder CLIP ViT-H/14 is not there",),
        ("tower.safetensors: CLIP ViT-bigG/14; not for this pack", "cut.safetensors: the file is empty"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_folder_with_one_fault(folder, capsys, case):
    case.change(folder)
    code, text = doctor(capsys, folder)
    lines = [" ".join(line.replace("\\", "/").split()) for line in wrong(text)]
    assert code == bool(case.wrong)
    assert len(lines) == bool(case.wrong)
    for words in case.wrong:
        assert words.format(base=folder.as_posix()) in lines[0]
    for words in case.said:
        assert words in text
    for words in case.unsaid:
        assert words not in text


def test_a_damaged_pack_beside_models_is_named(folder, capsys):
    moved(PACK, "insightface/buffalo_l")(folder)
    (folder / "insightface" / "buffalo_l" / "w600k_r50.onnx").write_bytes(b"")
    (line,) = wrong(doctor(capsys, folder)[1])
    assert f"Remove the folder {folder / 'insightface' / 'buffalo_l'}." in line


def test_a_face_pack_in_the_other_hosts_place_is_to_be_copied(folder, tmp_path, capsys):
    place = tmp_path / "home" / ".insightface" / "models"
    place.mkdir(parents=True)
    (folder / PACK).rename(place / "buffalo_l")
    (line,) = wrong(doctor(capsys, folder)[1])
    assert "lies in ~" in line
    assert "Copy the folder ~" in line
    assert doctor(capsys, folder, "--face-root", place.parent)[0] == 0


def test_real_face_models_are_whole(faces_root, tmp_path):
    for model in (faces_root / "models" / "mini").glob("*.onnx"):
        assert why_damaged(model) is None
        (tmp_path / "cut.onnx").write_bytes(model.read_bytes()[:-10])
        assert "cut off" in why_damaged(tmp_path / "cut.onnx")


def test_without_comfyui_what_generate_finds_is_told(tmp_path, capsys):
    """One file each is found; of several one is to be named."""
    models = tmp_path / "models"
    attention = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    for number in (1, 2):
        (models / "sdxl").mkdir(parents=True, exist_ok=True)
        save_file({attention: torch.zeros(4, 2048)}, models / "sdxl" / f"base_{number}.safetensors")
        image_encoder(models / "sdxl" / f"tower_{number}.safetensors", 1280)
    report = str(examine(own_folders(models, ["base_1"], ["tower_1"])))
    assert "base_1.safetensors: an SDXL checkpoint" in report
    assert "tower_1.safetensors: an image encoder" in report
    several = str(examine(own_folders(models, ["base_1", "base_2"], ["tower_1", "tower_2"])))
    assert "Name one: --base" in several
    assert "Name one: --image-encoder" in several
    assert "download --portrait" in str(examine(own_folders(models, [], [])))


def own_folders(models, bases, towers):
    """Folders with these files of `models/sdxl` in them."""
    place = models.parent / f"with_{len(bases)}"
    for kind, names in (("checkpoints", bases), ("clip_vision", towers)):
        (place / kind).mkdir(parents=True)
        for name in names:
            (place / kind / f"{name}.safetensors").hardlink_to(models / "sdxl" / f"{name}.safetensors")
    return replace(Folders.below(models), checkpoints=(place / "checkpoints",), clip_vision=(place / "clip_vision",))
