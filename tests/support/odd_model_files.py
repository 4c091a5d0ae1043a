"""What lies in people's model folders and is no adapter, or is damaged: each function puts some of it into a folder.

Needs the pack as ComfyUI loads it (tests/host).
"""

import json
import os
import struct

import dhd_pack.dhumandiff.testing as tiny
import pytest
import torch
from safetensors.torch import save_file

from support import layouts


def put_sd15(folder):
    layouts.ip_adapter_file(folder / "ip-adapter-plus_sd15.safetensors", context_width=768)
    layouts.ip_adapter_file(folder / "ip-adapter-plus_sd15.bin", context_width=768)


def put_other_tower(folder):
    layouts.ip_adapter_file(folder / "ip-adapter-plus_sdxl_vit-g.safetensors", clip_width=1664)


def put_plain(folder):
    layers = {f"ip_adapter.{n}.to_{p}_ip.weight": torch.zeros(64, 96) for n in (1, 3) for p in "kv"}
    save_file({"image_proj.proj.weight": torch.zeros(384, 80), **layers}, folder / "ip-adapter_sdxl.safetensors")


def put_lora(folder):
    parts = {f"lora_unet_mid.lora_{part}.weight": torch.zeros(4, 4) for part in ("up", "down")}
    save_file(parts, folder / "ip-adapter-faceid_sdxl_lora.safetensors")


def put_native(folder):
    tiny.tiny_adapter().save_pretrained(folder / "tiny.safetensors")


def put_broken_link(folder):
    (folder / "gone.safetensors").symlink_to(folder / "nowhere.safetensors")
    (folder / "plus_sdxl.bin").symlink_to(folder / "nowhere.bin")


def put_link_to_itself(folder):
    (folder / "round.safetensors").symlink_to(folder / "round.safetensors")


def put_folders(folder):
    (folder / "x.safetensors").mkdir()
    (folder / "ip-adapter-plus_sdxl.bin").mkdir()


def put_damaged(folder):
    path = layouts.ip_adapter_file(folder / "cut off.safetensors")
    path.write_bytes(path.read_bytes()[:-1000])
    (folder / "empty.safetensors").touch()
    (folder / "page.safetensors").write_text("<!doctype html><title>Sign in</title>")
    (folder / "header.safetensors").write_bytes((50).to_bytes(8, "little") + b"{" + b"\xff" * 100)
    (folder / "huge.safetensors").write_bytes((2**63).to_bytes(8, "little") + b"{}")


def put_unreadable(folder):
    path = layouts.ip_adapter_file(folder / "secret.safetensors")
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")


def put_text_for_an_offset(folder):
    """A header in which an offset is a text: other than any damage that formats know."""
    head = {
        "image_proj.latents": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "ip_adapter.1": {"dtype": "F32", "shape": [1], "data_offsets": [4, "8"]},
    }
    text = json.dumps(head).encode()
    (folder / "bad.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 64)


def put_a_dict_in_itself(folder):
    content = {"image_proj": {"latents": torch.zeros(1)}}
    content["again"] = content
    torch.save(content, folder / "bad.safetensors")
