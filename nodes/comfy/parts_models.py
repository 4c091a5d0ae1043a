"""Parts2Whole's models in ComfyUI: both UNets as MODELs, and the rest in a ModelPatcher of its own, which is loaded along."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_management as model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.sd
import comfy.utils
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from ...dhumandiff.errors import AdapterError
from ...dhumandiff.formats import parts2whole as files_of
from ...dhumandiff.methods.parts2whole.model import Parts2Whole
from ...dhumandiff.methods.parts2whole.part import Part
from ...dhumandiff.methods.parts2whole.schedule import NoiseSchedule
from .memory import compute_dtype, managed

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

__all__ = ["ComfyParts2Whole", "load_parts2whole"]

LAYOUT = {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1] * 9 + [0] * 3,
}
"""Of Stable Diffusion 1.5's UNet, from which ComfyUI tells its own names of diffusers' tensors."""


class ComfyParts2Whole(Parts2Whole):
    """The weights with the appearance encoder as a MODEL of ComfyUI."""

    def __init__(self, files: files_of.Parts2WholeFiles) -> None:
        super().__init__(files)
        self.encoder_patcher: Any = None
        self.encoded = WeakTensorKeyDictionary()
        """IMAGE -> what was made of it, see `parts2whole.encode_part`."""

    def _features_as(self) -> Any:
        return None  # weights come and go between devices; the features stay where ComfyUI keeps what nodes give

    def _encode(self, part: Part) -> list[Tensor]:
        if self.encoder_patcher is None:
            path = self.files.paths["reference"]
            zeros = _absent(self.files.reference)
            self.encoder_patcher = _load_unet({**self.files.reference, **zeros}, path)
            self.tell_absent()
        return _run_encoder(self.encoder_patcher, part)

    def free_encoder(self) -> None:
        """Take the appearance encoder off the GPU; it comes back when another part is to be encoded."""
        if self.encoder_patcher is not None:
            others = [
                loaded for loaded in model_management.current_loaded_models if loaded.model is not self.encoder_patcher
            ]
            model_management.free_memory(1e30, self.encoder_patcher.load_device, others)


def load_parts2whole(folder: Path) -> tuple[ModelPatcher, ModelPatcher]:
    """MODEL with the noise schedule that it was trained on, and DHD_PARTS, whose `model` is a `Parts2Whole`.

    Raises:
        AdapterError: a file is missing, damaged, or another model's; the message names it.
    """
    weights = ComfyParts2Whole.from_pretrained(folder)
    if not (folder / "unet").is_dir():
        raise AdapterError(
            f"{folder}: unet/ is not there, the UNet that draws. Fetch the folder again; what is there is kept.",
            code="parts2whole-without-unet",
        )
    _, tensors, path = files_of.read_unet(folder / "unet")
    model = _load_unet(tensors, path)
    model.add_object_patch("model_sampling", _sampling(weights.info.schedule))
    return model, managed(weights)


def _absent(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Zeros for what the appearance encoder lacks by design; their shapes are those of the block before."""
    last, like = "up_blocks.3.attentions.2", "up_blocks.3.attentions.1"
    zeros = {}
    for name in files_of.ABSENT - tensors.keys():
        if name.startswith(last):
            zeros[name] = torch.zeros_like(tensors[name.replace(last, like)])
        elif name.startswith("conv_norm_out"):
            zeros[name] = torch.zeros_like(tensors["conv_in.bias"])
        else:
            shape = (
                tensors["conv_in.weight"].transpose(0, 1).shape
                if name.endswith("weight")
                else tensors["conv_in.weight"].shape[1:2]
            )
            zeros[name] = torch.zeros(shape, dtype=tensors["conv_in.weight"].dtype)
    return zeros


def _load_unet(tensors: dict[str, Tensor], path: Path) -> ModelPatcher:
    """A UNet of Stable Diffusion 1.5 from diffusers' tensors, loaded as ComfyUI loads any.

    Raises:
        AdapterError: tensors are missing, or ComfyUI does not know the model.
    """
    names = comfy.utils.unet_to_diffusers(LAYOUT)
    given = {names[name]: tensor for name, tensor in tensors.items() if name in names}
    model = comfy.sd.load_diffusion_model_state_dict(dict(given))
    if model is None:
        raise AdapterError(
            f"{path}: ComfyUI does not know this UNet. Parts2Whole's are of Stable Diffusion 1.5's size; get the folder again.",
            code="unet-unknown",
        )
    lacking = sorted(set(model.model.diffusion_model.state_dict()) - set(given))
    if lacking:
        raise AdapterError(
            f"{path}: it lacks {len(lacking)} tensors of Stable Diffusion 1.5's UNet (ComfyUI's {', '.join(lacking[:3])}). Get "
            "the folder again.",
            code="unet-tensors",
        )
    return model


def _run_encoder(patcher: ModelPatcher, part: Part) -> list[Tensor]:
    """norm1's output [1, L, C] of every layer, in the order down, mid, up: the clean latent at timestep 0, with its label."""
    model_management.load_models_gpu([patcher])
    unet, device, dtype = patcher.model.diffusion_model, patcher.load_device, compute_dtype(patcher)
    order = {"input": 0, "middle": 1, "output": 2}
    found: dict[tuple[int, int, int], Tensor] = {}

    def keep(n: Tensor, context: Any, value: Any, extra: dict[str, Any]) -> tuple[Any, Any, Any]:
        block = extra["block"]
        found[order[block[0]], block[1], extra["block_index"]] = n.to(model_management.intermediate_device())
        return n, context, value

    with torch.no_grad():
        unet(
            part.latent.to(device, dtype),
            timesteps=torch.zeros(1, device=device),
            context=part.label_embedding.to(device, dtype),
            transformer_options={"patches": {"attn1_patch": [keep]}, "cond_or_uncond": [0]},
        )
    return [found[place] for place in sorted(found)]


def _sampling(schedule: NoiseSchedule) -> torch.nn.Module:
    """ComfyUI's model_sampling with the noise that the weights were trained on."""
    prediction = {"epsilon": comfy.model_sampling.EPS, "v_prediction": comfy.model_sampling.V_PREDICTION}
    kind = prediction[schedule.prediction_type]
    sampling = type("PartsSampling", (comfy.model_sampling.ModelSamplingDiscrete, kind), {})()
    sampling.num_timesteps = schedule.num_train_timesteps
    sampling.set_sigmas(schedule.sigmas())
    return sampling
