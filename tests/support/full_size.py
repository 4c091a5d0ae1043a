"""Files of SDXL's own sizes, made of random numbers: what a ComfyUI user has in models/, without a download.

    python -m support.full_size FOLDER          from the folder tests/; some 10 GB

They are written piece by piece, so that making them takes no memory.
"""

import json
import shutil
import sys
from pathlib import Path

import torch

from support import checkpoints, layouts

CHECKPOINT = "checkpoints/random_sdxl.safetensors"
IMAGE_ENCODER = "clip_vision/CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"
ADAPTER = "dhumandiff/DHumanDiff"
FP8 = "checkpoints/random_sdxl_fp8.safetensors"

DTYPES = {torch.float16: "F16", torch.float8_e4m3fn: "F8_E4M3"}
NORMS = ("norm", "ln_", "in_layers.0", "out_layers.0", ".out.0")


def make_models(folder, faces=None):
    """Write a whole models folder: 6.9 GB checkpoint, 1.3 GB image encoder, 1.6 GB adapter, and the face pack given."""
    make_checkpoint(folder / CHECKPOINT)
    make_image_encoder(folder / IMAGE_ENCODER)
    layouts.released_folder(folder / ADAPTER, dtype=torch.float16, cheap=True, **layouts.FULL)
    if faces is not None:
        shutil.copytree(faces, folder / "insightface" / "models" / "buffalo_l", dirs_exist_ok=True)
    return folder


def make_checkpoint(path, dtype=torch.float16):
    """An SDXL checkpoint under the original names."""
    import diffusers

    from dhumandiff.hosts.diffusers.single_file import CONFIGS, _empty_text_encoder

    folder = CONFIGS / "sdxl"
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel.from_config(
            diffusers.UNet2DConditionModel.load_config(str(folder / "unet"))
        )
        vae = diffusers.AutoencoderKL.from_config(diffusers.AutoencoderKL.load_config(str(folder / "vae")))
        texts = [_empty_text_encoder("sdxl", part) for part in ("text_encoder", "text_encoder_2")]
    write(path, checkpoints.checkpoint(unet, vae, *texts), dtype)


def make_image_encoder(path):
    """CLIP ViT-H/14's image tower in transformers' layout."""
    import transformers

    from dhumandiff.formats.clip_vision import KINDS

    with torch.device("meta"):
        model = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**KINDS[1280]["config"]))
    write(path, model.state_dict(), torch.float16)


def write(path, shapes, dtype):
    """A .safetensors of random numbers that neither die out nor blow up, for tensors that have shapes alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = torch.randn(2**20 + 7, generator=torch.Generator().manual_seed(0))
    size, header = torch.empty((), dtype=dtype).element_size(), {}
    end = 0
    for name, empty in shapes.items():
        begin, end = end, end + size * empty.numel()
        header[name] = {"dtype": DTYPES[dtype], "shape": list(empty.shape), "data_offsets": [begin, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for name, empty in shapes.items():
            if name.endswith(".bias"):
                values = torch.zeros(empty.numel())
            elif empty.ndim == 1 and any(norm in name for norm in NORMS):
                values = torch.ones(empty.numel())
            else:
                scale = (empty[0].numel() if empty.ndim > 1 else 1) ** -0.5
                values = (random * scale).repeat(-(-empty.numel() // len(random)))[: empty.numel()]
            file.write(values.to(dtype).view(torch.uint8).numpy().data)


if __name__ == "__main__":
    given = [Path(word) for word in sys.argv[1:]]
    print(make_models(*given))
