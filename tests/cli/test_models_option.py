"""`generate --models`: what lies in a models folder is found, and nothing is guessed."""

import argparse
import json

import pytest
import torch
from safetensors.torch import save_file
from support import layouts, low_rank_files
from support.generate_command import command_line, make_photos, run
from support.model_folders import face_pack
from support.refused import refused
from support.tiny_dual import tiny_dual

from dhumandiff import testing
from dhumandiff.__main__ import main
from dhumandiff.cli import models as cli_models
from dhumandiff.cli.models import choose_adapter, choose_models, find_image_encoder, folders_of, full_adapters
from dhumandiff.doctor.folders import Folders
from dhumandiff.formats import low_rank
from dhumandiff.formats.reading import read_tensor_file

ATTENTION = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
SDXL = {
    ATTENTION: torch.zeros(4, 2048),
    "conditioner.embedders.0.transformer.text_model.x": torch.zeros(1),
    "conditioner.embedders.1.model.x": torch.zeros(1),
    "first_stage_model.decoder.x": torch.zeros(1),
}
TOWER = {
    "vision_model.embeddings.class_embedding": torch.zeros(80),
    "vision_model.embeddings.patch_embedding.weight": torch.zeros(80, 3, 2, 2),
}


def write(path, tensors):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    return path


@pytest.fixture
def models(tmp_path, monkeypatch):
    """A ComfyUI with everything, and a home folder with nothing."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "ComfyUI" / "models"
    write(folder / "checkpoints" / "xl" / "sdxl.safetensors", SDXL)
    write(folder / "checkpoints" / "old.safetensors", {ATTENTION: torch.zeros(4, 768)})
    (folder / "checkpoints" / "half.safetensors").write_bytes(b"half")
    write(folder / "clip_vision" / "tower.safetensors", TOWER)
    write(
        folder / "clip_vision" / "other.safetensors",
        {**TOWER, "vision_model.embeddings.patch_embedding.weight": torch.zeros(64, 3, 2, 2)},
    )
    layouts.released_folder(folder / "dhumandiff" / "DHumanDiff", dtype=torch.float16)
    face_pack(folder / "insightface" / "models" / "buffalo_l")
    return folder


def arguments(models, **given):
    names = ("base", "vae", "adapter", "face_root", "face_pack", "full_adapter", "pathway", "method")
    return argparse.Namespace(models=models, **{**dict.fromkeys(names), **given})


def test_everything_that_a_comfyui_has_is_found(models):
    args = arguments(models)
    told = [*choose_models(args, folders_of(args)), *choose_adapter(args, folders_of(args))]
    assert args.base == str(models / "checkpoints" / "xl" / "sdxl.safetensors")
    assert args.adapter == str(models / "dhumandiff" / "DHumanDiff")
    assert args.face_root == models / "insightface"
    assert told == [f"base: {args.base}", f"adapter: {args.adapter}"]
    assert find_image_encoder(None, folders_of(args), 80) == models / "clip_vision" / "tower.safetensors"
    assert find_image_encoder(None, folders_of(args), 1280) is None


def test_what_is_given_is_not_looked_for(models):
    given = {"base": "mini", "adapter": "mine.safetensors", "face_root": models}
    args = arguments(models, **given)
    assert choose_models(args, folders_of(args)) == choose_adapter(args, folders_of(args)) == []
    assert {name: getattr(args, name) for name in given} == given


def test_a_name_as_comfyui_lists_it_is_enough(models):
    write(models / "vae" / "mine.safetensors", {"x": torch.zeros(1)})
    args = arguments(models, base="xl/sdxl.safetensors", vae="mine.safetensors")
    choose_models(args, folders_of(args))
    assert args.base == str(models / "checkpoints" / "xl" / "sdxl.safetensors")
    assert args.vae == str(models / "vae" / "mine.safetensors")
    assert find_image_encoder("tower.safetensors", folders_of(args), 1) == str(
        models / "clip_vision" / "tower.safetensors"
    )


def test_one_of_several_is_never_guessed(models):
    write(models / "checkpoints" / "second.safetensors", SDXL)
    write(models / "clip_vision" / "second.safetensors", TOWER)
    args = arguments(models)
    with refused("several-to-choose-from", "xl/sdxl.safetensors", "second.safetensors", "--base"):
        choose_models(args, folders_of(args))
    with refused("several-to-choose-from", "tower.safetensors", "second.safetensors", "--image-encoder"):
        find_image_encoder(None, folders_of(args), 80)


def test_released_weights_in_two_folders_are_not_guessed_between(models, tmp_path):
    other = layouts.released_folder(tmp_path / "disk" / "DHumanDiff", dtype=torch.float16)
    (models.parent / "extra_model_paths.yaml").write_text(f"disk:\n    dhumandiff: {other.parent}\n")
    args = arguments(models)
    with refused("several-to-choose-from", str(models / "dhumandiff" / "DHumanDiff"), str(other), "--adapter"):
        choose_adapter(args, folders_of(args))


def test_one_file_by_two_ways_is_one(models):
    (models / "checkpoints" / "link.safetensors").symlink_to(models / "checkpoints" / "xl" / "sdxl.safetensors")
    args = arguments(models)
    choose_models(args, folders_of(args))
    assert args.base


def test_without_released_weights_the_only_other_adapter_is_taken(models):
    (models / "dhumandiff" / "DHumanDiff").rename(models / "put_away")
    args = arguments(models)
    with refused("no-adapter", str(models / "dhumandiff" / "DHumanDiff"), "download"):
        choose_adapter(args, folders_of(args))
    plus = layouts.ip_adapter_file(models / "ipadapter" / "plus.safetensors", context_width=2048, clip_width=1280)
    args = arguments(models)
    choose_adapter(args, folders_of(args))
    assert args.adapter == str(plus)
    write(models / "dhumandiff" / "references" / "anna.safetensors", {"clip_hidden": torch.zeros(1, 2, 4)})
    own = models / "dhumandiff" / "own.safetensors"
    testing.tiny_adapter().save_pretrained(own)
    args = arguments(models)
    choose_adapter(args, folders_of(args))
    assert args.adapter == str(own)


def test_a_small_file_is_offered_and_finds_its_full_adapter_in_any_models_folder(models, tmp_path):
    full = models / "dhumandiff" / "deep" / "er" / "full.safetensors"
    full.parent.mkdir(parents=True)
    testing.tiny_adapter().save_pretrained(full)
    small = models / "dhumandiff" / "couple.safetensors"
    low_rank_files.write(small, full)
    args = arguments(models)
    told = choose_adapter(args, folders_of(args))
    assert args.adapter == str(models / "dhumandiff" / "DHumanDiff")  # which was asked for is not guessed
    assert told[-1].endswith(f"--adapter {small}")
    args = arguments(models, adapter="couple.safetensors")  # by its name, as ComfyUI lists it
    choose_models(args, folders_of(args))
    assert args.adapter == str(small)
    assert full in full_adapters(args, folders_of(args))
    there = full_adapters(args, folders_of(args))
    assert low_rank.full_adapter(read_tensor_file(small), there)[1] == full
    args.full_adapter = full
    assert full_adapters(args, folders_of(args)) == [full]
    assert full_adapters(arguments(models, adapter=str(full)), folders_of(args)) == []


def test_the_only_file_of_the_dual_pathway_is_taken(models):
    dual = tiny_dual(testing.tiny_adapter())
    parts = models / "dhumandiff" / "parts.safetensors"
    dual.save_pretrained(parts, ("tca", "gates", "router"))
    args = arguments(models, method="dual_pathway")
    told = choose_adapter(args, folders_of(args))
    assert (args.pathway, args.adapter) == (parts, str(models / "dhumandiff" / "DHumanDiff"))
    assert told == [f"pathway: {parts}", f"adapter: {args.adapter}"]
    parts.unlink()
    whole = models / "dhumandiff" / "whole.safetensors"
    dual.save_pretrained(whole)
    args = arguments(models, method="dual_pathway")
    assert choose_adapter(args, folders_of(args)) == [f"adapter: {whole}"]
    assert args.pathway is None
    dual.save_pretrained(parts, ("tca", "gates", "router"))
    args = arguments(models, method="dual_pathway")
    with refused("several-to-choose-from", "parts.safetensors", "whole.safetensors", "--pathway"):
        choose_adapter(args, folders_of(args))
    args = arguments(models)  # another method does not look at them
    assert choose_adapter(args, folders_of(args)) == [f"adapter: {args.adapter}"]


def test_a_folder_without_an_sdxl_checkpoint_says_where_one_belongs(models):
    (models / "checkpoints" / "xl" / "sdxl.safetensors").unlink()
    args = arguments(models)
    with refused("no-base", str(models / "checkpoints"), "--base", "download --portrait"):
        choose_models(args, folders_of(args))


def test_a_models_folder_that_is_none_is_refused(tmp_path):
    with refused("no-models-folder", "nowhere"):
        folders_of(arguments(tmp_path / "nowhere"))


def test_the_comfyui_around_the_project_needs_no_option(models, monkeypatch):
    (models.parent / "custom_nodes" / "pack").mkdir(parents=True)
    monkeypatch.setattr(cli_models, "PROJECT", models.parent / "custom_nodes" / "pack")
    args = arguments(None)
    choose_models(args, folders_of(args))
    assert args.base == str(models / "checkpoints" / "xl" / "sdxl.safetensors")


def test_folders_of_extra_model_paths_count(models, tmp_path):
    (models.parent / "extra_model_paths.yaml").write_text(
        "# comment\na1111:\n    base_path: ../elsewhere/\n    checkpoints: |\n         sd\n         more\n"
        "big_disk:\n    is_default: true\n    clip_vision: /disk/clip_vision\nempty:\n"
    )
    found = Folders.below(models)
    assert found.checkpoints == (models / "checkpoints", tmp_path / "elsewhere" / "sd", tmp_path / "elsewhere" / "more")
    assert [path.as_posix() for path in found.clip_vision] == ["/disk/clip_vision", (models / "clip_vision").as_posix()]
    write(tmp_path / "elsewhere" / "sd" / "second.safetensors", SDXL)
    args = arguments(models)
    with refused("several-to-choose-from", "elsewhere/sd/second.safetensors"):
        choose_models(args, folders_of(args))


@pytest.mark.parametrize("text", ["a: [1", "- 1\n- 2\n", "a: text\n"])
def test_extra_model_paths_that_cannot_be_read_are_named(models, text):
    (models.parent / "extra_model_paths.yaml").write_text(text)
    with refused("extra-model-paths-damaged", "extra_model_paths.yaml"):
        Folders.below(models)


def test_a_portrait_needs_no_path_but_the_photos(models, tmp_path, monkeypatch, capsys):
    """With models that are tiny: what is found is what is loaded."""
    from dhumandiff.hosts.diffusers import loading, pipeline, vision

    testing.tiny_adapter().save_pretrained(models / "dhumandiff" / "own.safetensors")
    for part in (models / "dhumandiff" / "DHumanDiff").iterdir():
        part.unlink()
    (models / "dhumandiff" / "DHumanDiff").rmdir()
    loaded = []
    monkeypatch.setattr(pipeline, "load_pipeline", lambda base, *_: loaded.append(base) or testing.tiny_pipeline())
    monkeypatch.setattr(
        vision.ClipVision, "from_pretrained", lambda path, *_: loaded.append(path) or testing.tiny_vision()
    )
    monkeypatch.setattr(loading, "ClipVision", vision.ClipVision)
    monkeypatch.setattr(
        "dhumandiff.cli.generate._load_faces", lambda pack, args: loaded.append(args.face_root) or testing.tiny_faces()
    )
    write(
        models / "clip_vision" / "small.safetensors",
        {**TOWER, "vision_model.embeddings.patch_embedding.weight": torch.zeros(64, 3, 2, 2)},
    )
    (models / "clip_vision" / "other.safetensors").unlink()
    line = command_line(make_photos(tmp_path), tmp_path)
    del line["--base"]
    assert run({**line, "--models": [models]}) == 0, capsys.readouterr()
    assert sorted(map(str, loaded)) == sorted(
        map(
            str,
            [
                models / "checkpoints/xl/sdxl.safetensors",
                models / "clip_vision/small.safetensors",
                models / "insightface",
            ],
        )
    )
    out = capsys.readouterr().out
    assert "own.safetensors" in out
    assert "small.safetensors" in out


def test_inspect_knows_bases_and_image_encoders(models, capsys):
    assert main(["inspect", str(models / "checkpoints" / "xl" / "sdxl.safetensors")]) == 0
    assert "SDXL" in capsys.readouterr().out
    write(
        models / "vit_h.safetensors",
        {**TOWER, "vision_model.embeddings.patch_embedding.weight": torch.zeros(1280, 3, 2, 2)},
    )
    assert main(["inspect", "--json", str(models / "vit_h.safetensors")]) == 0
    assert json.loads(capsys.readouterr().out)["model"] == "CLIP ViT-H/14"
    assert main(["inspect", str(models / "checkpoints" / "half.safetensors")]) == 1
    assert "half.safetensors" in capsys.readouterr().err
