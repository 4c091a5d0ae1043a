"""A ComfyUI in this process, with this pack in it and an SDXL of any width and random weights.

comfy = load()                                    # before anything else imports ComfyUI
base = Base(channels=32, size=512)                # SDXL's own 70 cross-attention layers
picture = base.sample(base.model)                 # what KSampler does
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
CONTEXT, POOLED = 2048, 1280  # as in SDXL
CFG, SAMPLER, SCHEDULER = 5.0, "euler", "normal"


def load(threads: int = 2, device: str = "cpu", flags: Sequence[str] = ()) -> Any:
    """Bring ComfyUI and this pack into this process, with PyTorch's attention. Returns the pack.

    Args:
        threads: of PyTorch; 0 leaves them as they are.
        device: cpu, or cuda, where ComfyUI takes the first card.
        flags: of ComfyUI's command line, `--lowvram` say; in place of PyTorch's attention, if there are any.

    Raises:
        SystemExit: there is no ComfyUI.
    """
    folder = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "comfy" / "ComfyUI")
    if not (folder / "comfy" / "samplers.py").is_file():
        raise SystemExit(f"There is no ComfyUI in {folder}. Set COMFYUI_PATH to the folder that has main.py.")
    if "dhd_pack" in sys.modules:
        return sys.modules["dhd_pack"]
    sys.path.append(str(folder))  # at the end: ComfyUI has top-level modules called `nodes`, `utils`, `tests`
    import comfy.options

    comfy.options.enable_args_parsing()
    words, sys.argv = sys.argv, [sys.argv[0], *(flags or ["--use-pytorch-cross-attention"])]
    if device == "cpu":
        sys.argv.append("--cpu")
    try:
        import comfy.cli_args  # reads them; before anything imports comfy.model_management
    finally:
        sys.argv = words
    if threads:
        torch.set_num_threads(threads)
    # As ComfyUI's loader does it: a package of an arbitrary name.
    spec = importlib.util.spec_from_file_location(
        "dhd_pack", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    pack = importlib.util.module_from_spec(spec)
    sys.modules["dhd_pack"] = pack
    spec.loader.exec_module(pack)
    return pack


@dataclass
class Base:
    """What is sampled: an SDXL of random weights, two random people, two random prompts.

    Attributes:
        channels: of the UNet's first level; SDXL has 320. Heads have 64 channels each.
        size: side of the picture in pixels.
        steps: of the sampler.
        images: pictures a batch.
        cast: what it computes in, where that is another than the weights' (`--fp8_e4m3fn-unet`).
        fill: what puts random weights into the UNet; None: the tests' own.
    """

    channels: int = 32
    size: int = 512
    steps: int = 20
    images: int = 1
    dtype: torch.dtype = torch.float32
    cast: torch.dtype | None = None
    fill: Callable[[Any], Any] | None = None

    @cached_property
    def model(self) -> Any:
        """MODEL."""
        import comfy.model_base
        import comfy.model_management as management
        import comfy.model_patcher
        import comfy.supported_models
        from dhd_pack.dhumandiff.testing import fill_with_noise

        config = comfy.supported_models.SDXL(
            {
                "image_size": 32,
                "in_channels": 4,
                "out_channels": 4,
                "model_channels": self.channels,
                "channel_mult": [1, 2, 4],
                "num_res_blocks": [2, 2, 2],
                "transformer_depth": [0, 0, 2, 2, 10, 10],
                "transformer_depth_middle": 10,
                "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
                "num_head_channels": 64,
                "context_dim": CONTEXT,
                "adm_in_channels": POOLED + 6 * 256,
                "num_classes": "sequential",
                "use_spatial_transformer": True,
                "use_linear_in_transformer": True,
                "use_checkpoint": False,
                "legacy": False,
                "use_temporal_attention": False,
                "use_temporal_resblock": False,
                "dtype": self.dtype,
            }
        )
        config.set_inference_dtype(self.dtype, self.cast)
        made = comfy.model_base.SDXL(config, device=management.unet_offload_device())
        (self.fill or fill_with_noise)(made.diffusion_model)
        return comfy.model_patcher.ModelPatcher(made, management.get_torch_device(), management.unet_offload_device())

    @cached_property
    def adapter(self) -> Any:
        """DHD_ADAPTER as Load DHumanDiff Adapter makes it."""
        import comfy.model_management as management
        import comfy.model_patcher
        import comfy.ops
        from dhd_pack.dhumandiff.methods.paired.adapter import Adapter
        from dhd_pack.dhumandiff.testing import random_adapter

        narrow, wide = 2 * self.channels, 4 * self.channels
        plain = random_adapter([narrow] * 4 + [wide] * 50 + [narrow] * 6 + [wide] * 10, CONTEXT)
        made = Adapter.from_tensors(plain.state_dict(), plain.info.metadata, operations=comfy.ops.manual_cast)
        made.compute_dtype = self.cast or self.dtype
        return comfy.model_patcher.ModelPatcher(made, management.get_torch_device(), management.unet_offload_device())

    @cached_property
    def people(self) -> list[Any]:
        """Two DHD_REFERENCEs."""
        from dhd_pack.dhumandiff.references.reference import FaceReference

        return [
            FaceReference(
                identity=torch.nn.functional.normalize(_noise(seed, 1, 512), dim=-1),
                clip_hidden=_noise(seed, 1, 50, 64),
                clip_hidden_zero=_noise(0, 1, 50, 64),
                name=f"person {seed}",
            )
            for seed in (1, 2)
        ]

    @cached_property
    def masks(self) -> list[Tensor]:
        """Person 1 left, person 2 right, with a soft edge."""
        ramp = torch.linspace(-4, 4, self.size).sigmoid().expand(1, self.size, self.size)
        return [1 - ramp, ramp]

    def conditioning(self, seed: int) -> list:
        """CONDITIONING of SDXL's form."""
        sides = {"width": self.size, "height": self.size, "target_width": self.size, "target_height": self.size}
        return [
            [
                _noise(seed, 1, 77, CONTEXT),
                {"pooled_output": _noise(seed, 1, POOLED), "crop_w": 0, "crop_h": 0, **sides},
            ]
        ]

    def guider(self, model: Any, kind: Any = None, cfg: float = CFG) -> Any:
        """A guider with the two prompts; ComfyUI's own by default."""
        import comfy.samplers

        made = (kind or comfy.samplers.CFGGuider)(model)
        made.set_conds(self.conditioning(11), self.conditioning(12))
        made.set_cfg(cfg)
        return made

    def sample(self, guider: Any, seed: int = 0) -> Tensor:
        """A whole run as KSampler does it, from noise to latents [images, 4, size / 8, size / 8]."""
        import comfy.samplers

        model = guider.model_patcher
        noise = _noise(seed, self.images, 4, self.size // 8, self.size // 8)
        sampler = comfy.samplers.KSampler(
            model, self.steps, model.load_device, SAMPLER, SCHEDULER, 1.0, model.model_options
        )
        return guider.sample(
            noise,
            torch.zeros_like(noise),
            comfy.samplers.sampler_object(SAMPLER),
            sampler.sigmas,
            disable_pbar=True,
            seed=seed,
        )


def _noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
