"""The first hour on a new card, as far as a command can do it: the CPU's picture, precision, waits, a portrait's memory, training's
averages and validation, face models."""

from __future__ import annotations

import dataclasses
import json
import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dhumandiff.hosts.diffusers.attention import attach
from dhumandiff.hosts.diffusers.parts import sdxl_scheduler, sdxl_tokenizer
from dhumandiff.hosts.diffusers.pipeline import PortraitPipeline
from dhumandiff.hosts.diffusers.single_file import CONFIGS
from dhumandiff.methods.paired.cascade_modes import make_mode
from dhumandiff.methods.paired.settings import CascadeSettings, SamplingSettings
from dhumandiff.optional import require
from dhumandiff.testing import tiny_adapter, tiny_pipeline, tiny_unet

from ..comfyui import ROOT
from ..peak import peak, reset_peak
from .bases import Inputs, adapter_for, empty_sdxl, fill, people_for, sdxl_unet
from .inference import DTYPES, Sampler
from .measure import clear, guarded, wait
from .setup import Setup

__all__ = ["cases"]

MODES = ("none", "one_pass", "two_strength", "released")
SENTENCE = "A man@1 and a woman@2 in a garden"
OURS = str(ROOT)


def cases(setup: Setup) -> dict[str, Callable[[], dict[str, Any]]]:
    """By name; each says what is looked at in its own words."""
    sizes = (64,) if setup.small else (512, 1024)
    return {
        "same picture as on the CPU": partial(_same_picture, setup),
        "fp16 and bf16 beside fp32": partial(_precision, setup),
        "waits from the second step on": partial(_waits, setup),
        **{
            f"portrait {size}px {'models take turns' if turns else 'all models on the card'}": partial(
                _portrait, setup, size, turns
            )
            for size in sizes
            for turns in (False, True)
        },
        "averages on the CPU": partial(_averages, setup),
        "memory of a validation": partial(_validation, setup),
        "face models": partial(_faces, setup),
    }


def _same_picture(setup: Setup) -> dict[str, Any]:
    """The tiny SDXL in fp32 by each mode: the largest difference of latents beside their largest value, and the share of places in
    which the focus masks agree."""
    told: dict[str, Any] = {}
    for mode in MODES:
        made = [_latents(device, mode) for device in ("cpu", setup.device)]
        (ours, focus), (other, same) = made
        told[f"{mode}_difference"] = float((ours - other).abs().max() / ours.abs().max())
        if focus is not None:
            told[f"{mode}_focus_agrees"] = float((focus == same).float().mean())
    return told


def _latents(device: str, mode: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    portrait, adapter = PortraitPipeline(tiny_pipeline(), device, offload=False), tiny_adapter().to(device)
    people, sampling = people_for(adapter), SamplingSettings(steps=8, size=(128, 128))
    cascade = CascadeSettings(mode)
    with torch.no_grad(), attach(portrait.pipeline.unet, adapter, people, cascade.strength) as attached:
        torch.manual_seed(0)
        random = torch.Generator().manual_seed(3)
        config = portrait.pipeline.unet.config
        text = torch.randn(2, 77, config.cross_attention_dim, generator=random)
        pooled = torch.randn(2, config.projection_class_embeddings_input_dim - 6 * 256, generator=random)
        rows = [(text[row : row + 1], pooled[row : row + 1]) for row in (0, 1)]
        conditions = portrait.conditions([rows[0]], rows[1], sampling.size)
        started = make_mode(cascade)
        latent = portrait.loop(attached, conditions, sampling, [0]).run(portrait.noise(0, sampling.size), started)
    focus = None if started.focus is None else started.focus[0].cpu()
    return latent.cpu(), focus


def _precision(setup: Setup) -> dict[str, Any]:
    """One guided prediction of the tiny SDXL with two people: root mean square of the difference to fp32, beside that of fp32."""
    told, whole = {}, None
    for name, dtype in {"fp32": torch.float32, **DTYPES}.items():
        unet = tiny_unet().to(setup.device, dtype)
        adapter = adapter_for(unet)
        inputs = Inputs(unet, 1, 16)
        torch.manual_seed(0)
        conditions = inputs.conditions()
        noise = inputs.noise().repeat(2, 1, 1, 1).to(setup.device, dtype)
        if whole is None:
            kept = conditions
        cast = {"device": setup.device, "dtype": dtype}
        given = {
            "encoder_hidden_states": kept["encoder_hidden_states"].to(**cast),
            "added_cond_kwargs": {key: value.to(**cast) for key, value in kept["added_cond_kwargs"].items()},
        }
        with torch.no_grad(), attach(unet, adapter, people_for(adapter)):
            made = unet(noise, 500, **given).sample.float()
        if whole is None:
            whole = made
        else:
            told[f"{name}_error"] = float((made - whole).square().mean().sqrt() / whole.square().mean().sqrt())
            told[f"{name}_finite"] = bool(torch.isfinite(made).all())
    return told


def _waits(setup: Setup) -> dict[str, Any]:
    """Warnings of CUDA that name a line of ours, by each mode, from the second step on; null where there is no CUDA."""
    unet = sdxl_unet(setup, torch.float16)
    sampler = Sampler(setup, unet, 512, 1)
    told: dict[str, Any] = {}
    for name in ("pair", "pair_masks", "one_pass", "two_strength", "released"):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            sampler.run(name, progress=partial(_watch, setup.device, sampler.steps))()
            _watch(setup.device, 0, 0, 0)
        lines = sorted({f"{Path(one.filename).name}:{one.lineno}" for one in seen if one.filename.startswith(OURS)})
        told[name] = None if setup.device != "cuda" else lines
    return told


def _watch(device: str, steps: int, done: int, _: int) -> None:
    """After a step: CUDA warns of waits in all steps but the first and the last of a pass."""
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("warn" if steps and 0 < done % steps < steps - 1 else "default")


def _portrait(setup: Setup, size: int, turns: bool) -> dict[str, Any]:
    """What `generate` does, from words to the picture, with models of SDXL's own sizes in fp16: highest memory, and seconds."""
    from .training import adapter_file

    if setup.small:
        pipeline, adapter = tiny_pipeline(), tiny_adapter()
    else:
        from dhumandiff import Adapter

        work = setup.work / "real"
        work.mkdir(parents=True, exist_ok=True)
        pipeline = _sdxl_pipeline()
        adapter = Adapter.from_pretrained(adapter_file(work / "adapter.safetensors", small=False)).half()
    told: dict[str, Any] = {}

    def draw() -> None:
        reset_peak(setup.device)
        portrait = PortraitPipeline(pipeline, setup.device, offload=turns)
        on_card = adapter if turns else adapter.to(setup.device)
        sampling = SamplingSettings(steps=2 if setup.small else 8, size=(size, size))
        began = time.perf_counter()
        portrait(on_card, people_for(adapter), SENTENCE, sampling=sampling)
        wait(setup.device)
        told["seconds"] = time.perf_counter() - began

    failed = guarded(draw, setup.device)
    told["peak"] = peak(setup.device)
    for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2, adapter):
        part.to("cpu")
    clear(setup.device)
    return failed or told


def _sdxl_pipeline() -> Any:
    """All of SDXL with random weights in fp16, on the CPU."""
    import transformers

    half = torch.float16

    def text(kind: str, part: str) -> Any:
        config = transformers.CLIPTextConfig(**json.loads((CONFIGS / "sdxl" / part / "config.json").read_text()))
        return getattr(transformers, kind)(config).to(half).eval()

    return require("diffusers").StableDiffusionXLPipeline(
        vae=fill(empty_sdxl("AutoencoderKL", "vae").to(half).to_empty(device="cpu")),
        text_encoder=text("CLIPTextModel", "text_encoder"),
        text_encoder_2=text("CLIPTextModelWithProjection", "text_encoder_2"),
        tokenizer=sdxl_tokenizer(),
        tokenizer_2=sdxl_tokenizer(second=True),
        unet=fill(empty_sdxl("UNet2DConditionModel", "unet").to(half).to_empty(device="cpu")),
        scheduler=sdxl_scheduler(),
        add_watermarker=False,
    )


def _averages(setup: Setup) -> dict[str, Any]:
    """Averages kept on the CPU beside those kept on the device, after 20 steps with work waiting in the queue."""
    from training.run.optim import EMA

    side = 64 if setup.small else 4096
    module = torch.nn.Linear(side, side, bias=False).to(setup.device)
    there, here = EMA(module, 0.99), EMA(module, 0.99, "cpu")
    for _ in range(20):
        with torch.no_grad():
            busy = module.weight @ module.weight  # the copy to the CPU has to wait for this
            module.weight.mul_(1.01).add_(busy, alpha=1e-9)
        there.update()
        here.update()
    differences = [(value.cpu() - here.weights[name]).abs().max() for name, value in there.weights.items()]
    return {"largest_difference": float(max(differences)), "agree": float(max(differences)) <= 1e-6}


def _validation(setup: Setup) -> dict[str, Any]:
    """Peak of a validation over one batch and over eight: no batch is to hold on to what the others need."""
    from training.run.setup import setup as set_up
    from training.run.validation import validate

    from .training import PRESETS, config_for

    small = dataclasses.replace(setup, small=True)  # the tiny base: what is looked at is whether memory grows
    state = set_up(config_for(small, PRESETS[2], 64, False, {"data.micro_batch_size": "1"}))
    told: dict[str, Any] = {}
    for count in (1, 8):
        data = dataclasses.replace(state.config.data, validation_batches=count)
        config = dataclasses.replace(state.config, data=data)
        clear(setup.device)
        reset_peak(setup.device)
        validate(state.model, state.objectives, config, state.data, state.accelerator)
        told[f"{count}_batches_bytes"] = peak(setup.device)
    return told


def _faces(setup: Setup) -> dict[str, Any]:
    """Seconds for the first and the second photo by each provider of ONNX Runtime, where a folder with photos and a pack is named."""
    root = os.environ.get("DHUMANDIFF_TEST_FACES")
    if not root:
        return {"not_measured": "DHUMANDIFF_TEST_FACES names no folder with models/mini and photos"}
    import numpy as np
    import onnxruntime
    from PIL import Image

    from dhumandiff.faces import InsightFaceAnalyzer

    photos = sorted((Path(root) / "photos").glob("*.jpg"))[:2]
    told: dict[str, Any] = {}
    for provider in ("CPU", "CUDA"):
        if f"{provider}ExecutionProvider" not in onnxruntime.get_available_providers():
            told[provider] = {
                "not_measured": f"onnxruntime {onnxruntime.__version__} has no {provider}ExecutionProvider"
            }
            continue
        analyzer = InsightFaceAnalyzer.from_pack("mini", root=root, provider=provider)
        seconds = []
        for photo in photos:
            pixels = np.asarray(Image.open(photo).convert("RGB"))
            began = time.perf_counter()
            analyzer.detect(pixels)
            seconds.append(time.perf_counter() - began)
        told[provider] = dict(zip(("first_photo_seconds", "second_photo_seconds"), seconds, strict=False))
    return told
