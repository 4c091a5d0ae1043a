"""Cascaded inference: as a guider for any sampler, and as a KSampler in one piece."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from comfy_api.latest import io, ui
from torch import Tensor

from ..dhumandiff.methods.paired.cascade import FACE_STRENGTH, FOCUS_FRACTION, SCENE_STRENGTH
from ..dhumandiff.methods.paired.settings import MODES, CascadeSettings
from .comfy.guider import CascadeGuider
from .comfy.sampling import MAX_STEPS, SAMPLERS, SCHEDULERS, sample_like_ksampler
from .comfy.schema import ADVANCED, SHARE, STRENGTH, check_choice, progress_text, schema


def cascade_inputs() -> list[io.Input]:
    """The options of the cascade, the same in both nodes."""
    return [
        io.Float.Input(
            "scene_strength",
            default=SCENE_STRENGTH,
            **STRENGTH,
            tooltip="How much the faces count outside of the faces: less lets clothing and place follow the words.",
        ),
        io.Float.Input(
            "face_strength",
            default=FACE_STRENGTH,
            **STRENGTH,
            tooltip="How much the faces count where the faces are: more is more alike.",
        ),
        io.Float.Input(
            "focus_share",
            default=FOCUS_FRACTION,
            **SHARE,
            tooltip="Share of the picture that counts as face: 0.10 for half figures; more for close-ups, less for full bodies.",
            **ADVANCED,
        ),
        io.Combo.Input(
            "mode",
            options=list(MODES),
            default=MODES[0],
            tooltip="one_pass: the focus is found while sampling, and one prediction a step has both strengths, each in its "
            "place. two_strength: two predictions, joined by the focus: twice the time. released: as published, a first "
            "run for the mask and then a second one: three times.",
            **ADVANCED,
        ),
        io.Mask.Input(
            "focus",
            optional=True,
            tooltip="Where the faces are (white), in place of what is found while sampling: drawn, or the focus of an earlier run. "
            "For few steps, and for a face where you want it. One for all pictures of a batch, or one each.",
        ),
    ]


def make_guider(
    node: type[io.ComfyNode],
    model: Any,
    positive: Any,
    negative: Any,
    cfg: float,
    settings: CascadeSettings,
    focus: Tensor | None,
) -> CascadeGuider:
    """A guider with everything set, which says on the node what it is at."""
    guider = CascadeGuider(model)
    guider.report = progress_text(node)
    guider.set_cascade(settings, focus)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


class DHDCascadeGuider(io.ComfyNode):
    """MODEL with a pair -> GUIDER for SamplerCustomAdvanced."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DHDCascadeGuider",
            display_name="Cascade Guider",
            description="Cascaded inference as a guider: scene and faces at two strengths, with any sampler and scheduler.",
            search_aliases=["cascade", "guider", "two strengths", "cfg guider", "dhumandiff"],
            inputs=[
                io.Model.Input("model", tooltip="From Apply Disparity-Aware Conditioning."),
                io.Conditioning.Input("positive", tooltip="From Encode Subject-Augmented Prompt."),
                io.Conditioning.Input("negative", tooltip="From CLIP Text Encode."),
                io.Float.Input(
                    "cfg", default=5.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="5 is as published."
                ),
                *cascade_inputs(),
            ],
            outputs=[io.Guider.Output("guider", tooltip="For SamplerCustomAdvanced.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        cfg: float,
        scene_strength: float,
        face_strength: float,
        focus_share: float,
        mode: str,
        focus: Tensor | None = None,
    ) -> io.NodeOutput:
        mode = check_choice("mode", mode, MODES)
        settings = CascadeSettings(mode, scene_strength, face_strength, focus_fraction=focus_share)
        return io.NodeOutput(make_guider(cls, model, positive, negative, cfg, settings, focus))


class DHDCascadeKSampler(io.ComfyNode):
    """KSampler with the cascade inside, and the focus mask as an output."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return schema(
            node_id="DHDCascadeKSampler",
            display_name="KSampler (DHumanDiff Cascade)",
            description="Samples the scene at one strength of the faces and the faces at another.",
            search_aliases=["ksampler", "cascade", "sampler", "two strengths", "dhumandiff"],
            inputs=[
                io.Model.Input("model", tooltip="From Apply Disparity-Aware Conditioning."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The same seed gives the same picture.",
                ),
                io.Int.Input(
                    "steps", default=50, min=1, max=MAX_STEPS, tooltip="50 is as published; 25 to 30 do in most cases."
                ),
                io.Float.Input(
                    "cfg", default=5.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip="5 is as published."
                ),
                io.Combo.Input(
                    "sampler_name",
                    options=SAMPLERS,
                    default="euler",
                    tooltip="How noise is taken away.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=SCHEDULERS,
                    default="normal",
                    tooltip="How much of it at each step.",
                ),
                io.Conditioning.Input("positive", tooltip="From Encode Subject-Augmented Prompt."),
                io.Conditioning.Input("negative", tooltip="From CLIP Text Encode."),
                io.Latent.Input("latent_image", tooltip="An empty latent, or a picture to work on."),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Less than 1 keeps that much of the picture in latent_image.",
                ),
                *cascade_inputs(),
            ],
            outputs=[
                io.Latent.Output("latent", tooltip="The sampled latent."),
                io.Mask.Output("focus_out", display_name="focus", tooltip="Where the face strength was used."),
            ],
            hidden=[io.Hidden.unique_id],
            has_intermediate_output=True,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: Any,
        negative: Any,
        latent_image: dict[str, Any],
        denoise: float,
        scene_strength: float,
        face_strength: float,
        focus_share: float,
        mode: str,
        focus: Tensor | None = None,
    ) -> io.NodeOutput:
        mode = check_choice("mode", mode, MODES)
        sampler_name = check_choice("sampler_name", sampler_name, SAMPLERS)
        scheduler = check_choice("scheduler", scheduler, SCHEDULERS)
        settings = CascadeSettings(mode, scene_strength, face_strength, focus_fraction=focus_share)
        guider = make_guider(cls, model, positive, negative, cfg, settings, focus)
        sampled = sample_like_ksampler(
            guider,
            model,
            latent_image,
            seed=seed,
            steps=steps,
            sampler_name=sampler_name,
            scheduler=scheduler,
            denoise=denoise,
        )
        used = guider.focus
        if used is None:  # nothing was sampled (denoise 0), or nobody ever acted
            used = torch.zeros(sampled.shape[0], *sampled.shape[-2:])
        used = F.interpolate(used[:, None].float().cpu(), scale_factor=8, mode="nearest")[:, 0]
        return io.NodeOutput({**latent_image, "samples": sampled}, used, ui=ui.PreviewMask(used, cls=cls))
