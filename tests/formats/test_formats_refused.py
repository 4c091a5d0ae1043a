"""Every file and folder that does not fit is refused with a message that names it and says what it looks like."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from support import layouts
from support.refused import refused

from dhumandiff import Adapter
from dhumandiff.errors import AdapterError
from dhumandiff.formats import released

FILES = list(released.FILES.values())


# Refused: what is no readable tensor file


def refused_to_read(path, code, *named):
    """Reading `path` fails with this code, and the message names it and `named`."""
    with refused(code, str(path), *named):
        Adapter.from_pretrained(path)


def test_nothing_there(tmp_path):
    refused_to_read(tmp_path / "none.safetensors", "file-missing")


@pytest.mark.parametrize(
    ("content", "code", "named"),
    [
        (b"", "file-empty", "0 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git-lfs-pointer", "Git LFS"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", "no-tensor-file", "a web page saved under this name"),
        (b"\n<html lang=en>", "no-tensor-file", "a web page"),
        (b'{"error": "Invalid username or password."}', "no-tensor-file", 'text, beginning with \'{"error"'),
        (b"just a note", "no-tensor-file", "text, beginning with 'just a note'"),
        (b"\x00\x01\x02\x03" * 50, "no-tensor-file", "its beginning is damaged"),
        (b"PK\x03\x04" + bytes(200), "file-cut-off", "archive"),
        (b"\x80\x02" + bytes(200), "file-damaged|code-in-weights", "damaged"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{not json at al}", "file-damaged", "header"),
    ],
    ids=["empty", "lfs", "html", "html2", "json", "text", "bytes", "zip", "pickle", "header"],
)
@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".bin"])
def test_what_is_no_tensor_file_is_called_what_it_is(tmp_path, content, code, named, ending):
    path = tmp_path / f"adapter{ending}"
    path.write_bytes(content)
    with pytest.raises(AdapterError) as caught:
        Adapter.from_pretrained(path)
    assert caught.value.code in code.split("|")
    assert str(path) in str(caught.value)
    assert named in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_each_of_the_four_files_is_checked(tmp_path, name):
    folder = layouts.released_folder(tmp_path / "a")
    (folder / name).write_bytes(b"")
    with refused("file-empty", name):
        Adapter.from_pretrained(folder)


@pytest.mark.parametrize("share", [0.001, 0.2, 0.9, 0.999])
@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
def test_a_download_that_was_cut_off_is_recognised(tmp_path, share, ending):
    path = layouts.ip_adapter_file(tmp_path / f"a{ending}")
    content = path.read_bytes()
    path.write_bytes(content[: max(16, int(len(content) * share))])
    with pytest.raises(AdapterError) as caught:
        Adapter.from_pretrained(path)
    assert caught.value.code in ("file-cut-off", "file-damaged")
    assert str(path) in str(caught.value)
    assert "cut off" in str(caught.value)


@pytest.mark.parametrize("share", [0.001, 0.5, 0.99])
def test_an_old_torch_file_that_was_cut_off_is_recognised(tmp_path, share):
    path = tmp_path / "a.bin"
    torch.save({"image_proj": layouts.tensors()["face_projection"]}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    refused_to_read(path, "file-damaged")


def test_damage_inside_a_safetensors_header_is_recognised(tmp_path):
    path = layouts.ip_adapter_file(tmp_path / "a.safetensors")
    content = path.read_bytes()
    path.write_bytes(content.replace(b'"F32"', b'"X32"', 1))
    refused_to_read(path, "file-damaged")
    path.write_bytes((2**40).to_bytes(8, "little") + content[8:])
    refused_to_read(path, "file-cut-off")


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_not_run(tmp_path, zipped):
    path = tmp_path / "a.bin"
    torch.save({"image_proj": Evil(tmp_path / "ran")}, path, _use_new_zipfile_serialization=zipped)
    refused_to_read(path, "code-in-weights")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_bare_pickle_is_not_run(tmp_path, protocol):
    path = tmp_path / "a.pt"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "ran"), protocol=protocol))
    with pytest.raises(AdapterError) as caught:
        Adapter.from_pretrained(path)
    assert caught.value.code in ("code-in-weights", "no-tensor-file")
    assert not (tmp_path / "ran").exists()


def test_a_file_without_tensors_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "a.pt")
    refused_to_read(tmp_path / "a.pt", "no-tensors")
    save_file({}, tmp_path / "a.safetensors")
    refused_to_read(tmp_path / "a.safetensors", "no-tensors")


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    path = layouts.ip_adapter_file(tmp_path / "a.safetensors")

    def forbidden(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", forbidden)  # the tests may run as root, whom no mode stops
    refused_to_read(path, "file-not-readable", "permission denied")


def test_a_folder_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()

    def forbidden(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "iterdir", forbidden)
    refused_to_read(tmp_path / "a", "file-not-readable", "Permission denied")


# Refused: other kinds of files

T = torch.zeros(2, 2)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["lora_unet_down_blocks_1_attentions_0_proj_in.lora_up.weight"], "a LoRA"),
        (["unet.down_blocks.1.attentions.0.to_q.lora_A.weight"], "a LoRA"),
        (["model.diffusion_model.input_blocks.0.0.weight", "conditioner.embedders.0.x"], "a whole checkpoint"),
        (["state_dict.model.diffusion_model.input_blocks.0.0.weight"], "a whole checkpoint"),
        (["down_blocks.0.resnets.0.conv1.weight", "mid_block.resnets.0.conv1.weight"], "the UNet of a base model"),
        (["double_blocks.0.img_attn.qkv.weight"], "the diffusion transformer of a base model"),
        (["controlnet_cond_embedding.conv_in.weight", "down_blocks.0.resnets.0.conv1.weight"], "a ControlNet"),
        (["control_model.input_blocks.0.0.weight"], "a ControlNet"),
        (["vision_model.embeddings.class_embedding"], "a CLIP image encoder"),
        (["text_model.embeddings.token_embedding.weight"], "a text encoder"),
        (["encoder.conv_in.weight", "decoder.conv_in.weight"], "a VAE"),
        (["clip_l", "clip_g"], "a textual-inversion embedding"),
        (["emb_params"], "a textual-inversion embedding"),
        (["clip_hidden", "clip_hidden_zero"], "a saved reference of a person"),
        (["pulid_encoder.x"], "a PuLID file"),
        (["a", "b", "c", "d"], "a file of another kind (4 tensors: a, b, c, ...)"),
    ],
)
def test_other_files_are_called_what_they_look_like(tmp_path, names, words):
    path = tmp_path / "a.safetensors"
    save_file({name: T.clone() for name in names}, path)
    refused_to_read(path, "no-adapter-file", words)


def test_a_textual_inversion_pickle_is_called_so(tmp_path):
    torch.save({"string_to_token": {"*": 265}, "string_to_param": {"*": T}, "name": "x"}, tmp_path / "a.pt")
    refused_to_read(tmp_path / "a.pt", "no-adapter-file", "a textual-inversion embedding")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["image_proj.proj.weight", "image_proj.norm.weight", "ip_adapter.1.to_k_ip.weight"], "a plain IP-Adapter"),
        (["image_proj.proj.0.weight", "image_proj.proj.2.weight", "ip_adapter.0.to_q_lora.down.weight"], "FaceID"),
        (["image_proj.perceiver_resampler.proj_in.weight", "ip_adapter.1.to_k_ip.weight"], "FaceID"),
        (["image_proj.proj.0.weight", "image_proj.proj.2.weight", "ip_adapter.1.to_k_ip.weight"], "FaceID (portrait)"),
        (["image_proj.proj.0.weight", "image_proj.proj.3.weight", "ip_adapter.1.to_k_ip.weight"], "Full Face"),
    ],
)
@pytest.mark.parametrize("ending", [".safetensors", ".bin"])
def test_other_ip_adapters_are_refused_by_name(tmp_path, names, words, ending):
    path = tmp_path / f"a{ending}"
    flat = {name: T.clone() for name in names}
    if ending == ".bin":
        nested: dict = {"image_proj": {}, "ip_adapter": {}}
        for name, tensor in flat.items():
            part, _, rest = name.partition(".")
            nested[part][rest] = tensor
        torch.save(nested, path)
    else:
        save_file(flat, path)
    refused_to_read(path, "another-ip-adapter", words)


@pytest.mark.parametrize(
    ("sizes", "code", "named"),
    [
        ({"context_width": 768}, "made-for-another-base", "Stable Diffusion 1.5"),
        ({"context_width": 1024}, "made-for-another-base", "Stable Diffusion 2"),
        ({"clip_width": 1664}, "made-for-another-encoder", "CLIP ViT-bigG/14"),
        ({"clip_width": 1024}, "made-for-another-encoder", "CLIP ViT-L/14"),
        ({"clip_width": 512}, "made-for-another-encoder", "InstantID"),
    ],
)
def test_plus_files_of_other_bases_and_encoders_are_refused(tmp_path, sizes, code, named):
    refused_to_read(layouts.ip_adapter_file(tmp_path / "a.safetensors", **sizes), code, named)


@pytest.mark.parametrize("name", FILES)
def test_one_of_the_four_files_alone_asks_for_the_folder(tmp_path, name):
    folder = layouts.released_folder(tmp_path / "a")
    refused_to_read(folder / name, "no-adapter-file", "one of the four released files")


# Refused: folders


def test_a_half_complete_folder_names_what_is_missing(tmp_path):
    folder = layouts.released_folder(tmp_path / "a")
    (folder / "mapping.pt").unlink()
    (folder / "face_projection2.pt").unlink()
    refused_to_read(
        folder, "released-file-missing", "face_projection2.pt, mapping.pt", "face_projection.pt, ip_adapter_ca.pt"
    )


def test_an_empty_folder_is_refused(tmp_path):
    refused_to_read(tmp_path, "released-file-missing", "python -m dhumandiff download")


def test_renamed_files_are_listed(tmp_path):
    folder = layouts.released_folder(tmp_path / "a")
    (folder / "mapping.pt").rename(folder / "mapping (1).pt")
    refused_to_read(folder, "released-file-missing", "mapping.pt is", "mapping (1).pt")


def test_swapped_names_are_noticed(tmp_path):
    folder = layouts.released_folder(tmp_path / "a")
    (folder / "mapping.pt").rename(folder / "x")
    (folder / "face_projection.pt").rename(folder / "mapping.pt")
    (folder / "x").rename(folder / "face_projection.pt")
    with refused("another-part-under-this-name", "face_projection.pt: ", "looks like mapping.pt"):
        Adapter.from_pretrained(folder)


def test_a_folder_with_a_native_file_points_to_it(tmp_path):
    layouts.small_adapter().save_pretrained(tmp_path / "pair.safetensors")
    refused_to_read(tmp_path, "released-file-missing", "pair.safetensors")


def test_two_adapters_inside_are_not_guessed_between(tmp_path):
    for name in ("one", "two"):
        layouts.released_folder(tmp_path / name)
    refused_to_read(tmp_path, "several-adapters", "one, two")


def test_two_levels_deeper_is_not_searched(tmp_path):
    layouts.released_folder(tmp_path / "x" / "y")
    refused_to_read(tmp_path, "released-file-missing")
