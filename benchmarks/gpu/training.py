"""Training with the presets as they ship, from random shards on a random SDXL: samples a second, memory, and where a step goes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dhumandiff.methods.paired.adapter import Adapter
from dhumandiff.methods.paired.projections import FaceProjection, IdentityProjection, PairedKeysValues, SubjectMapping
from dhumandiff.testing import METADATA, tiny_adapter

from ..comfyui import ROOT
from ..peak import peak, reset_peak
from .bases import empty_sdxl, fill
from .measure import clear, guarded, wait
from .setup import Setup
from .shards import REAL, TINY, write_shards

__all__ = ["PRESETS", "adapter_file", "cases", "config_for", "recognizer", "tiny_recognizer"]

CONFIGS = ROOT / "training" / "configs"
PRESETS = ("sdxl_12gb", "sdxl_16gb", "sdxl_24gb", "sdxl_48gb")
HIDDEN = [640] * 4 + [1280] * 50 + [640] * 6 + [1280] * 10
SAMPLES = 64
PUBLISHED = 32.0
"""GPU-hours that the paper trained; of how many samples it does not say."""

IDENTITY = {"weight": 0.1, "infonce_weight": 0.1, "negatives": 64, "decode_crop": 48}
"""As in phase_3_pairs.yaml, but for the bank: there are few people in the random data."""


def cases(setup: Setup, preset: str) -> dict[str, Callable[[], dict[str, Any]]]:
    """Both picture sizes, each without and with the losses on who is in the picture; of the largest card also what gives back time for
    memory."""
    made = {
        f"{size}px{'_identity' if identity else ''}": partial(_measured, setup, preset, size, identity, {})
        for size in (512, 1024)
        for identity in (False, True)
    }
    if preset == PRESETS[-1]:
        for micro in (8, 16):
            more = {"base.gradient_checkpointing": "false", "data.micro_batch_size": str(micro)}
            name = f"512px_kept_activations_micro{micro}"
            made[name] = partial(_measured, setup, preset, 512, False, more)
    return made


def recognizer() -> Any:
    """A recognizer as large as ArcFace's ResNet-50, with random weights."""
    return _recognizer((3, 4, 14, 3), (64, 128, 256, 512))


def tiny_recognizer() -> Any:
    """The same with few and narrow layers."""
    return _recognizer((1, 1, 1, 1), (8, 8, 8, 8))


def _recognizer(depths: tuple[int, ...], widths: tuple[int, ...]) -> Any:
    from training.recognizers import ArcFace

    layers: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, padding=1), nn.PReLU(widths[0])]
    before = widths[0]
    for depth, width in zip(depths, widths, strict=True):
        for number in range(depth):
            layers.append(_Block(before, width, stride=1 if number else 2))
            before = width
    layers += [nn.Flatten(), nn.Linear(7 * 7 * before, 512)]
    return ArcFace(fill(nn.Sequential(*layers)))


class _Block(nn.Module):
    def __init__(self, into: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(into),
            nn.Conv2d(into, out, 3, padding=1, bias=False),
            nn.PReLU(out),
            nn.Conv2d(out, out, 3, stride=stride, padding=1, bias=False),
        )
        self.beside = (
            nn.Identity() if stride == 1 and into == out else nn.Conv2d(into, out, 1, stride=stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.beside(x)


def _measured(setup: Setup, preset: str, size: int, identity: bool, more: dict[str, str]) -> dict[str, Any]:
    told: dict[str, Any] = {}
    config = config_for(setup, preset, size, identity, more)
    failed = guarded(partial(_run, setup, config, told), setup.device)
    return told | (failed or {})


def _run(setup: Setup, config: Any, told: dict[str, Any]) -> None:
    from training.run.estimate import estimated
    from training.run.loop import train_step
    from training.run.setup import open_stream
    from training.run.setup import setup as set_up
    from training.run.timing import StepTimer

    batch, least, most = config.data.batch_size, (1, 2) if setup.small else (3, 20), 0 if setup.small else 60
    told["estimated_bytes"] = int(estimated(config).total * 2**30)
    clear(setup.device)
    reset_peak(setup.device)
    state = set_up(config)
    with open_stream(state) as stream:

        def step() -> None:
            train_step(state, next(stream).batches, StepTimer())

        step()  # warms up, and makes the optimizer's state
        wait(setup.device)
        began, seconds = time.perf_counter(), []
        while len(seconds) < least[0] or (len(seconds) < least[1] and time.perf_counter() - began < most):
            started = time.perf_counter()
            step()
            wait(setup.device)
            seconds.append(time.perf_counter() - started)
        told["peak_bytes"] = peak(setup.device)
        with _inside_unet(state.model, setup.device) as inside:
            started = time.perf_counter()
            step()
            wait(setup.device)
            whole = time.perf_counter() - started
    rate = batch * len(seconds) / sum(seconds)
    told |= {
        "samples_per_second": rate,
        "seconds_a_step": sum(seconds) / len(seconds),
        "steps": len(seconds),
        "micro_batch": config.data.micro_batch_size,
        "unet_share": sum(inside) / whole,
        "hours_for_our_recipe": config.steps * batch / rate / 3600,
        "samples_in_32_gpu_hours": PUBLISHED * 3600 * rate,
    }


@contextmanager
def _inside_unet(model: Any, device: str) -> Iterator[list[float]]:
    """Seconds of every pass forward and backward through the UNet, with the people's attention in it.

    Backward begins when the gradient of the prediction arrives, and ends with that of the face tokens or of the text, whichever comes
    last. The waits on the way cost a little.
    """
    seconds: list[float] = []
    predict = model.predict

    def timed(
        noisy: Tensor, timesteps: Tensor, text: Tensor, pooled: Any, ids: Tensor, tokens: Any, record: bool = False
    ) -> Tensor:
        wait(device)
        started = time.perf_counter()
        out = predict(noisy, timesteps, text, pooled, ids, tokens, record=record)
        wait(device)
        seconds.append(time.perf_counter() - started)
        marks = {"begin": 0.0, "end": 0.0}

        def mark(name: str, gradient: Tensor) -> None:
            wait(device)
            marks[name] = time.perf_counter()
            if name == "end":
                seconds[place] = marks["end"] - marks["begin"]

        if out.requires_grad:
            place = len(seconds)
            seconds.append(0.0)
            out.register_hook(partial(mark, "begin"))
            for value in (text, tokens):
                if value is not None and value.requires_grad:
                    value.register_hook(partial(mark, "end"))
        return out

    model.predict = timed
    try:
        yield seconds
    finally:
        del model.predict


def config_for(setup: Setup, preset: str, size: int, identity: bool, more: dict[str, str]) -> Any:
    """A preset as it ships, on random data, base and weights, which are made if they are not there.

    Args:
        setup: on what.
        preset: name of a file in training/configs/.
        size: of the pictures, px.
        identity: whether the losses on who is in the picture are switched on.
        more: settings that override.
    """
    from training.parsing import parse
    from training.run.config import TrainConfig

    if setup.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    work = setup.work / ("small" if setup.small else "real")
    work.mkdir(parents=True, exist_ok=True)
    side = 64 if setup.small else size
    shards = write_shards(work / f"shards_{side}", side, 8 if setup.small else SAMPLES, TINY if setup.small else REAL)
    words = [
        "--config",
        str(CONFIGS / ("tiny.yaml" if setup.small else "sdxl.yaml")),
        "--config",
        str(CONFIGS / f"{preset}.yaml"),
    ]
    values = {
        "base.path": "tiny" if setup.small else str(_base(work / "sdxl")),
        "data.folders": json.dumps([{"path": str(shards)}]),
        "data.batch_size": "16" if setup.small else "32",
        "data.shuffle_buffer": "16",
        "init.weights": str(adapter_file(work / "adapter.safetensors", setup.small)),
        "logging.samples_every": "0",
        "run": str(work / "run"),
        **more,
    }
    if identity:
        values |= {f"objectives.identity.{name}": str(value) for name, value in IDENTITY.items()}
        named = "tiny_recognizer" if setup.small else "recognizer"
        values["objectives.identity.recognizer"] = f"benchmarks.gpu.training:{named}"
    for name, value in values.items():
        words += [f"--{name}", value]
    return parse(TrainConfig, "train", words)[0]


def _base(folder: Path) -> Path:
    """SDXL's parts that training reads, in fp16, as a diffusers folder."""
    if (folder / "scheduler" / "scheduler_config.json").exists():
        return folder
    import transformers

    from dhumandiff.hosts.diffusers.parts import sdxl_scheduler
    from dhumandiff.hosts.diffusers.single_file import CONFIGS as SHIPPED

    for kind, part in (("UNet2DConditionModel", "unet"), ("AutoencoderKL", "vae")):
        fill(empty_sdxl(kind, part).half().to_empty(device="cpu")).save_pretrained(folder / part)
    told = json.loads((SHIPPED / "sdxl" / "text_encoder" / "config.json").read_text())
    transformers.CLIPTextModel(transformers.CLIPTextConfig(**told)).half().save_pretrained(folder / "text_encoder")
    sdxl_scheduler().save_pretrained(folder / "scheduler")  # last: a folder with it is whole
    return folder


def adapter_file(path: Path, small: bool) -> Path:
    """An adapter of the released sizes to train on from, fp16."""
    if path.exists():
        return path
    if small:
        tiny_adapter().save_pretrained(path)
        return path
    wide = {"width": 1280, "hidden_width": 1280, "inner": 1280, "ffn_width": 5120, "depth": 4}
    narrow = {"width": 1024, "hidden_width": 1280, "inner": 1024, "ffn_width": 4096, "depth": 4, "out_width": 1024}
    parts: dict[str, nn.Module] = {
        "face_projection": FaceProjection(tokens=16, out_width=REAL["context"], **wide),
        "identity_projection": IdentityProjection(512, 1024, 1024, narrow),
        "mapping": SubjectMapping(REAL["text"] + 1024, 1024, REAL["text"]),
        "attention": nn.ModuleList(PairedKeysValues(REAL["context"], width) for width in HIDDEN),
    }
    tensors = {
        f"{part}.{name}": tensor
        for part, module in parts.items()
        for name, tensor in fill(module.half()).state_dict().items()
    }
    Adapter.from_tensors(tensors, METADATA).save_pretrained(path)
    return path
