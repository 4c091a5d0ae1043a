"""What WithAnyone costs on a FLUX of FLUX.1's own 19 + 38 blocks, as a ratio to a plain KSampler's.

    python -m benchmarks.flux                    # 512 px, 512 wide, one step, 5 rounds: about 5 minutes
    python -m benchmarks.flux --width 768 --size 768 --rounds 5

Every round runs all variants, in an order of its own; the ratio is taken inside a round. Told are median and quartiles of the
time that the process had on its cores, over the rounds: what else the machine does counts less so. Faces are where the preset
"faces only" of Portrait Layout has them. Only the sampling call is timed; keys and values are made before it, once for all runs.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from . import comfyui
from .results import machine, save

DOUBLE, SINGLE = 19, 38
HEAD = 128  # as in FLUX.1
TEXT = 512  # tokens, as FLUX.1 dev is given
VARIANTS = {"plain": (0, 0.5), "two_spirit": (2, 0.0), "two": (2, 0.5), "four": (4, 0.5)}
"""People, and where the slider is between "in spirit" (0) and "in form" (1); between them both branches are computed."""


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark and keep its result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flux", description=__doc__.split("\n")[0])
    defaults = {"size": 512, "width": 512, "steps": 1, "rounds": 5, "threads": 2}
    for name, default in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"(default {default})")
    given = parser.parse_args(arguments)
    comfyui.load(given.threads)
    runs = variants(given.size, given.width, given.steps)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    order = random.Random(0)
    for number in tqdm(range(given.rounds + 1), desc="rounds"):
        for name in order.sample(list(runs), len(runs)):
            begin = time.process_time()
            runs[name]()
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - begin)
    ratios = {name: np.quantile(np.divide(t, seconds["plain"]), (0.25, 0.5, 0.75)) for name, t in seconds.items()}
    save(
        f"flux_{given.size}px_{given.width}wide",
        {
            "settings": vars(given),
            "machine": machine(),
            "plain_seconds": float(np.median(seconds["plain"])),
            "ratios": {n: dict(zip(("q1", "median", "q3"), map(float, r), strict=True)) for n, r in ratios.items()},
        },
    )
    for name, (low, middle, high) in ratios.items():
        print(f"{name:12} {middle:6.3f}   {low:6.3f} to {high:6.3f}")


def variants(
    size: int, width: int, steps: int, dtype: torch.dtype = torch.float32, fill: Callable[[Any], Any] | None = None
) -> dict[str, Callable[[], torch.Tensor]]:
    """For every variant a function that makes a whole run of it, latents out.

    Args:
        size: side of the picture, px.
        width: of FLUX; FLUX.1 has 3072.
        steps: of the sampler.
        dtype: of the weights.
        fill: what puts random weights into the modules; None: the tests' own.
    """
    from dhd_pack.nodes.comfy.flux_patch import apply_withanyone

    model, adapter = flux(width, dtype, fill), withanyone(width, dtype, fill)
    people = [_person(seed) for seed in range(1, 5)]

    def run(count: int, form: float) -> Callable[[], torch.Tensor]:
        patched = apply_withanyone(model, adapter, people[:count], form, place=True) if count else model
        return lambda: _sample(patched, size, width, steps)

    return {name: run(*how) for name, how in VARIANTS.items()}


def flux(width: int, dtype: torch.dtype = torch.float32, fill: Callable[[Any], Any] | None = None) -> Any:
    """MODEL: a FLUX.1 of random weights and another width."""
    import comfy.ldm.flux.model
    import comfy.model_base
    import comfy.model_management as management
    import comfy.model_patcher
    import comfy.supported_models
    from dhd_pack.dhumandiff.testing import fill_with_noise

    settings = {
        "image_model": "flux",
        "in_channels": 16,
        "out_channels": 16,
        "patch_size": 2,
        "vec_in_dim": 768,
        "context_in_dim": width,
        "hidden_size": width,
        "mlp_ratio": 4.0,
        "num_heads": width // HEAD,
        "depth": DOUBLE,
        "depth_single_blocks": SINGLE,
        "axes_dim": [16, 56, 56],
        "theta": 10000,
        "qkv_bias": True,
        "guidance_embed": True,
    }
    if "txt_ids_dims" in comfy.ldm.flux.model.FluxParams.__dataclass_fields__:  # since FLUX.2
        settings["txt_ids_dims"] = []
    config = comfy.supported_models.Flux(settings)
    config.set_inference_dtype(dtype, None)
    made = comfy.model_base.Flux(config, device=management.unet_offload_device())
    (fill or fill_with_noise)(made.diffusion_model)
    made.requires_grad_(False)
    return comfy.model_patcher.ModelPatcher(made, management.get_torch_device(), management.unet_offload_device())


def withanyone(width: int, dtype: torch.dtype = torch.float32, fill: Callable[[Any], Any] | None = None) -> Any:
    """DHD_WITHANYONE of random weights, half as wide inside as FLUX, like the released ones."""
    import comfy.ops
    from dhd_pack.dhumandiff.methods.withanyone import WithAnyone
    from dhd_pack.dhumandiff.testing import fill_with_noise
    from dhd_pack.nodes.comfy.withanyone import under_memory_management

    shapes = {"siglip_in_sig.0.weight": (width, 768)}
    for branch in ("arc", "sig"):
        shapes[f"arcface_in_{branch}.0.weight"] = (4 * width, 512)
        for block in range(DOUBLE + SINGLE):
            shapes[f"ipa_{branch}.{block}.to_q.weight"] = (width // 2, width)
    adapter = WithAnyone(shapes, "withanyone", (), "random weights", comfy.ops.manual_cast)
    (fill or fill_with_noise)(adapter.to(dtype))
    return under_memory_management(adapter.requires_grad_(False).eval())


def _person(seed: int) -> Any:
    from dhd_pack.dhumandiff.references.reference import FaceReference

    return FaceReference(
        identity=torch.nn.functional.normalize(comfyui._noise(seed, 1, 512), dim=-1),
        identity_length=torch.tensor([22.0]),
        siglip_hidden=comfyui._noise(seed, 1, 256, 768),
        recognizer="antelopev2/glintr100",
    )


def _sample(model: Any, size: int, width: int, steps: int) -> torch.Tensor:
    """A whole run as KSampler does it at CFG 1."""
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    pooled = {"pooled_output": comfyui._noise(2, 1, 768), "guidance": 4.0}
    prompt = [[comfyui._noise(1, 1, TEXT, width), pooled]]
    guider.set_conds(prompt, prompt)
    guider.set_cfg(1.0)
    noise = comfyui._noise(0, 1, 16, size // 8, size // 8)
    sampler = comfy.samplers.KSampler(model, steps, model.load_device, "euler", "simple", 1.0, model.model_options)
    euler = comfy.samplers.sampler_object("euler")
    return guider.sample(noise, torch.zeros_like(noise), euler, sampler.sigmas, disable_pbar=True, seed=0)


if __name__ == "__main__":
    main()
