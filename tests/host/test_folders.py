"""Model folders: what is offered as a choice, wherever the user keeps it, and what never is."""

import os
from pathlib import Path

import comfy.ops
import dhd_pack.dhumandiff.testing as tiny
import folder_paths
import pytest
import torch
from comfy_api.latest import io
from dhd_pack.nodes import NODES
from dhd_pack.nodes.adapter import DHDLoadAdapter
from dhd_pack.nodes.comfy.folders import adapter_choices, adapter_path, new_reference_path, reference_choices
from dhd_pack.nodes.doctor import DHDDoctor
from dhd_pack.nodes.parts import DHDLoadParts2Whole
from dhd_pack.nodes.references import DHDLoadFaceAnalysis, DHDLoadReference, DHDLoadSigLIP, DHDSaveReference
from support import layouts, low_rank_files, odd_model_files, tiny_comfy
from support.refused import refused


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A models folder of this test's own, known to ComfyUI as it would be."""
    for kind in ("dhumandiff", "ipadapter"):
        (tmp_path / "models" / kind).mkdir(parents=True)
        folders = ([str(tmp_path / "models" / kind)], set())
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, folders)
    return tmp_path / "models"


@pytest.fixture
def elsewhere(tmp_path, models, monkeypatch):
    """A second disk, named in extra_model_paths.yaml, which ComfyUI reads before it loads packs."""
    from utils.extra_config import load_extra_path_config

    monkeypatch.delitem(folder_paths.folder_names_and_paths, "dhumandiff")
    folder = tmp_path / "other disk"
    folder.mkdir()
    text = f"shared:\n  base_path: {folder}\n  dhumandiff: adapters\n  ipadapter: |\n    ip\n    more/ip\n"
    (tmp_path / "extra_model_paths.yaml").write_text(text)
    load_extra_path_config(str(tmp_path / "extra_model_paths.yaml"))
    folder_paths.add_model_folder_path("dhumandiff", str(models / "dhumandiff"))  # as the pack does at its import
    return folder


def offered():
    """The choices as the page asks for them."""
    return DHDLoadAdapter.define_schema().inputs[0].options


def test_an_adapter_in_an_extra_folder_loads(models, elsewhere):
    """It is among the choices, too."""
    tiny.tiny_adapter().save_pretrained(elsewhere / "adapters" / "deep" / "mine.safetensors")
    layouts.released_folder(elsewhere / "adapters" / "DHumanDiff")
    assert offered() == ["DHumanDiff", "deep/mine.safetensors"]
    assert DHDLoadAdapter.validate_inputs("deep/mine.safetensors") is True
    (mine,), (released,) = (DHDLoadAdapter.execute(name).args for name in ("deep/mine.safetensors", "DHumanDiff"))
    assert mine.model.info.layers == released.model.info.layers == 17
    assert released.model.has_subject_path
    assert type(mine.model.attention[0]).__name__ == "PairedKeysValues"
    assert all(isinstance(m, comfy.ops.CastWeightBiasOp) for m in mine.model.modules() if hasattr(m, "weight"))


def test_a_low_rank_file_finds_its_full_adapter_among_the_choices(models):
    full = layouts.ip_adapter_file(models / "ipadapter" / "ip-adapter-plus-face_sdxl_vit-h.safetensors")
    tensors = low_rank_files.write(models / "dhumandiff" / "ours" / "couple.safetensors", full, persons="2")
    assert "ours/couple.safetensors" in offered()
    couple, shared = (
        DHDLoadAdapter.execute(name).args[0].model
        for name in ("ours/couple.safetensors", "ipadapter/ip-adapter-plus-face_sdxl_vit-h.safetensors")
    )
    up, down = (tensors[f"{low_rank_files.CHANGED}.lora_{side}.weight"] for side in "BA")
    expected = shared.state_dict()["attention.3.to_k_ip.weight"] + up @ down
    torch.testing.assert_close(couple.state_dict()["attention.3.to_k_ip2.weight"], expected)
    full.unlink()
    with refused("full-adapter-missing", "ip-adapter-plus-face_sdxl_vit-h.safetensors"):
        DHDLoadAdapter.execute("ours/couple.safetensors")


def test_an_extra_folder_may_be_the_adapter_itself(models, tmp_path):
    folder_paths.add_model_folder_path("dhumandiff", str(layouts.released_folder(tmp_path / "authors")))
    assert adapter_choices() == ["authors"]
    assert adapter_path("authors") == tmp_path / "authors"


def test_the_first_folder_of_a_name_wins(models, elsewhere):
    for folder in (models / "dhumandiff", elsewhere / "adapters"):
        tiny.tiny_adapter().save_pretrained(folder / "same.safetensors")
    assert adapter_choices() == ["same.safetensors"]
    first, _ = folder_paths.get_folder_paths("dhumandiff")
    assert adapter_path("same.safetensors").parent == Path(first)


def test_saved_persons_are_found_in_all_folders(models, elsewhere):
    anna, ben, carl = (tiny_comfy.reference(seed) for seed in (1, 2, 3))
    DHDSaveReference.execute(anna, "anna", False)
    assert new_reference_path("anna").is_file()
    for folder in (models / "dhumandiff", elsewhere / "adapters"):
        (folder / "references").mkdir(parents=True, exist_ok=True)
    ben.save(models / "dhumandiff" / "references" / "ben.safetensors")
    carl.save(elsewhere / "adapters" / "references" / "carl.safetensors")
    assert reference_choices() == ["anna", "ben", "carl"]
    for name, person in (("anna", anna), ("ben", ben), ("carl", carl)):
        assert DHDLoadReference.validate_inputs(name) is True
        assert torch.equal(DHDLoadReference.execute(name).args[0].clip_hidden, person.clip_hidden)
    assert adapter_choices() == []  # a person is no adapter


@pytest.mark.parametrize(
    "name",
    [
        "",
        "  ",
        "../anna",
        "a/b",
        "a\\b",
        ".hidden",
        "con",
        "LPT1",
        "x" * 200,
        "a:b",
        "圖" * 80,
        "\U00020000" * 58,
        "\ud800",
    ],
)
def test_a_name_that_is_no_file_name_is_refused(models, name):
    with refused("no-file-name"):
        new_reference_path(name)


@pytest.mark.parametrize("name", ["圖" * 76, "\U00020000" * 57, "é" * 80])
def test_a_long_name_of_any_letters_is_saved_and_read(models, name):
    DHDSaveReference.execute(tiny_comfy.reference(1), name, False)
    assert reference_choices() == [name]
    assert DHDLoadReference.execute(name).args[0].name


def test_a_file_in_the_place_of_the_folder_of_people_is_told(models):
    (models / "dhumandiff" / "references").touch()
    with refused("references-folder", "references"):
        DHDSaveReference.execute(tiny_comfy.reference(1), "anna", False)


# --- models/ipadapter, which holds other packs' files too ---------------------------------------------------------------


def test_ip_adapter_plus_files_for_sdxl_are_choices_and_load(models, elsewhere):
    layouts.ip_adapter_file(models / "ipadapter" / "renamed by me.safetensors")
    layouts.ip_adapter_file(models / "ipadapter" / "sdxl" / "ip-adapter-plus-face_sdxl_vit-h.bin")
    layouts.ip_adapter_file(elsewhere / "ip" / "plus.safetensors")
    layouts.ip_adapter_file(elsewhere / "more" / "ip" / "face.safetensors")
    names = [
        "ipadapter/face.safetensors",
        "ipadapter/plus.safetensors",
        "ipadapter/renamed by me.safetensors",
        "ipadapter/sdxl/ip-adapter-plus-face_sdxl_vit-h.bin",
    ]
    assert offered() == names
    for name in names:
        (loaded,) = DHDLoadAdapter.execute(name).args
        assert loaded.model.info.shared
        assert not loaded.model.has_subject_path


@pytest.mark.parametrize(
    "put",
    [
        odd_model_files.put_sd15,
        odd_model_files.put_other_tower,
        odd_model_files.put_plain,
        odd_model_files.put_lora,
        odd_model_files.put_native,
        odd_model_files.put_broken_link,
        odd_model_files.put_link_to_itself,
        odd_model_files.put_folders,
        odd_model_files.put_damaged,
        odd_model_files.put_unreadable,
    ],
    ids=lambda put: put.__name__.removeprefix("put_"),
)
def test_what_does_not_fit_is_no_choice_and_hides_nothing(models, put):
    layouts.ip_adapter_file(models / "ipadapter" / "good.safetensors")
    put(models / "ipadapter")
    assert offered() == ["ipadapter/good.safetensors"]


@pytest.mark.parametrize(
    "put",
    [odd_model_files.put_broken_link, odd_model_files.put_link_to_itself, odd_model_files.put_folders],
    ids=lambda put: put.__name__[4:],
)
def test_links_and_folders_are_no_adapters(models, put):
    """Even if they have a file's name."""
    tiny.tiny_adapter().save_pretrained(models / "dhumandiff" / "good.safetensors")
    put(models / "dhumandiff")
    assert offered() == ["good.safetensors"]


def test_links_that_lead_nowhere_are_no_people(models):
    DHDSaveReference.execute(tiny_comfy.reference(1), "anna", False)
    odd_model_files.put_broken_link(models / "dhumandiff" / "references")
    assert reference_choices() == ["anna"]


def test_a_folder_that_is_not_there_is_no_error(models, tmp_path):
    for kind in ("dhumandiff", "ipadapter"):
        folder_paths.add_model_folder_path(kind, str(tmp_path / "unplugged" / kind))
    assert offered() == []
    assert reference_choices() == []


def test_a_file_that_became_another_is_looked_at_again(models):
    path = layouts.ip_adapter_file(models / "ipadapter" / "plus.safetensors")
    assert adapter_choices() == ["ipadapter/plus.safetensors"]
    before = DHDLoadAdapter.fingerprint_inputs("ipadapter/plus.safetensors")
    path.unlink()
    odd_model_files.put_lora(models / "ipadapter")
    (models / "ipadapter" / "ip-adapter-faceid_sdxl_lora.safetensors").rename(path)
    os.utime(path, (before + 5, before + 5))
    assert adapter_choices() == []


def test_a_choice_that_is_gone_says_where_it_should_be(models, elsewhere):
    message = DHDLoadAdapter.validate_inputs("ipadapter/plus.safetensors")
    assert "'ipadapter/plus.safetensors' is not in" in message
    assert str(models / "dhumandiff") in message
    assert str(elsewhere / "adapters") in message
    assert "nobody" in DHDLoadReference.validate_inputs("nobody")


def test_the_doctor_looks_in_every_folder_that_comfyui_knows(models, elsewhere):
    tiny.tiny_adapter().save_pretrained(elsewhere / "adapters" / "mine.safetensors")
    layouts.ip_adapter_file(elsewhere / "more" / "ip" / "ip-adapter-plus-face_sdxl_vit-h.safetensors")
    (report,) = DHDDoctor.execute().args
    assert "mine.safetensors: a native DHumanDiff adapter" in report
    assert "ip-adapter-plus-face_sdxl_vit-h.safetensors: an IP-Adapter Plus for SDXL" in report


# --- one bad file among many, and choices that come from another node ------------------------------------------------------


@pytest.mark.parametrize("put", [odd_model_files.put_text_for_an_offset, odd_model_files.put_a_dict_in_itself])
def test_one_bad_file_leaves_the_other_choices(models, put):
    layouts.ip_adapter_file(models / "ipadapter" / "good.safetensors")
    put(models / "ipadapter")
    assert offered() == ["ipadapter/good.safetensors"]


def test_a_file_that_nobody_can_read_leaves_the_other_choices(models, monkeypatch, caplog):
    from dhd_pack.dhumandiff.formats import ip_adapter

    layouts.ip_adapter_file(models / "ipadapter" / "good.safetensors")
    layouts.ip_adapter_file(models / "ipadapter" / "worse.safetensors")
    fits = ip_adapter.fits

    def breaks(path):
        if path.name == "worse.safetensors":
            raise MemoryError("an unheard-of kind of damage")
        return fits(path)

    monkeypatch.setattr(ip_adapter, "fits", breaks)
    assert offered() == ["ipadapter/good.safetensors"]
    assert "worse.safetensors is left out" in caplog.text


def test_a_folder_that_links_to_what_it_lies_in_is_listed_once(models):
    tiny.tiny_adapter().save_pretrained(models / "dhumandiff" / "deep" / "mine.safetensors")
    for name in ("round", "again"):
        (models / "dhumandiff" / "deep" / name).symlink_to(models / "dhumandiff")
    assert adapter_choices() == ["deep/mine.safetensors"]


@pytest.mark.parametrize("node", [DHDLoadAdapter, DHDLoadReference, DHDLoadSigLIP, DHDLoadParts2Whole])
def test_a_linked_choice_is_looked_up_when_it_runs(models, node):
    """ComfyUI asks before the run with None in the place of what is linked."""
    code = {
        DHDLoadAdapter: "adapter-missing",
        DHDLoadReference: "reference-missing",
        DHDLoadSigLIP: "siglip-missing",
        DHDLoadParts2Whole: "parts2whole-missing",
    }[node]
    (name,) = (one.id for one in node.define_schema().inputs)
    assert node.validate_inputs(**{name: None}) is True
    assert node.fingerprint_inputs(**{name: None}) == 0.0
    for value in ("../elsewhere", "/etc", 7, None, ["a"], {"b": 1}):
        with refused(code):
            node.execute(**{name: value})


def test_a_link_that_leads_nowhere_beside_an_adapter_s_files_is_no_error(models):
    folder = layouts.released_folder(models / "dhumandiff" / "mine")
    before = DHDLoadAdapter.fingerprint_inputs("mine")
    (folder / "readme.txt").symlink_to("nowhere.txt")
    assert DHDLoadAdapter.fingerprint_inputs("mine") >= before
    assert DHDLoadAdapter.validate_inputs("mine") is True
    DHDLoadAdapter.execute("mine")


def test_a_linked_face_pack_is_one_of_the_choices(models, tmp_path):
    """A workflow reads no other folder of the machine, and is not told which there are."""
    (tmp_path / "private").mkdir()
    for value in (str(tmp_path / "private"), "/", "../private", 7, None, ["buffalo_l"]):
        with refused("pack-not-a-choice"):
            DHDLoadFaceAnalysis.execute(value, "CPU", False)


CHOICES = [
    (node, one.id)
    for node in NODES
    for one in node.define_schema().inputs
    if isinstance(one, io.Combo.Input) and one.id not in ("adapter_name", "file_name", "folder", "pack", "siglip_name")
]


@pytest.mark.parametrize(("node", "name"), CHOICES, ids=[f"{node.__name__}.{name}" for node, name in CHOICES])
@pytest.mark.parametrize("value", ["no such choice", "constructor", 7, ["a"]], ids=str)
def test_a_linked_choice_is_one_of_the_list(node, name, value):
    """ComfyUI compares a choice with its list only while it is written on the node itself."""
    inputs = node.define_schema().inputs
    plain = {
        "INT": 1,
        "FLOAT": 1.0,
        "STRING": "a",
        "BOOLEAN": False,
        "IMAGE": torch.zeros(1, 8, 8, 3),
        "MASK": torch.zeros(1, 8, 8),
    }
    plain["LATENT"] = {"samples": torch.zeros(1, 4, 8, 8)}
    given = {
        one.id: next(iter(one.options), None) if isinstance(one, io.Combo.Input) else plain.get(one.get_io_type())
        for one in inputs
    }
    with refused("not-a-choice", name):
        node.execute(**{**given, name: value})
