"""The artefacts in ComfyUI: a process of its own that loads the pack as ComfyUI does, and runs prompts through its executor.

    python artefact_comfyui.py COMFYUI REPOSITORY COMMIT_FOLDER OUT

writes OUT/comfyui.safetensors (what came out of every case) and OUT/nodes.json (what the nodes say of themselves). The
base is of ComfyUI's own classes and seeded noise; adapters and references are the saved ones. Nodes are known
by their ids alone.
"""

# ruff: noqa: I001 (ComfyUI's `nodes`, not this repository's)

import asyncio
import contextlib
import copy
import json
import shutil
import sys
from pathlib import Path

COMFYUI, REPOSITORY, MADE, OUT = map(Path, sys.argv[1:5])
sys.path[0] = str(COMFYUI)

import comfy.cli_args

comfy.cli_args.args.cpu = True
comfy.cli_args.args.use_pytorch_cross_attention = True
comfy.cli_args.args.base_directory = str(OUT / "comfyui")
for place in ("input", "output", "temp", "custom_nodes", "models/ipadapter"):
    (OUT / "comfyui" / place).mkdir(parents=True, exist_ok=True)
MODELS = OUT / "comfyui" / "models"
shutil.copytree(MADE / "references", MODELS / "dhumandiff" / "references")
for adapter in (MADE / "adapters").iterdir():
    if adapter.is_dir():
        shutil.copytree(adapter, MODELS / "dhumandiff" / adapter.name)
    else:
        shutil.copyfile(
            adapter, MODELS / ("ipadapter" if adapter.name.startswith("ip_") else "dhumandiff") / adapter.name
        )
(MODELS / "ipadapter" / "ip_adapter_plus.bin").rename(
    MODELS / "ipadapter" / "ip_adapter_plus_sdxl.bin"
)  # found by its name

import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import comfy.utils
import execution
import nodes
import torch
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).parent))
import artefact_bases as bases

torch.set_num_threads(1)

# --- nodes of this file: a small base, random prompts, tiles, and what keeps the outcome ------------------------------------------

CONFIG = {
    "use_checkpoint": False,
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "use_spatial_transformer": True,
    "legacy": False,
    "num_classes": "sequential",
    "adm_in_channels": 32 + 6 * 256,
    "dtype": torch.float32,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 1],
    "transformer_depth": [0, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0, 1, 1],
    "use_linear_in_transformer": True,
    "context_dim": 48,
    "num_head_channels": 16,
    "use_temporal_attention": False,
    "use_temporal_resblock": False,
}


class Small(comfy.supported_models.SDXL):
    """SDXL with narrower heads."""

    unet_extra_config = {"num_heads": -1, "num_head_channels": 16}


class Model:
    CATEGORY, FUNCTION, RETURN_TYPES = "artefacts", "make", ("MODEL",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"tiles": (["none", "one by one", "in one batch"],)}}

    def make(self, tiles):
        management = comfy.model_management
        with torch.inference_mode(False):
            config = Small(dict(CONFIG))
            config.set_inference_dtype(torch.float32, None)
            model = comfy.model_base.SDXL(config, device=management.unet_offload_device())
            names = comfy.utils.unet_to_diffusers(CONFIG)
            weights = {names[name]: value for name, value in bases.small_unet(size_width=256).state_dict().items()}
            weights["out.2.weight"] *= 0.3
            model.diffusion_model.load_state_dict(weights)
            patcher = comfy.model_patcher.ModelPatcher(
                model, management.get_torch_device(), management.unet_offload_device()
            )
        if tiles != "none":
            patcher.set_model_unet_function_wrapper(lambda call, args: tiled(call, args, tiles == "in one batch"))
        return (patcher,)


def tiled(call, args, batched, size=8):
    """As tiling packs do it: the UNet sees 8 x 8 places at once."""
    x, t, c = args["input"], args["timestep"], args["c"]
    corners = [(top, left) for top in (0, 4, 8) for left in (0, 4)]
    pieces = [x[..., top : top + size, left : left + size] for top, left in corners]
    if batched:
        many = {k: v.repeat(len(pieces), *[1] * (v.ndim - 1)) if torch.is_tensor(v) else v for k, v in c.items()}
        outs = call(torch.cat(pieces), t.repeat(len(pieces)), **many).chunk(len(pieces))
    else:
        outs = [call(piece, t, **c) for piece in pieces]
    total, count = torch.zeros_like(x), torch.zeros_like(x)
    for (top, left), out in zip(corners, outs, strict=True):
        total[..., top : top + size, left : left + size] += out
        count[..., top : top + size, left : left + size] += 1
    return total / count


class Conditioning:
    CATEGORY, FUNCTION, RETURN_TYPES = "artefacts", "make", ("CONDITIONING",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seed": ("INT", {"default": 0})}}

    def make(self, seed):
        random = torch.Generator().manual_seed(seed)
        sizes = {"width": 96, "height": 128, "crop_w": 0, "crop_h": 0, "target_width": 96, "target_height": 128}
        context = torch.randn(1, 77, 48, generator=random)
        return ([[context, {"pooled_output": torch.randn(1, 32, generator=random), **sizes}]],)


class Masks:
    """Left and right half, [1 or 2, H, W]; with two pictures the second one has them exchanged."""

    CATEGORY, FUNCTION, RETURN_TYPES = "artefacts", "make", ("MASK", "MASK")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"pictures": ("INT", {"default": 1})}}

    def make(self, pictures):
        left = torch.zeros(1, 128, 96)
        left[..., :48] = 1
        right = 1 - left
        return (left, right) if pictures == 1 else (torch.cat([left, right]), torch.cat([right, left]))


KEPT = {}


class Keep:
    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "artefacts", "keep", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": ("*", {}), "name": ("STRING", {"default": ""})}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types):
        return True

    def keep(self, value, name):
        value = value["samples"] if isinstance(value, dict) else value
        if isinstance(value, float):
            value = torch.tensor(value, dtype=torch.float64)
        if isinstance(value, torch.Tensor):
            KEPT[name] = value.detach().cpu().contiguous().clone()
        return ()


nodes.NODE_CLASS_MAPPINGS |= {
    "ArtefactsModel": Model,
    "ArtefactsConditioning": Conditioning,
    "ArtefactsMasks": Masks,
    "ArtefactsKeep": Keep,
}

# --- cases: the small base with saved adapters and references -----------------------------------------------------------------------

APPLY = {"strength": 1.0, "strength_1": 1.0, "strength_2": 1.0, "start": 0.0, "end": 1.0}
CASCADE = {"scene_strength": 0.7, "face_strength": 1.0, "focus_share": 0.1, "mode": "one_pass"}
HALVES = {"mask_1": ["masks", 0], "mask_2": ["masks", 1]}
FOCUS = {"focus": ["masks", 0]}


def case(
    apply=None,
    sampler="KSampler",
    cascade=None,
    adapter="native.safetensors",
    pictures=1,
    tiles="none",
    area=False,
    people=2,
    mask_pictures=1,
):
    """A prompt in API form; `apply` and `cascade` are what differs from the nodes' defaults."""
    prompt = {
        "model": ("ArtefactsModel", {"tiles": tiles}),
        "adapter": ("DHDLoadAdapter", {"adapter_name": adapter}),
        "one": ("DHDLoadReference", {"file_name": "two_photos"}),
        "two": ("DHDLoadReference", {"file_name": "one_photo"}),
        "masks": ("ArtefactsMasks", {"pictures": mask_pictures}),
        "positive": ("ArtefactsConditioning", {"seed": 1}),
        "negative": ("ArtefactsConditioning", {"seed": 2}),
        "latent": ("EmptyLatentImage", {"width": 96, "height": 128, "batch_size": pictures}),
    }
    positive = ["positive", 0]
    if area:
        prompt |= {
            "other": ("ArtefactsConditioning", {"seed": 3}),
            "area": (
                "ConditioningSetArea",
                {"conditioning": ["other", 0], "width": 64, "height": 64, "x": 32, "y": 0, "strength": 1.0},
            ),
            "joined": ("ConditioningCombine", {"conditioning_1": positive, "conditioning_2": ["area", 0]}),
        }
        positive = ["joined", 0]
    given = {"model": ["model", 0], "adapter": ["adapter", 0], "reference_1": ["one", 0]}
    if people == 2:
        given["reference_2"] = ["two", 0]
    prompt["apply"] = ("DHDApplyPair", {**given, **APPLY, **(apply or {})})
    conditions = {"model": ["apply", 0], "positive": positive, "negative": ["negative", 0], "cfg": 5.0}
    run = {"seed": 7, "steps": 3, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    options = {**CASCADE, **(cascade or {})}
    kept = {"latent": ["sampled", 0]}
    if sampler == "KSampler":
        prompt["sampled"] = ("KSampler", {**conditions, **run, "latent_image": ["latent", 0]})
    elif sampler == "DHDCascadeKSampler":
        prompt["sampled"] = (sampler, {**conditions, **run, **options, "latent_image": ["latent", 0]})
        kept["focus"] = ["sampled", 1]
    else:
        prompt |= {
            "guider": ("DHDCascadeGuider", {**conditions, **options}),
            "noise": ("RandomNoise", {"noise_seed": 7}),
            "kind": ("KSamplerSelect", {"sampler_name": "dpmpp_2m"}),
            "sigmas": ("KarrasScheduler", {"steps": 3, "sigma_max": 14.6, "sigma_min": 0.03, "rho": 7.0}),
        }
        parts = {"noise": ["noise", 0], "guider": ["guider", 0], "sampler": ["kind", 0], "sigmas": ["sigmas", 0]}
        prompt["sampled"] = ("SamplerCustomAdvanced", {**parts, "latent_image": ["latent", 0]})
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in prompt.items()}, kept


KSAMPLER, GUIDER = {"sampler": "DHDCascadeKSampler"}, {"sampler": "DHDCascadeGuider"}
MODES = ("one_pass", "two_strength", "released")
OWN = {"cascade": "one_pass", "scene_strength": 0.4, "focus_share": 0.2}
CASES = {
    "apply": case(),
    "apply_strength_0": case({"strength": 0.0}),
    "apply_one_person": case(people=1),
    "apply_strengths_part": case({"strength": 0.8, "strength_1": 0.5, "strength_2": 1.5, "start": 0.1, "end": 0.7}),
    "apply_masks": case(HALVES),
    "apply_first_80": case({"during": "first 80 %"}),
    "apply_one_pass": case(OWN),
    "apply_one_pass_focus_masks": case({**OWN, **FOCUS, **HALVES}),
    "apply_batch_masks": case(HALVES, pictures=2, mask_pictures=2),
    "apply_area_batch": case(HALVES, pictures=2, area=True),
    "apply_one_pass_area_batch": case({**OWN, **HALVES}, pictures=2, area=True),
    "apply_tiles": case(HALVES, tiles="one by one"),
    "apply_tiles_batched": case(HALVES, tiles="in one batch"),
    "apply_released": case(adapter="released"),
    "apply_ip_adapter": case(adapter="ipadapter/ip_adapter_plus.safetensors"),
    "apply_ip_adapter_bin": case(adapter="ipadapter/ip_adapter_plus_sdxl.bin"),
    **{f"ksampler_{mode}": case(cascade={"mode": mode}, **KSAMPLER) for mode in MODES},
    **{f"ksampler_{mode}_focus": case(cascade={"mode": mode, **FOCUS}, **KSAMPLER) for mode in MODES},
    **{f"ksampler_{mode}_batch": case(HALVES, cascade={"mode": mode}, pictures=2, **KSAMPLER) for mode in MODES},
    **{
        f"guider_{mode}": case(cascade={"mode": mode, "scene_strength": 0.3, "focus_share": 0.25}, **GUIDER)
        for mode in MODES
    },
    **{f"guider_{mode}_area": case(cascade={"mode": mode}, area=True, pictures=2, **GUIDER) for mode in MODES[:2]},
    **{f"guider_{mode}_tiles": case(cascade={"mode": mode}, tiles="one by one", **GUIDER) for mode in MODES[:2]},
    **{
        f"guider_{mode}_tiles_batched": case(cascade={"mode": mode}, tiles="in one batch", **GUIDER)
        for mode in MODES[:2]
    },
}


def workflow_case(file):
    """A workflow as the page queued it then, with what its nodes of this pack and the decoder give kept."""
    prompt = json.loads(file.read_text(encoding="utf-8"))
    kinds = ("DHDCascadeKSampler", "VAEDecode", "DHDEncodeReference", "DHDIdentityScore", "DHDPickBest", "DHDFaceMasks")
    kept = {}
    for number, node in prompt.items():
        if node["class_type"] in kinds:
            outputs = nodes.NODE_CLASS_MAPPINGS[node["class_type"]].RETURN_TYPES
            for slot, kind in enumerate(outputs):
                if kind in ("LATENT", "IMAGE", "MASK", "FLOAT"):
                    kept[f"{node['class_type']}_{number}.{slot}"] = [number, slot]
    return prompt, kept


# --- running --------------------------------------------------------------------------------------------------------------------------


class Silent:
    """In the place of a server."""

    client_id = last_node_id = None
    last_prompt_id = "artefacts"

    def send_sync(self, *_):
        pass


async def run(name, prompt, kept):
    prompt = copy.deepcopy(prompt)
    for part, link in kept.items():
        inputs = {"value": link, "name": f"{name}.{part}"}
        prompt[f"keep {part}"] = {"class_type": "ArtefactsKeep", "inputs": inputs}
    valid, error, _, errors = await execution.validate_prompt(name, prompt, None)
    if not valid or errors:
        raise SystemExit(f"{name}: {error} {errors}")
    settings = {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}
    executor = execution.PromptExecutor(Silent(), cache_type=execution.CacheType.CLASSIC, cache_args=settings)
    await executor.execute_async(prompt, name, {}, [f"keep {part}" for part in kept])
    failed = [body for kind, body in executor.status_messages if kind == "execution_error"]
    if failed:
        raise SystemExit(
            f"{name}: {failed[0]['node_type']}: {failed[0]['exception_message']}\n{''.join(failed[0]['traceback'])}"
        )


def told(kind):
    """The inputs of a node as workflows know them, and its outputs."""
    found = nodes.NODE_CLASS_MAPPINGS[kind]
    inputs = {}
    for part in ("required", "optional"):
        for name, (type_, *options) in found.INPUT_TYPES().get(part, {}).items():
            options = options[0] if options else {}
            choices = type_ if isinstance(type_, list) else options.get("options")
            inputs[name] = {"type": "COMBO" if isinstance(type_, list) else type_, "choices": choices}
            inputs[name]["required"] = part == "required"
    names = getattr(found, "RETURN_NAMES", None) or found.RETURN_TYPES
    return {"inputs": inputs, "outputs": list(map(str, found.RETURN_TYPES)), "output_names": list(map(str, names))}


async def main():
    before = set(nodes.NODE_CLASS_MAPPINGS)
    if not await nodes.load_custom_node(str(REPOSITORY)):
        raise SystemExit("The pack does not load.")
    own = sorted(set(nodes.NODE_CLASS_MAPPINGS) - before)
    for name in ("custom_sampler", "mask", "preview_any", "primitive"):
        await nodes.load_custom_node(str(COMFYUI / "comfy_extras" / f"nodes_{name}.py"), module_parent="comfy_extras")
    (OUT / "nodes.json").write_text(json.dumps({kind: told(kind) for kind in own}, indent=1))
    for name, (prompt, kept) in CASES.items():
        with contextlib.redirect_stdout(sys.stderr):
            await run(name, prompt, kept)
    for file in sorted((MADE / "prompts").glob("*.json")):
        await run(file.stem, *workflow_case(file))
    save_file(KEPT, OUT / "comfyui.safetensors")


asyncio.run(main())
