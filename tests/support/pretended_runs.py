"""Runs of ComfyUI on a pretended card, in a process of their own: what each step asks of the card, as JSON.

    python -m support.pretended_runs pair one_pass            names of `RUNS` and `OTHERS`; with --show also where it waits
    python -m support.pretended_runs pair --gigabytes 8

SDXL and the adapter have their own sizes (1024 x 1024 px, fp16, CFG: two rows); FLUX and Stable Diffusion 1.5 are tiny.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import sys
import tempfile
from pathlib import Path

import torch

from support.comfyui import COMFYUI, REPOSITORY, load_pack

load_pack()

import comfy.model_base
import comfy.model_management as mm
import comfy.model_patcher
import comfy.ops
import comfy.samplers
import comfy.supported_models
import dhd_pack.dhumandiff.testing as tiny
from dhd_pack.dhumandiff.methods.dual_pathway import DualPathwaySettings
from dhd_pack.dhumandiff.methods.paired import projections
from dhd_pack.dhumandiff.methods.paired.adapter import Adapter
from dhd_pack.dhumandiff.methods.paired.settings import CascadeSettings
from dhd_pack.dhumandiff.methods.parts2whole.conditioning import PartsConditioning
from dhd_pack.dhumandiff.references.reference import FaceReference
from dhd_pack.nodes.comfy import parts2whole as nodes_of_parts
from dhd_pack.nodes.comfy import parts_models
from dhd_pack.nodes.comfy.dual import apply_dual
from dhd_pack.nodes.comfy.flux import FluxConditioning
from dhd_pack.nodes.comfy.flux_patch import apply_withanyone
from dhd_pack.nodes.comfy.guider import CascadeGuider
from dhd_pack.nodes.comfy.memory import managed
from dhd_pack.nodes.comfy.parts2whole import apply_parts
from dhd_pack.nodes.comfy.patch import apply_people
from torch.utils._python_dispatch import _disable_current_modes

from support import small_parts, tiny_flux, tiny_parts, tiny_withanyone
from support.pretended_card import CARD, PretendedCard, to_card
from support.released_sizes import released_tensors

STEPS = 3
SIZE = 128
"""Side of the latent."""


DESKTOP = int(0.55 * 2**30)
"""Bytes that driver and desktop take."""


def pretend_in_comfyui(card: PretendedCard) -> None:
    """Let ComfyUI believe in the card, with its older memory management, which is the one of AMD and Windows before torch 2.8."""

    def free(device=None, torch_free_too=False):
        there = card.total - DESKTOP - card.live if getattr(device, "type", "cuda") == "cuda" else 64 << 30
        return (there, 0) if torch_free_too else there

    mm.get_free_memory = free
    mm.pytorch_attention_flash_attention = lambda: True
    mm.vram_state = mm.VRAMState.NORMAL_VRAM
    mm.MIN_WEIGHT_MEMORY_RATIO, mm.MAX_PINNED_MEMORY = 0.0, 0
    mm.get_torch_device = lambda: CARD
    mm.is_device_cuda = lambda device: False  # what only a driver can answer is not asked then
    mm.is_device_cpu = lambda device: getattr(device, "type", None) == "cpu"
    mm.cuda_device_context = lambda device: contextlib.nullcontext()
    mm.soft_empty_cache = lambda *_, **__: None
    mm.NUM_STREAMS = 0
    mm.lowvram_available = True


def sdxl(card: PretendedCard, dtype: torch.dtype = torch.float16):
    """MODEL of SDXL's size."""
    config = comfy.supported_models.SDXL(
        {
            "use_checkpoint": False,
            "image_size": 32,
            "out_channels": 4,
            "use_spatial_transformer": True,
            "legacy": False,
            "num_classes": "sequential",
            "adm_in_channels": 2816,
            "dtype": dtype,
            "in_channels": 4,
            "model_channels": 320,
            "num_res_blocks": [2, 2, 2],
            "channel_mult": [1, 2, 4],
            "use_linear_in_transformer": True,
            "context_dim": 2048,
            "num_head_channels": 64,
            "use_temporal_attention": False,
            "use_temporal_resblock": False,
            "transformer_depth": [0, 0, 2, 2, 10, 10],
            "transformer_depth_middle": 10,
            "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        }
    )
    config.set_inference_dtype(dtype, None)
    model = comfy.model_base.SDXL(config, device=torch.device("cpu"))
    to_card(model.diffusion_model, card)
    return managed(model)


def adapter(card: PretendedCard, dtype: torch.dtype = torch.float16):
    """DHD_ADAPTER of the released sizes."""
    made = Adapter.from_tensors(released_tensors(projections, dtype), tiny.METADATA, operations=comfy.ops.manual_cast)
    made.compute_dtype = torch.float32
    return managed(to_card(made, card))


def people() -> list[FaceReference]:
    return [
        FaceReference(
            identity=torch.nn.functional.normalize(torch.ones(1, 512), dim=-1),
            clip_hidden=torch.ones(1, 257, 1280),
            clip_hidden_zero=torch.ones(1, 257, 1280),
            name=f"person {number}",
        )
        for number in (1, 2)
    ]


def prompt() -> list:
    sizes = {"width": 1024, "height": 1024, "crop_w": 0, "crop_h": 0, "target_width": 1024, "target_height": 1024}
    return [[torch.ones(1, 77, 2048), {"pooled_output": torch.ones(1, 1280), **sizes}]]


def measured(card: PretendedCard, guider, latent: tuple[int, ...]) -> dict:
    """What a run asks of the card: a list for each number, a step each; and what waits in the last one."""
    guider.set_conds(*guider.given)
    guider.set_cfg(5.0)
    seen = {"launches": [], "waits": [], "copies": [], "moved": [], "peak": []}
    where = {}

    def note(*_) -> None:
        for name, value in (("launches", card.launches), ("peak", card.peak), ("moved", card.moved)):
            seen[name].append(value)
        seen["waits"].append(sum(card.waits.values()))
        seen["copies"].append(sum(card.copies.values()))
        where.clear()
        where.update(card.waits + card.copies)
        card.begin()

    sigmas = torch.cat([torch.linspace(14.6, 0.03, STEPS), torch.zeros(1)])
    card.begin()
    noise, empty = torch.ones(latent), torch.zeros(latent)
    sampler = comfy.samplers.sampler_object("euler")
    guider.sample(noise, empty, sampler, sigmas, callback=note, disable_pbar=True, seed=1)
    return {**seen, "where": {str(line).replace(f"{COMFYUI}/", ""): count for line, count in where.items()}}


def _plain(model, *_):
    return comfy.samplers.CFGGuider(model)


def _pair(**settings):
    def make(model, weights):
        return comfy.samplers.CFGGuider(apply_people(model, weights, people(), **settings))

    return make


def _cascade(mode, focus=None, **settings):
    def make(model, weights):
        made = CascadeGuider(apply_people(model, weights, people(), **settings))
        made.set_cascade(CascadeSettings(mode, 0.7, 1.0, 0.1), focus)
        return made

    return make


def _dual(regions, **settings):
    def make(model, weights):
        chosen = DualPathwaySettings(regions=regions)
        return comfy.samplers.CFGGuider(apply_dual(model, weights, people(), chosen, **settings)[0])

    return make


def _masks_of_two_devices(model, weights):
    """As nodes that compute on the card give them beside stock nodes'."""
    left, right = _halves()
    return _pair(masks=(left.to(CARD), right))(model, weights)


def _halves():
    left = torch.zeros(1, 1024, 1024)
    left[..., :512] = 1
    return left, 1 - left


RUNS = {
    "plain": _plain,
    "pair": _pair(),
    "pair at 0.7": _pair(strength=0.7),
    "pair of unlike strengths": _pair(person_strengths=(1.0, 0.5)),
    "pair with masks": _pair(masks=_halves()),
    "pair with masks of two devices": _masks_of_two_devices,
    "pair until 0.8": _pair(end=0.8),
    "one_pass": _cascade("one_pass"),
    "one_pass by the node": _pair(cascade=CascadeSettings("one_pass", 0.7, 1.0, 0.1)),
    "one_pass with masks": _cascade("one_pass", masks=_halves()),
    "one_pass, focus given": _cascade("one_pass", torch.ones(1, 1024, 1024)),
    "two_strength": _cascade("two_strength"),
    "two_strength with masks": _cascade("two_strength", masks=_halves()),
    "released": _cascade("released"),
    "dual pathway, regions given": _dual("given", masks=_halves()),
    "dual pathway, regions found": _dual("attention"),
}
"""Runs of SDXL: MODEL and DHD_ADAPTER -> a guider."""


def withanyone(card):
    """A guider of a tiny FLUX with two people in boxes, and the latent's shape."""
    flux, weights = tiny_flux.model_patcher(), tiny_withanyone.adapter(precision="fp32")
    to_card(flux.model.diffusion_model, card)
    to_card(weights.model, card)
    boxes = tiny_withanyone.bounding_boxes(tiny_withanyone.BOXES["overlapping"][:2])
    on_cpu(FluxConditioning, "_find_regions")
    everybody = [tiny_withanyone.person(seed) for seed in (1, 2)]
    with card, torch.inference_mode():
        made = comfy.samplers.CFGGuider(apply_withanyone(flux, weights, everybody, boxes=boxes))
    made.given = (tiny_flux.conditioning(1), tiny_flux.conditioning(2, tokens=31))
    return made, (1, 16, 24, 20)


def parts(card):
    """A guider of a tiny Stable Diffusion 1.5 with two people in parts, and the latent's shape."""
    comfy.supported_models.models.append(tiny_parts.TinySD15)
    with tempfile.TemporaryDirectory() as folder:
        model, weights = parts_models.load_parts2whole(tiny_parts.released(Path(folder)))
        files = weights.model.files
        encoder = {**files.reference, **parts_models._absent(files.reference)}
        weights.model.encoder_patcher = parts_models._load_unet(encoder, files.paths["reference"])
    for module in (model.model.diffusion_model, weights.model, weights.model.encoder_patcher.model.diffusion_model):
        to_card(module, card)
    on_cpu(PartsConditioning, "_find_jobs")
    on_cpu(nodes_of_parts, "part_regions")
    left = torch.zeros(1, 128, 96)
    left[..., :48] = 1
    right = 1 - left
    people = [small_parts.random_part(size=(16, 12), seed=person, person=person) for person in (1, 2)]
    with card, torch.inference_mode():
        made = comfy.samplers.CFGGuider(apply_parts(model, weights, people, regions=(left, right))[0])
    made.given = (tiny_parts.conditioning(1), tiny_parts.conditioning(2))
    return made, (1, 4, 16, 12)


def on_cpu(kind, name: str) -> None:
    """Let a method, which looks at numbers on the CPU, see real ones."""
    real = getattr(kind, name)

    def method(*given, **more):
        with _disable_current_modes():
            return real(*given, **more)

    setattr(kind, name, method)


OTHERS = {"WithAnyone": withanyone, "Parts2Whole": parts}
"""Runs of other methods: the card -> a guider, and the latent's shape."""


def main(arguments: list[str]) -> None:
    """Print what runs ask of the card."""
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="*", default=[*RUNS, *OTHERS])
    parser.add_argument("--gigabytes", type=float, default=80, help="of the card")
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args(arguments)
    logging.getLogger().setLevel(logging.ERROR)
    card = PretendedCard(ours=f"{REPOSITORY}/", total=int(options.gigabytes * 2**30))
    pretend_in_comfyui(card)
    model = weights = None
    found = {}
    for name in options.runs:
        shape = (1, 4, SIZE, SIZE)
        if name in OTHERS:
            guider, shape = OTHERS[name](card)
        else:
            if model is None:
                model, weights = sdxl(card), adapter(card)
            with card, torch.inference_mode():
                guider = RUNS[name](model, weights)
                guider.given = (prompt(), prompt())
        with card, torch.inference_mode():
            found[name] = measured(card, guider, shape)
        if not options.show:
            del found[name]["where"]
        print(name, found[name], file=sys.stderr)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
