"""What the dual pathway costs beside the pair: one call of the UNet, variants by turns.

    python -m benchmarks.dual --base mini                    # the miniature that ships
    python -m benchmarks.dual --base sdxl --depth 1 --size 256x256 --rounds 3      # SDXL's widths, fewer blocks, random weights

A call is [unconditional; conditional] with two people. Every round calls each variant once; a ratio is taken within a round, and the
median over rounds is told with its quartiles. Times are of the processor, so that other programs count little. Keys and values were
made before, as in a run of many steps. "attention" records where the faces are, as every step does; "pair, one_pass" does so, too.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dhumandiff.miniature.defaults import MINI

from .results import machine, save

PAIR = "pair"
RANK, GROUPS, ROUTER_WIDTH = 16, 10, 64


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and keep its result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dual", description=__doc__.split("\n")[0])
    parser.add_argument("--base", choices=("mini", "sdxl"), default="mini")
    parser.add_argument("--depth", type=int, default=2, help="sdxl: transformer blocks at the deepest level (10)")
    parser.add_argument("--size", help="width x height, px (default: 512x512; mini: its own)")
    parser.add_argument("--rounds", type=int, default=15, help="after one that does not count (default 15)")
    parser.add_argument("--variants", help="names, semicolon between (default: all)")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch (default 1)")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    if given.size is None:
        given.size = MINI["size"] if given.base == "mini" else "512x512"
    calls = _mini(given.size) if given.base == "mini" else _sdxl(given.size, given.depth)
    if given.variants:
        calls = {name: calls[name] for name in dict.fromkeys([PAIR, *given.variants.split(";")])}
    settings = vars(given) | {"dtype": "float32"}
    with torch.no_grad():
        seconds = _by_turns(calls, given.rounds)
    ratios = {
        name: [mine / pair for mine, pair in zip(times, seconds[PAIR], strict=True)] for name, times in seconds.items()
    }
    told = {}
    for name, times in seconds.items():
        quartiles = statistics.quantiles(ratios[name], n=4) if given.rounds > 1 else [ratios[name][0]] * 3
        told[name] = {
            "seconds": statistics.median(times),
            "q1": quartiles[0],
            "ratio": quartiles[1],
            "q3": quartiles[2],
        }
        print(
            f"{name:34} {told[name]['seconds']:8.3f} s  {quartiles[1]:.3f} x ({quartiles[0]:.3f} to {quartiles[2]:.3f})"
        )
    save(f"dual_{given.base}", {"settings": settings, "machine": machine(), "calls": told})


def _by_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        order = list(calls.items())
        for name, call in order[number % len(order) :] + order[: number % len(order)]:  # nobody is always first
            begin = time.process_time()
            call()
            if number:
                seconds[name].append(time.process_time() - begin)
    return seconds


def _mini(size: str) -> dict[str, Callable[[], Any]]:
    from dhumandiff.hosts.diffusers.loading import load_pipeline
    from dhumandiff.miniature import mini_adapter

    unet = load_pipeline("mini", torch.float32).unet
    return variants(unet, mini_adapter(), size)


def _sdxl(size: str, depth: int) -> dict[str, Callable[[], Any]]:
    from diffusers import UNet2DConditionModel

    from dhumandiff.hosts.diffusers.attention import cross_attention_layers
    from dhumandiff.testing import random_adapter

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            in_channels=4,
            out_channels=4,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, min(2, depth), depth),
            attention_head_dim=(5, 10, 20),
            use_linear_projection=True,
            cross_attention_dim=2048,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    unet = unet.to_empty(device="cpu").requires_grad_(False).eval()
    for parameter in unet.parameters():
        parameter.uniform_(-0.01, 0.01)
    return variants(unet, random_adapter([m.inner_dim for _, m in cross_attention_layers(unet)], 2048), size)


def variants(unet: Any, adapter: Any, size: str) -> dict[str, Callable[[], Any]]:
    """A call of each variant, on the device and in the precision that UNet and adapter have.

    Args:
        unet: with as many layers as the adapter.
        adapter: DHumanDiff's.
        size: "width x height", px.
    """
    from dhumandiff.hosts.diffusers.attention import attach, cross_attention_layers
    from dhumandiff.hosts.diffusers.dual_pathway import attach_dual
    from dhumandiff.methods.dual_pathway import DualPathway, DualPathwaySettings, Gates, Router, TextConsistency
    from dhumandiff.methods.dual_pathway.finding import FindRegions
    from dhumandiff.methods.paired.cascade_modes import OnePass
    from dhumandiff.methods.paired.settings import CascadeSettings
    from dhumandiff.references import FaceReference

    info = adapter.info
    heads = [module.heads for _, module in cross_attention_layers(unet)]
    parts = {
        "tca": TextConsistency(info.hidden, info.context_width, RANK),
        "gates": Gates.for_heads(heads, GROUPS),
        "router": Router(info.hidden, info.clip_width, ROUTER_WIDTH),
    }
    trained = DualPathway(adapter, **parts).to(unet.device, unet.dtype).requires_grad_(False).eval()
    width, height = (int(side) // 8 for side in size.split("x"))
    people = [
        FaceReference(
            identity=torch.nn.functional.normalize(torch.randn(1, info.identity_width or 512), dim=-1),
            clip_hidden=torch.randn(1, 50, info.clip_width),
            clip_hidden_zero=torch.randn(1, 50, info.clip_width),
        )
        for _ in range(2)
    ]
    masks = torch.zeros(2, 1, height, width)
    masks[0, ..., : width // 2] = masks[1, ..., width // 2 :] = 1
    given = _inputs(unet, (height, width))

    plain = _processors(unet)

    def attached(make: Callable[[], Any], mode: Any = None) -> Callable[[], Any]:
        """A call with people on the UNet; their keys and values stay from call to call."""
        people_on_it = make()
        mine = _processors(unet)
        _put(plain)
        if mode is not None:
            mode.begin((height, width), 1)

        def call() -> None:
            if mode is not None:
                step = mode.begin_step()
                people_on_it.strength, people_on_it.record = step.strength, step.store
            _put(mine)
            unet(**given)
            _put(plain)

        return call

    def dual(weights: DualPathway, regions: str) -> Callable[[], Any]:
        settings = DualPathwaySettings(regions=regions)
        mode = None if regions != "attention" else FindRegions(settings)
        return attached(
            lambda: attach_dual(unet, weights, people, settings, masks=masks if regions == "given" else None), mode
        )

    untrained = DualPathway(adapter)
    return {
        "plain": lambda: unet(**given),
        PAIR: attached(lambda: attach(unet, adapter, people)),
        "pair, masks": attached(lambda: attach(unet, adapter, people, masks=masks)),
        "pair, one_pass": attached(lambda: attach(unet, adapter, people), OnePass(CascadeSettings())),
        **{f"untrained, {regions}": dual(untrained, regions) for regions in ("given", "attention")},
        **{f"trained, {regions}": dual(trained, regions) for regions in ("given", "attention", "router")},
    }


def _processors(unet: Any) -> dict[Any, Any]:
    from dhumandiff.hosts.diffusers.attention import cross_attention_layers

    return {module: module.processor for _, module in cross_attention_layers(unet)}


def _put(processors: dict[Any, Any]) -> None:
    for module, processor in processors.items():
        module.processor = processor


def _inputs(unet: Any, size: tuple[int, int]) -> dict[str, Any]:
    config = unet.config
    pooled = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
    where = {"device": unet.device, "dtype": unet.dtype}
    text: Tensor = torch.randn(2, 77, config.cross_attention_dim, **where)
    return {
        "sample": torch.randn(2, config.in_channels, *size, **where),
        "timestep": 500,
        "encoder_hidden_states": text,
        "added_cond_kwargs": {"text_embeds": torch.randn(2, pooled, **where), "time_ids": torch.zeros(2, 6, **where)},
    }


if __name__ == "__main__":
    main()
