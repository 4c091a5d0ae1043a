"""Sampling with people beside sampling without: the diffusers host's own loop, and diffusers' own two IP-Adapters as the peer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dhumandiff.hosts.diffusers.attention import Attached, attach, cross_attention_layers
from dhumandiff.hosts.diffusers.parts import sdxl_scheduler
from dhumandiff.hosts.diffusers.sampling import DenoisingLoop
from dhumandiff.methods.paired.cascade_modes import make_mode
from dhumandiff.methods.paired.projections import FaceProjection
from dhumandiff.methods.paired.settings import CascadeSettings, SamplingSettings

from .bases import Inputs, adapter_for, fill, people_for, sdxl_unet, two_sides
from .measure import Run, by_turns, clear
from .setup import Setup

__all__ = ["DTYPES", "VARIANTS", "Sampler", "cases", "name_of"]

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}

VARIANTS = {
    "plain": ("none", False),
    "pair": ("none", False),
    "pair_masks": ("none", True),
    "one_pass": ("one_pass", False),
    "two_strength": ("two_strength", False),
    "released": ("released", False),
    "ip_adapters": ("none", False),
    "ip_adapters_masks": ("none", True),
}
"""Variant -> mode of the cascade, and whether there is a mask for each person."""

STEPS, ROUNDS = 4, 8


def name_of(size: int, images: int, dtype: str) -> str:
    """Of a case."""
    return f"{size}px_batch{images}_{dtype}"


def cases(setup: Setup, size: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """Each number of pictures and precision; a card's own UNet is made once a precision."""
    kept: dict[str, Any] = {}

    def measure(images: int, dtype: str) -> dict[str, Any]:
        if dtype not in kept:
            kept.clear()
            clear(setup.device)
            kept[dtype] = sdxl_unet(setup, DTYPES[dtype])
        sampler = Sampler(setup, kept[dtype], size, images)
        makers = {name: partial(sampler.run, name) for name in VARIANTS}
        told = by_turns(makers, setup.device, rounds=1 if setup.small else ROUNDS, steps=sampler.steps)
        return {"steps": sampler.steps, "variants": told}

    return {
        name_of(size, images, dtype): lambda images=images, dtype=dtype: measure(images, dtype)
        for dtype in DTYPES
        for images in ((1,) if setup.small else (1, 4))
    }


class Sampler:
    """Runs of a few steps from noise to latents, on one UNet that people are put on for as long as a run takes.

    Args:
        setup: on what.
        unet: of SDXL's kind.
        size: of a picture, px; small ones are 64.
        images: pictures at a time.
    """

    def __init__(self, setup: Setup, unet: Any, size: int, images: int) -> None:
        self.setup, self.unet, self.steps = setup, unet, 2 if setup.small else STEPS
        side = (64 if setup.small else size) // 8
        self.inputs = Inputs(unet, images, side)
        self.noise, self.conditions = self.inputs.noise(), self.inputs.conditions()
        self.masks = two_sides(side, side)
        self.plain = _processors(unet)
        self.scheduler = sdxl_scheduler()
        self._adapter: Any = None
        self._loaded: Any = None

    def run(self, name: str, call: Any = None, progress: Callable[[int, int], None] | None = None) -> Run:
        """What makes a run of a variant.

        Args:
            name: of the variant.
            call: what predicts, in place of the UNet itself (compiled, say).
            progress: called after each step, see `DenoisingLoop`.
        """
        mode, masks = VARIANTS[name]
        if name == "plain":
            return self._run_of(mode, call, progress, self.conditions, self.plain)
        if name.startswith("ip_adapters"):
            return self._run_of(mode, call, progress, *self._ip_adapters(masks))
        attached = self._people(masks)
        processors = _processors(self.unet)
        attached._hook.remove()  # people are put back on for a run
        _put(self.plain)
        return self._run_of(mode, call, progress, self.conditions, processors, attached=attached)

    def _people(self, masks: bool) -> Attached:
        """Two people with ready keys and values; the weights they were made with leave the device."""
        if self._adapter is None:
            self._adapter = adapter_for(self.unet)
        adapter = self._adapter.to(self.setup.device)
        attached = attach(self.unet, adapter, people_for(adapter), masks=self.masks if masks else None)
        try:
            attached.people.finish(attached.layers, torch.device(self.setup.device), self.unet.dtype)
        except RuntimeError:  # no memory: the next variant finds the UNet as it was
            attached.detach()
            raise
        finally:
            adapter.to("cpu")
        return attached

    def _run_of(
        self,
        mode: str,
        call: Any,
        progress: Callable[[int, int], None] | None,
        conditions: dict[str, Any],
        processors: dict[Any, Any],
        projection: nn.Module | None = None,
        attached: Attached | None = None,
    ) -> Run:
        def run() -> Tensor:
            unet = self.unet if call is None else call
            parts = (unet, self.scheduler, attached, conditions, SamplingSettings(steps=self.steps))
            loop = DenoisingLoop(*parts, range(len(self.noise)), progress, batched=self.setup.device != "cpu")
            with torch.no_grad(), self._put_on(processors, projection, attached):
                return loop.run(self.noise, make_mode(CascadeSettings(mode)))

        return run

    @contextmanager
    def _put_on(self, processors: dict[Any, Any], projection: nn.Module | None, attached: Any) -> Iterator[None]:
        _put(processors)
        self.unet.encoder_hid_proj = projection
        hook = None if attached is None else self.unet.register_forward_pre_hook(attached._on_call, with_kwargs=True)
        try:
            yield
        finally:
            _put(self.plain)
            self.unet.encoder_hid_proj = None
            if hook is not None:
                hook.remove()

    def _ip_adapters(self, masks: bool) -> tuple[dict[str, Any], dict[Any, Any], nn.Module]:
        """Conditions, processors and projection of two IP-Adapters Plus with random weights, loaded as diffusers does it."""
        where = {"device": self.unet.device, "dtype": self.unet.dtype}
        if self._loaded is None:
            self._loaded = self._load_ip_adapters(where)
        tokens, wide = (50, 64) if self.setup.small else (257, 1280)
        faces = [torch.randn(2 * len(self.noise), 1, tokens, wide, **where) for _ in range(2)]
        added = {**self.conditions["added_cond_kwargs"], "image_embeds": faces}
        conditions = {**self.conditions, "added_cond_kwargs": added}
        if masks:
            conditions["cross_attention_kwargs"] = {"ip_adapter_masks": [mask[None].to(**where) for mask in self.masks]}
        return conditions, *self._loaded

    def _load_ip_adapters(self, where: dict[str, Any]) -> tuple[dict[Any, Any], nn.Module]:
        unet = self.unet
        context, wide = unet.config.cross_attention_dim, (64 if self.setup.small else 1280)
        inside = {"width": wide, "hidden_width": wide, "inner": wide, "ffn_width": 4 * wide, "depth": 4}
        made = fill(FaceProjection(tokens=16, out_width=context, **inside))
        weights = {
            f"{2 * layer + 1}.to_{kind}_ip.weight": torch.randn(module.inner_dim, context) * context**-0.5
            for layer, (_, module) in enumerate(cross_attention_layers(unet))
            for kind in "kv"
        }
        state = {"image_proj": made.state_dict(), "ip_adapter": weights}
        unet._load_ip_adapter_weights([state, state], low_cpu_mem_usage=False)
        projection, processors = unet.encoder_hid_proj.to(**where), _processors(unet)
        for processor in processors.values():
            processor.to(**where)
        _put(self.plain)
        unet.encoder_hid_proj = None
        return processors, projection


def _processors(unet: Any) -> dict[Any, Any]:
    return {module: module.processor for _, module in cross_attention_layers(unet)}


def _put(processors: dict[Any, Any]) -> None:
    for module, processor in processors.items():
        module.set_processor(processor)
