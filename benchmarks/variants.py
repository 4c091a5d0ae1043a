"""What is compared: for every variant a function that makes a run of it from a `comfyui.Base`.

Another pack joins the comparison with a function of its own here, like `ip_adapters`.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from .comfyui import Base, _noise

Run = Callable[[], Tensor]
"""One whole run, latents out."""


def plain(base: Base) -> Run:
    """KSampler with nothing on the model."""
    return _run(base, base.guider(base.model))


def pair(base: Base) -> Run:
    """Apply Disparity-Aware Conditioning, no masks."""
    return _run(base, base.guider(_with_pair(base)))


def pair_masks(base: Base) -> Run:
    """The same with a mask for each person."""
    return _run(base, base.guider(_with_pair(base, masks=base.masks)))


def cascade(mode: str, masks: bool = False) -> Callable[[Base], Run]:
    """KSampler (DHumanDiff Cascade), scene 0.7 and faces 1.0."""

    def make(base: Base) -> Run:
        from dhd_pack.dhumandiff.methods.paired.settings import CascadeSettings
        from dhd_pack.nodes.comfy.guider import CascadeGuider

        guider = base.guider(_with_pair(base, masks=base.masks if masks else ()), CascadeGuider)
        guider.set_cascade(CascadeSettings(mode, 0.7, 1.0, 0.10))
        return _run(base, guider)

    return make


def floor(masks: bool = False) -> Callable[[Base], Run]:
    """The least that two people can cost: in every layer two attentions with ready keys and values, and two additions.

    Nothing of what a pack has to do (telling positive from negative, areas, tiles, precisions, other packs): rows are taken
    as [negative, positive] as ComfyUI lays out this run, masks are brought to the layers' size once.
    """

    def make(base: Base) -> Run:
        from comfy.ldm.modules.attention import optimized_attention
        from dhd_pack.nodes.comfy.patch import cross_attention_layers, reference_on

        adapter = base.adapter.model
        people = [reference_on(person, torch.device("cpu")) for person in base.people]
        model = base.model.clone()

        with torch.no_grad():
            negative = torch.stack([adapter.unconditional_tokens(person)[0] for person in people])
            positive = torch.stack([adapter.face_tokens(person)[0] for person in people])
            tokens = torch.stack([negative, positive]).float()
        at = {}

        def fitted(places: int) -> list[Tensor]:
            if places not in at:
                side = int(places**0.5)
                at[places] = [
                    rearrange(torch.nn.functional.adaptive_avg_pool2d(mask[None], side), "1 1 h w -> 1 (h w) 1")
                    for mask in base.masks
                ]
            return at[places]

        def patch(layer: int) -> Callable:
            with torch.no_grad():
                keys, values = adapter.keys_values(layer, tokens)  # [2, P, T, C]
            ready = [tensor[:, person].contiguous() for person in (0, 1) for tensor in (keys, values)]
            placed: dict[torch.device, list[Tensor]] = {}

            def attention(q: Tensor, k: Tensor, v: Tensor, options: dict[str, Any]) -> Tensor:
                heads = options["n_heads"]
                if q.device not in placed:
                    placed[q.device] = [tensor.to(q) for tensor in ready]
                people = placed[q.device]
                out = optimized_attention(q, k, v, heads)
                first, second = (optimized_attention(q, *people[start : start + 2], heads) for start in (0, 2))
                if masks:
                    left, right = (mask.to(q) for mask in fitted(q.shape[1]))
                    return out + first * left + second * right
                return out + first + second

            return attention

        for layer, (key, _) in enumerate(cross_attention_layers(model)):
            model.set_model_attn2_replace(patch(layer), *key)
        return _run(base, base.guider(model))

    return make


def ip_adapters(folder: Path, masks: bool = False) -> Callable[[Base], Run]:
    """Two chained IP-Adapters of ComfyUI_IPAdapter_plus: its own attention, with ready face tokens, one adapter for both."""

    def make(base: Base) -> Run:
        pack = _ip_adapter_plus(folder)
        from dhd_pack.nodes.comfy.patch import cross_attention_layers

        model = base.model.clone()
        # Numbered as in IP-Adapter's files: the odd numbers of all attention layers, in the adapter's order.
        layers = [(key, attention.heads * attention.dim_head) for key, attention in cross_attention_layers(model)]
        weights = {
            f"{2 * number + 1}.to_{what}_ip.weight": _noise(2 * number, width, 2048) * 2048**-0.5
            for number, (_, width) in enumerate(layers)
            for what in "kv"
        }
        adapter = SimpleNamespace(ip_layers=pack.To_KV(weights))
        adapter.get_multigpu_clone = lambda device: adapter
        for person, mask in enumerate(base.masks):
            given = {
                "ipadapter": adapter,
                "weight": 1.0,
                "cond": _noise(21 + person, 1, 16, 2048),
                "uncond": _noise(31 + person, 1, 16, 2048),
                "mask": mask if masks else None,
                "sigma_start": float("inf"),
                "sigma_end": 0.0,
            }
            for number, (key, _) in enumerate(layers):
                pack.set_model_patch_replace(model, {**given, "module_key": str(2 * number + 1)}, key)
        return _run(base, base.guider(model))

    return make


def known(ip_adapter_plus: Path | None = None) -> dict[str, Callable[[Base], Run]]:
    """All variants by name, `plain` first."""
    variants: dict[str, Callable[[Base], Run]] = {
        "plain": plain,
        "floor": floor(),
        "pair": pair,
        "floor_masks": floor(masks=True),
        "pair_masks": pair_masks,
        "one_pass": cascade("one_pass"),
        "one_pass_masks": cascade("one_pass", masks=True),
        "two_strength": cascade("two_strength"),
        "released": cascade("released"),
    }
    if ip_adapter_plus is not None:
        variants["ip_adapters"] = ip_adapters(ip_adapter_plus)
        variants["ip_adapters_masks"] = ip_adapters(ip_adapter_plus, masks=True)
    return variants


def _with_pair(base: Base, masks: Any = ()) -> Any:
    from dhd_pack.nodes.comfy.patch import apply_people

    return apply_people(base.model, base.adapter, base.people, 1.0, masks=masks)


def _run(base: Base, guider: Any) -> Run:
    return lambda: base.sample(guider)


def _ip_adapter_plus(folder: Path) -> Any:
    """The module IPAdapterPlus of a copy of the pack."""
    if "ip_adapter_plus" not in sys.modules:
        if not (folder / "IPAdapterPlus.py").is_file():
            raise SystemExit(f"There is no IPAdapterPlus.py in {folder}: give the folder of ComfyUI_IPAdapter_plus.")
        package = ModuleType("ip_adapter_plus")  # without its __init__.py, which registers nodes
        package.__path__ = [str(folder)]
        sys.modules["ip_adapter_plus"] = package
    return importlib.import_module("ip_adapter_plus.IPAdapterPlus")
