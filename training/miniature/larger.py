"""The stages of the second design, 256 x 192 px: an autoencoder of its own, many latents, and the base that is trained on them.

What sees faces (vision tower, detector, recognizer, judge) and what reads sentences (text towers) is taken as it ships: it was
trained on faces of 33 to 60 px, works at either size, and the judge stays the same for all tables.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from dhumandiff.miniature import weights

from .stages import CONFIGS, MEETINGS, PEOPLE, Stage, save_adapter, train_adapter

__all__ = ["STAGES"]

PICTURES, AUTOENCODER_STEPS, DECODER_STEPS = 6_000, 1_000, 2_500
LATENTS, BASE_STEPS = 48_000, 30_000
HOW = {"bf16": True, "decay": 0.5, "save_minutes": 2.0}
"""How `fit` trains the autoencoder."""
SHIPPED = Path(weights.__file__).parent / "weights"
TAKEN = ("vision", "detector", "recogniser", "judge", "text_encoder", "text_encoder_2")


def _parts(folder: Path) -> None:
    (folder / "weights").mkdir(exist_ok=True)
    for name in TAKEN:
        shutil.copyfile(SHIPPED / f"{name}.safetensors", folder / "weights" / f"{name}.safetensors")


def _pictures(folder: Path) -> None:
    from dhumandiff.miniature.base import SIZE

    from .renders import render_pictures

    render_pictures(folder / "pictures", PICTURES, 1, size=SIZE)


def _autoencoder(folder: Path, device: str) -> None:
    from .autoencoder import train_autoencoder
    from .renders import Renders

    vae = train_autoencoder(folder, Renders(folder / "pictures"), AUTOENCODER_STEPS, device, **HOW)
    weights.save_part("vae", vae.state_dict(), folder / "weights")


def _decoder(folder: Path, device: str) -> None:
    from dhumandiff.miniature.base import mini_vae

    from .autoencoder import train_sharp_decoder
    from .renders import Renders

    vae = train_sharp_decoder(folder, mini_vae().to(device), Renders(folder / "pictures"), DECODER_STEPS, **HOW)
    weights.save_part("vae", vae.state_dict(), folder / "weights")


def _latents(folder: Path, device: str) -> None:
    from dhumandiff.miniature.base import mini_vae

    from .latents import draw_latents

    draw_latents(folder / "latents", mini_vae().to(device), LATENTS)


def _base(folder: Path, device: str) -> None:
    from accelerate import Accelerator

    from dhumandiff.miniature.base import mini_text_encoders

    from .base import Texts, train_base
    from .latents import Latents

    accelerator = Accelerator(cpu=device == "cpu")
    unet = train_base(folder, Latents.load(folder / "latents"), Texts(*mini_text_encoders()), BASE_STEPS, accelerator)
    if accelerator.is_main_process:
        weights.save_part("unet", unet.state_dict(), folder / "weights")


def _data(folder: Path) -> None:
    from dhumandiff.miniature.base import SIZE
    from dhumandiff.miniature.world import people, write_dataset

    seeds = range(20_000_000, 20_000_000 + MEETINGS)
    write_dataset(folder / "data", seeds, people("train", PEOPLE), references=4, size=SIZE)


def _prepare(folder: Path) -> None:
    from ..prepare import main

    given = ["--data", str(folder / "data"), "--out", str(folder / "shards"), "--workers", "2"]
    main(["--config", str(CONFIGS / "mini_prepare.yaml"), "--config", str(CONFIGS / "mini_256_prepare.yaml"), *given])


def _adapter(folder: Path) -> None:
    if train_adapter(folder, "adapter", ("--config", str(CONFIGS / "mini_256.yaml"))):
        save_adapter(folder / "runs" / "adapter", folder / "weights" / "adapter.safetensors")


STAGES: dict[str, Stage] = {
    "parts": Stage((), _parts, 0.1, "take the parts that see and read as they ship"),
    "pictures": Stage((), _pictures, 1, "draw pictures of strangers"),
    "autoencoder": Stage(("pictures",), _autoencoder, 15, "train the autoencoder", on_device=True),
    "latents": Stage(("autoencoder", "parts"), _latents, 20, "draw and encode many pictures", on_device=True),
    "base": Stage(("latents",), _base, 360, "train the UNet", 2, together=True, on_device=True),
    "data": Stage(("latents",), _data, 4, "write the adapter's data set"),
    "decoder": Stage(("base",), _decoder, 30, "sharpen the autoencoder's decoder", on_device=True),
    "prepare": Stage(("data", "base"), _prepare, 15, "python -m training prepare", 2),
    "adapter": Stage(("prepare",), _adapter, 60, "python -m training train", 2, together=True),
}
"""As stages.STAGES. Minutes of two cores; on a GPU those stages that can be there take a twentieth."""
