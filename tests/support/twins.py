"""Miniature twins: the shipped workflows with drawn people, small enough to run in a test on a CPU.

    prompt = twin("wedding_preview")            # in API form
    server.run(prompt)                          # a server whose base folder `fill_shipped` has filled

Nodes, links, strengths, masks and modes stay as they are shipped. The miniature stands in for the checkpoint, the encoders and
DHumanDiff's weights, Draw Person for photos; sentences are of the drawn world, size, steps, CFG and sampler the miniature's.
Other model files are tiny ones under the names that the workflows use, read by the stock loaders. Those on FLUX run on a tiny
FLUX (flux_twins.py), those on Parts2Whole on a tiny Stable Diffusion 1.5 (parts_twins.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from dhumandiff.miniature.design import DESIGN
from support.flux_twins import fill_flux, on_the_tiny_flux
from support.parts_twins import fill_parts, on_the_tiny_parts, write_parts
from support.server import api_form
from tools.workflows import REPOSITORY, WORKFLOWS
from tools.workflows.flux import PHOTO
from tools.workflows.parts import ADAPTER, BEACH, CHECKPOINT, IP_ADAPTER, POSES, STYLE, VISION, mini_sampling, plain
from tools.workflows.pictures import drawn_couple, drawn_photo, region

WIDTH, HEIGHT = DESIGN.size
SCENES = (
    "on a beach",
    "in a forest",
    "at sunset",
    "in a city",
    "in the snow",
    "in a living room",
    "in a green field",
    "at night",
)
WEDDING = [
    f"A bride@1 on the left in a white dress and a groom@2 on the right in a black suit stand {scene}."
    for scene in SCENES
]
WEDDING += [
    f"A bride@1 on the left in a white dress and a groom@2 on the right in a {c} suit stand on a beach."
    for c in ("blue", "red")
]


@dataclass(frozen=True)
class Cast:
    """What a twin has of its own.

    people: number and gender for Draw Person. text: a sentence of the drawn world, or several. seed: a pretty one. changed:
    type -> inputs that the miniature needs otherwise.
    """

    people: tuple[tuple[int, str], tuple[int, str]] = ((8, "woman"), (7, "man"))
    text: str = BEACH
    seed: int = 1
    changed: dict[str, dict[str, Any]] = field(default_factory=dict)


CASTS = {
    "dual_portrait": Cast(
        ((4, "woman"), (14, "man")),
        "A woman@1 on the left in a purple dress and a man@2 on the right in a white suit stand in a green field.",
        seed=2,
    ),
    "wedding_preview": Cast(((4, "woman"), (10, "man")), "\n".join(WEDDING)),
    "parent_and_child": Cast(
        ((4, "woman"), (34, "any")),
        "A mother@1 on the left in a purple dress and a boy@2 on the right in a blue shirt stand in a green field.",
        seed=6,
        changed={"DHDPortraitLayout": {"preset": "side by side"}},  # drawn children stand as high as grown-ups
    ),
    "two_friends": Cast(
        ((5, "woman"), (0, "woman")),
        "A woman@1 on the left in a red dress and another woman@2 on the right in a green dress stand in a forest.",
        seed=2,
    ),
    "painted_regions": Cast(((7, "woman"), (13, "man")), seed=11),
    "old_photos": Cast(
        ((12, "woman"), (13, "man")),
        "A woman@1 on the left in a purple dress and a man@2 on the right in a white suit stand in a green field.",
        seed=13,
    ),
    "custom_sampler": Cast(
        ((9, "woman"), (8, "man")),
        "A woman@1 on the left in a yellow dress and a man@2 on the right in a black suit stand at sunset.",
    ),
    "face_repair": Cast(changed={"ImageScaleBy": {"scale_by": 1.0}}),  # the miniature draws faces of one size only
    "ip_adapter_faces": Cast(seed=3),
    "style_lora": Cast(seed=13),
    "mini_dual_portrait": Cast(seed=12),
    "dual_pathway": Cast(
        ((4, "woman"), (14, "man")),
        "A woman@1 on the left in a purple dress and a man@2 on the right in a white suit stand in a green field.",
        seed=2,
    ),
    "other_expression": Cast(
        ((9, "woman"), (8, "man")),
        "A woman@1 on the left in a yellow dress and a man@2 on the right in a black suit stand at sunset. "
        "The woman@1 laughs and looks ahead, the man@2 stands with closed eyes and looks ahead.",
        seed=11,
    ),
    "full_body": Cast(
        ((4, "woman"), (14, "man")),
        "A woman@1 on the left in a green dress and a man@2 on the right in a black suit stand on a city street.",
        seed=4,
    ),
    "other_age": Cast(
        ((14, "man"), (4, "woman")),
        "A man@1 on the left in a blue suit and a girl@2 on the right in a red dress stand in a living room.",
        seed=13,
    ),
    "old_photo_to_reality": Cast(
        ((12, "woman"), (13, "man")),  # as on the worn photos of old_photos
        "A woman@1 on the left in a blue dress and a man@2 on the right in a green sweater stand in a living room.",
        seed=8,
    ),
}
TINY = {"fixed_poses"}
"""Those that run on the tests' tiny base of random weights: the miniature has no ControlNet."""


def shipped_file(name: str) -> dict[str, Any]:
    """A shipped workflow's file."""
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def twin(name: str, sentences: int | None = None) -> dict[str, Any]:
    """The twin of a shipped workflow in API form; `sentences`: no more of a list than that."""
    prompt, cast = api_form(shipped_file(name)), CASTS.get(name, Cast())
    if name.startswith("withanyone_"):
        return on_the_tiny_flux(prompt)
    if name.startswith("parts_"):
        return on_the_tiny_parts(prompt)
    moved = {key: stand_in(node, name) for key, node in prompt.items()}
    negatives = {node["inputs"]["negative"][0] for node in prompt.values() if "negative" in node["inputs"]}
    photos = iter(cast.people)
    for key, node in list(prompt.items()):
        kind, inputs = node["class_type"], node["inputs"]
        if kind == "LoadImage" and inputs["image"].startswith("person_"):
            number, gender = next(photos)
            prompt[key] = {
                "class_type": "DHDDrawPerson",
                "inputs": {"person": number, "gender": gender, "view": 0, "size": 384},
            }
        elif kind == "EmptyLatentImage" or kind == "DHDPortraitLayout":
            inputs |= {"width": WIDTH, "height": HEIGHT}
        elif kind == "DHDSentences":
            inputs |= {"text": "\n".join(cast.text.splitlines()[:sentences]), "before": "", "after": ""}
        elif kind == "DHDIdentityScore":
            inputs["least_similarity"] = 0.2  # drawn faces measure less alike than photos
        for word in ("text", "value"):
            if isinstance(inputs.get(word), str) and kind != "DHDSentences" and inputs[word]:
                marked = "" if key in negatives and kind == "CLIPTextEncode" else cast.text
                inputs[word] = plain(marked) if kind == "CLIPTextEncode" else marked
        own = {**mini_sampling(DESIGN), "seed": cast.seed, "noise_seed": cast.seed}
        inputs |= {word: own[word] for word in own.keys() & inputs.keys()} | cast.changed.get(kind, {})
    loaders = {key for key, output in moved.items() if output is not None}
    for node in prompt.values():
        for word, value in node["inputs"].items():
            if isinstance(value, list) and value[0] in loaders:
                node["inputs"][word] = ["mini", moved[value[0]] + value[1]]
    for key in loaders:
        del prompt[key]
    if not any(node["class_type"] == "DHDLoadMiniature" for node in prompt.values()):
        prompt["mini"] = {"class_type": "DHDLoadMiniature", "inputs": {}}
    return prompt


def stand_in(node: dict[str, Any], name: str) -> int | None:
    """The miniature's output that stands in for a loader's first one; None when the node stays."""
    kind = node["class_type"]
    if kind == "DHDLoadFaceAnalysis":
        return 4
    if name in TINY:
        return None
    if kind == "DHDLoadAdapter":
        return 5 if node["inputs"]["adapter_name"] == ADAPTER else None
    return {"CheckpointLoaderSimple": 0, "CLIPVisionLoader": 3}.get(kind)


def nodes_of(prompt: dict[str, Any], kind: str) -> list[str]:
    """The ids of all nodes of a type."""
    return [key for key, node in prompt.items() if node["class_type"] == kind]


def saved(server: Any, prompt: dict[str, Any], outputs: dict[str, Any], prefix: str = "") -> list[Image.Image]:
    """The pictures that a run saved, in its order; of all nodes whose prefix begins so."""
    found = []
    for key in nodes_of(prompt, "SaveImage"):
        if prompt[key]["inputs"]["filename_prefix"].startswith(prefix):
            for one in outputs.get(key, {}).get("images", ()):
                with Image.open(server.base / "output" / one["subfolder"] / one["filename"]) as picture:
                    found.append(picture.convert("RGB"))
    return found


# --- files under the names that the workflows use ------------------------------------------------------------------------


def fill_shipped(base: Path) -> None:
    """A base folder in which every file that a shipped workflow names is there, tiny, besides the tiny base under its own names."""
    import dhd_pack.dhumandiff.testing as tiny

    from support import tiny_comfy

    models = base / "models"
    tiny_comfy.write_models(models)
    (models / "checkpoints" / CHECKPOINT).hardlink_to(models / "checkpoints" / "tiny_sdxl.safetensors")
    (models / "clip_vision" / VISION).hardlink_to(models / "clip_vision" / "tiny_vision.safetensors")
    for folder in ("controlnet", "loras", "ipadapter", "insightface/models/buffalo_l"):
        (models / folder).mkdir(parents=True, exist_ok=True)
    tiny.tiny_adapter().save_released(models / "dhumandiff" / ADAPTER)
    save_file(ip_adapter_weights(), models / IP_ADAPTER)
    save_file(lora_weights(), models / "loras" / STYLE)
    save_file(control_weights(), models / "controlnet" / POSES)
    fill_flux(models)
    fill_parts(models)
    write_pictures(base / "input")


def write_pictures(folder: Path) -> None:
    """The pictures that shipped workflows load: photos (two of them worn, one of a couple), poses, painted regions."""
    folder.mkdir(parents=True, exist_ok=True)
    old = CASTS["old_photos"].people
    for k in (1, 2):
        (folder / f"person_{k}.png").write_bytes((REPOSITORY / "examples" / f"mini_person_{k}.png").read_bytes())
        worn(drawn_photo(*old[k - 1]), k).save(folder / f"old_photo_{k}.png")
        region(k, 4 * WIDTH, 4 * HEIGHT).save(folder / f"region_{k}.png")  # of the twin's shape
        drawn_photo(k, "man").save(folder / f"person_{2 + k}.png")
    drawn_couple().save(folder / PHOTO)
    write_parts(folder)
    (folder / "two_poses.png").write_bytes((REPOSITORY / "examples" / "two_poses.png").read_bytes())


def worn(photo: Image.Image, seed: int) -> Image.Image:
    """A photo as it looks after seventy years: yellowed, darker on one side, scratched."""
    random = np.random.default_rng(seed)
    pixels = np.asarray(photo.convert("L"), dtype=np.float32) / 255
    high, wide = pixels.shape
    pixels = 0.14 + 0.8 * pixels * np.linspace(1.05, 0.7, wide)[None] + random.normal(0, 0.02, pixels.shape)
    toned = (np.stack([pixels, 0.88 * pixels, 0.68 * pixels], axis=-1).clip(0, 1) * 255).astype(np.uint8)
    picture = Image.fromarray(toned)
    draw = ImageDraw.Draw(picture)
    for _ in range(7):
        x, y = random.integers(0, wide), random.integers(0, high)
        draw.line((x, y, x + int(random.integers(-30, 30)), y + int(random.integers(40, 160))), (236, 222, 190), 1)
    return picture


def ip_adapter_weights() -> dict[str, torch.Tensor]:
    """An IP-Adapter Plus file for the miniature: its adapter's projection, and both people's K/V averaged to one."""
    from dhd_pack.dhumandiff.miniature import mini_adapter

    tensors = mini_adapter().state_dict()
    found = {
        f"image_proj.{n.removeprefix('face_projection.')}": t
        for n, t in tensors.items()
        if n.startswith("face_projection.")
    }
    layers = sorted({int(n.split(".")[1]) for n in tensors if n.startswith("attention.")})
    for layer in layers:
        for kind in ("to_k_ip", "to_v_ip"):
            own = [t for n, t in tensors.items() if n.startswith(f"attention.{layer}.{kind}")]
            found[f"ip_adapter.{2 * layer + 1}.{kind}.weight"] = torch.stack(own).mean(dim=0)
    return {name: tensor.contiguous() for name, tensor in found.items()}


def lora_weights(scale: float = 0.1, rank: int = 2) -> dict[str, torch.Tensor]:
    """A random LoRA for the miniature's attention layers, in the names that trainers write."""
    from dhd_pack.nodes.comfy.miniature import mini_model

    random, found = torch.Generator().manual_seed(4), {}
    for name, weight in mini_model().model.diffusion_model.state_dict().items():
        if name.endswith(("to_q.weight", "to_v.weight", "to_out.0.weight")):
            key = f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}"
            found[f"{key}.lora_up.weight"] = scale * torch.randn(weight.shape[0], rank, generator=random)
            found[f"{key}.lora_down.weight"] = scale * torch.randn(rank, weight.shape[1], generator=random)
            found[f"{key}.alpha"] = torch.tensor(float(rank))
    return found


def control_weights() -> dict[str, torch.Tensor]:
    """A random ControlNet for the tiny base."""
    from comfy.cldm.cldm import ControlNet

    from support import tiny_comfy

    config = {
        k: v for k, v in tiny_comfy.unet_config().items() if k not in ("out_channels", "transformer_depth_output")
    }
    random, found = torch.Generator().manual_seed(5), {}
    for name, tensor in ControlNet(hint_channels=3, **config).state_dict().items():
        if tensor.ndim > 1:
            found[f"control_model.{name}"] = torch.randn(tensor.shape, generator=random) / tensor[0].numel() ** 0.5
        else:
            norm = name.endswith("weight")
            found[f"control_model.{name}"] = torch.ones_like(tensor) if norm else torch.zeros_like(tensor)
    return found
