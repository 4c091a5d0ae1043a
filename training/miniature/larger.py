"""The stages of the second design, 256 x 192 px: an autoencoder of its own, many latents, and the base that is trained on them.

What sees faces (vision tower, detector, recognizer, judge) and what reads sentences (text towers) is taken as it ships: it was
trained on faces of 33 to 60 px, works at either size, and the judge stays the same for all tables.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dhumandiff.miniature import weights
from dhumandiff.miniature.design import DESIGN, FIRST, SECOND, SHIPPED
from dhumandiff.miniature.world import Identity, people, sample_couple, write_dataset
from dhumandiff.miniature.world.dice import Dice

from .stages import (
    CONFIGS,
    MEETINGS,
    PEOPLE,
    Stage,
    configs_of,
    draw_parts_pictures,
    save_adapter,
    train_adapter,
    train_parts2whole,
    train_told_reader,
)

if TYPE_CHECKING:
    from .latents import Latents

__all__ = ["STAGES", "mostly_young"]

Couple = Callable[[int, Sequence[Identity]], tuple[Identity, Identity]]

PICTURES, AUTOENCODER_STEPS, DECODER_STEPS = 6_000, 1_000, 3_500
REDRAWN = 4_000
"""Pictures that the base draws anew for the decoder."""
LATENTS, BASE_STEPS = 48_000, 10_000
MORE, SMALL, LONGER_STEPS = 72_000, 12_000, 2_023
"""Further pictures, small ones (of the first design's size) and steps of the base on a GPU."""
SMALL_FROM = 30_000_000
"""Seed of the first small picture."""
TOLD = 0.5
"""Share of the adapter's pictures whose sentences say expressions and turns of heads, as half of the base's do."""
NO_IDENTITY = "no_identity.safetensors"
"""The adapter before its losses on likeness, in the run's folder runs: it is a row of the table, too."""
YOUNG = 0.9
"""Share of pictures of two young people in the unequal data."""
HOW = {"bf16": True, "decay": 0.5, "save_minutes": 2.0}
"""How `fit` trains the autoencoder."""
TAKEN = ("vision", "detector", "recogniser", "judge", "text_encoder", "text_encoder_2")


def _parts(folder: Path) -> None:
    (folder / "weights").mkdir(exist_ok=True)
    for name in TAKEN:
        shutil.copyfile(SHIPPED / f"{name}.safetensors", folder / "weights" / f"{name}.safetensors")


def _workers(device: str) -> int:
    """Processes that draw: a machine with a GPU has cores to spare."""
    return 1 if device == "cpu" else os.cpu_count() or 1


def _pictures(folder: Path) -> None:
    from .renders import render_pictures

    render_pictures(folder / "pictures", PICTURES, 1, size=DESIGN.size)


def _autoencoder(folder: Path, device: str) -> None:
    from .autoencoder import train_autoencoder
    from .renders import Renders

    vae = train_autoencoder(folder, Renders(folder / "pictures"), AUTOENCODER_STEPS, device, **HOW)
    weights.save_part("vae", vae.state_dict(), folder / "weights")


def _redrawn(folder: Path, device: str) -> None:
    from dhumandiff.miniature.base import mini_text_encoders, mini_unet, mini_vae

    from .autoencoder import encode_all
    from .base import Texts
    from .redrawn import redraw
    from .renders import Renders

    renders = Renders(folder / "pictures")
    latents, said = encode_all(mini_vae(), renders["images"][:REDRAWN]), renders.descriptions()[:REDRAWN]
    redraw(folder / "redrawn.npy", latents, said, mini_unet(), Texts(*mini_text_encoders()), device)


def _decoder(folder: Path, device: str) -> None:
    import numpy as np
    import torch

    from dhumandiff.miniature.base import mini_vae

    from .autoencoder import train_sharp_decoder
    from .renders import Renders

    renders, redrawn = Renders(folder / "pictures"), torch.from_numpy(np.load(folder / "redrawn.npy")).float()
    vae = train_sharp_decoder(folder, mini_vae().to(device), renders, DECODER_STEPS, redrawn, **HOW)
    weights.save_part("vae", vae.state_dict(), folder / "weights")


def _latents(name: str, count: int, first: int, size: tuple[int, int]) -> Callable[[Path, str], None]:
    def run(folder: Path, device: str) -> None:
        from dhumandiff.miniature.base import mini_vae

        from .latents import draw_latents, draw_strangers

        draw = partial(draw_strangers, size=size)
        draw_latents(folder / name, mini_vae().to(device), count, first, _workers(device), draw)

    return run


def _words(folder: Path) -> None:
    from .latents import Latents
    from .told_words import new_words, teach_face_words

    descriptions = Latents.load(folder / "latents").descriptions
    if len(new_words(descriptions)):  # else the towers that were taken know them: this design ships by then
        teach_face_words(folder, descriptions, folder / "weights")


def _base(folder: Path, device: str) -> None:
    from .base import FRESH
    from .latents import Latents

    _train_base(folder, device, Latents.load(folder / "latents"), BASE_STEPS, course=FRESH)


def _base_longer(folder: Path, device: str) -> None:
    from .base import LONGER
    from .latents import Latents

    more, small = (Latents.load(folder / name) for name in ("latents_more", "latents_small"))
    _train_base(folder, device, more, LONGER_STEPS, course=LONGER, small=small)


def _train_base(folder: Path, device: str, data: Latents, steps: int, **how: Any) -> None:
    from accelerate import Accelerator

    from dhumandiff.miniature.base import mini_text_encoders

    from .base import Texts, train_base

    accelerator = Accelerator(cpu=device == "cpu")
    unet = train_base(folder, data, Texts(*mini_text_encoders()), steps, accelerator, **how)
    if accelerator.is_main_process:
        weights.save_part("unet", unet.state_dict(), folder / "weights")


def mostly_young(seed: int, pool: Sequence[Identity]) -> tuple[Identity, Identity]:
    """Who meets in a data set as unequal as those of weddings are: two young people, but for one picture in ten."""
    young = [who for who in pool if who.age == "young"]
    return sample_couple(seed, young if Dice("unequal", seed).chance(YOUNG) else pool)


def _data(couple: Couple, name: str) -> Callable[[Path], None]:
    def run(folder: Path) -> None:
        seeds = range(20_000_000, 20_000_000 + MEETINGS)
        pool = people("train", PEOPLE)
        write_dataset(folder / name, seeds, pool, references=4, size=DESIGN.size, couple=couple, tell=TOLD)

    return run


def _prepare(data: str, shards: str) -> Callable[[Path, str], None]:
    def run(folder: Path, device: str) -> None:
        from ..prepare import main

        main(
            [
                *configs_of("prepare"),
                "--data",
                str(folder / data),
                "--out",
                str(folder / shards),
                "--device",
                device,
                "--workers",
                str(max(_workers(device), 2)),
            ]
        )

    return run


def _adapter(folder: Path, _: str) -> None:
    if train_adapter(folder, "adapter"):
        save_adapter(folder / "runs" / "adapter", folder / "runs" / NO_IDENTITY)


def _likeness(folder: Path, _: str) -> None:
    config = ("--config", str(CONFIGS / "mini_256_likeness.yaml"))
    if train_adapter(folder, "likeness", (*config, "--init.weights", str(folder / "runs" / NO_IDENTITY))):
        save_adapter(folder / "runs" / "likeness", folder / "weights" / "adapter.safetensors")


STAGES: dict[str, Stage] = {
    "parts": Stage((), _parts, 0.1, "take the parts that see and read as they ship"),
    "pictures": Stage((), _pictures, 1, "draw pictures of strangers"),
    "autoencoder": Stage(("pictures",), _autoencoder, 15, "train the autoencoder", on_device=True),
    "latents": Stage(
        ("autoencoder", "parts"),
        _latents("latents", LATENTS, 0, SECOND.size),
        20,
        "draw and encode many pictures",
        on_device=True,
    ),
    "words": Stage(("latents",), _words, 2, "teach the text towers to say what faces do"),
    "base": Stage(("words",), _base, 150, "train the UNet", 2, together=True, on_device=True),
    "latents_more": Stage(
        ("latents",),
        _latents("latents_more", MORE, LATENTS, SECOND.size),
        30,
        "further ones",
        on_device=True,
        on_gpu=True,
    ),
    "latents_small": Stage(
        ("latents",),
        _latents("latents_small", SMALL, SMALL_FROM, FIRST.size),
        2,
        "small ones",
        on_device=True,
        on_gpu=True,
    ),
    "base_longer": Stage(
        ("base", "latents_more", "latents_small"),
        _base_longer,
        400,
        "train the UNet on",
        2,
        together=True,
        on_device=True,
        on_gpu=True,
    ),
    "data": Stage(("latents",), _data(sample_couple, "data"), 4, "write the adapter's data set"),
    "redrawn": Stage(("base", "base_longer"), _redrawn, 8, "let the base draw pictures anew", on_device=True),
    "decoder": Stage(("redrawn",), _decoder, 15, "teach the decoder to make up for the base's errors", on_device=True),
    "prepare": Stage(
        ("data", "base", "base_longer"), _prepare("data", "shards"), 15, "python -m training prepare", 2, on_device=True
    ),
    "adapter": Stage(("prepare",), _adapter, 65, "python -m training train", 2, together=True, on_device=True),
    "likeness": Stage(
        ("adapter",), _likeness, 17, "the same with losses on likeness", 2, together=True, on_device=True
    ),
    "parts_pictures": Stage(
        ("decoder",), draw_parts_pictures, 15, "draw couples and pictures of their parts", for_rows=True
    ),
    "parts2whole": Stage(("parts_pictures",), train_parts2whole, 160, "train Parts2Whole", for_rows=True),
    "told_reader": Stage(("decoder",), train_told_reader, 3, "train who reads expressions", for_rows=True),
    "data_unequal": Stage(
        ("latents",), _data(mostly_young, "data_unequal"), 4, "write data of mostly young people", for_rows=True
    ),
    "prepare_unequal": Stage(
        ("data_unequal", "base", "base_longer"),
        _prepare("data_unequal", "shards_unequal"),
        15,
        "prepare them",
        2,
        on_device=True,
        for_rows=True,
    ),
}
"""As stages.STAGES. Minutes of two cores; on a GPU those stages that can be there take a twentieth."""
