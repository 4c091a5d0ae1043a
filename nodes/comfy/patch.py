"""Putting a pair on a MODEL of ComfyUI: every change goes through the model patcher, and the original model stays as it was."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import comfy.model_management as model_management
import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from ...dhumandiff.errors import AdapterError, HostError, ImageError
from ...dhumandiff.methods.paired.attention_store import Observation, OnePass, last_layers
from ...dhumandiff.methods.paired.cascade import FOCUS_SHARE
from .batch import CALL, STEP, Call, Step, with_step
from .pair import KEY, PAIRS, Pair, PairedAttentionPatch, pairs_of


def cross_attention_layers(model: Any) -> list[tuple[tuple[str, int, int], Any]]:
    """All cross-attention layers of a UNet as (patch key, module), in the adapter's order: down, up, mid.

    Raises:
        HostError: the MODEL is no UNet with cross-attention.
    """
    unet = model.get_model_object("diffusion_model")
    if not all(hasattr(unet, part) for part in ("input_blocks", "middle_block", "output_blocks")):
        raise HostError(
            f"This adapter is for SDXL, but the MODEL is {type(model.model).__name__}, which has no UNet. "
            "Load an SDXL checkpoint."
        )
    middle = [] if unet.middle_block is None else [unet.middle_block]
    layers = []
    for part, blocks in (("input", unet.input_blocks), ("output", unet.output_blocks), ("middle", middle)):
        for number, block in enumerate(blocks):
            transformers = (t for layer in block for t in getattr(layer, "transformer_blocks", ()))
            layers += [((part, number, index), t.attn2) for index, t in enumerate(transformers) if t.attn2 is not None]
    return layers


def check_fit(model: Any, info: Any) -> list[tuple[str, int, int]]:
    """Patch keys of the model's layers, in the adapter's order.

    Raises:
        HostError: the model's layers are not those that the adapter was trained for.
    """
    layers = cross_attention_layers(model)
    context = layers[0][1].to_k.in_features if layers else 0
    widths = tuple(attention.heads * attention.dim_head for _, attention in layers)
    if context != info.context_width or widths != tuple(info.hidden):
        known = {768: "SD 1.5", 1024: "SD 2.x", 1280: "the SDXL refiner", 2048: "SDXL"}
        raise HostError(
            f"The adapter does not fit the MODEL. The adapter is for {info.base_family} ({info.layers} cross-attention "
            f"layers, context {info.context_width}); the MODEL has {len(layers)} layers, context {context}"
            f"{f', like {known[context]}' if context in known else ''}. Load a checkpoint of the adapter's base."
        )
    return [key for key, _ in layers]


def reference_on(reference: Any, device: torch.device) -> Any:
    """The reference with what the adapter reads moved to a device."""
    moved = {
        field: getattr(reference, field).to(device)
        for field in ("identity", "identity_swapped", "clip_hidden", "clip_hidden_zero")
        if getattr(reference, field, None) is not None
    }
    return dataclasses.replace(reference, **moved)


def stack_masks(masks: Sequence[Tensor | None]) -> Tensor | None:
    """One mask a person -> [P, N, H, W]; a person without one may be anywhere.

    Raises:
        ImageError: the masks differ in size or count.
    """
    given = [checked_mask(mask, f"mask of person {n}") for n, mask in enumerate(masks, 1) if mask is not None]
    if not given:
        return None
    sizes = {tuple(mask.shape[-2:]) for mask in given}
    counts = {mask.shape[0] for mask in given} - {1}
    if len(sizes) > 1 or len(counts) > 1:
        shapes = ", ".join(f"{m.shape[0]} of {m.shape[-1]} x {m.shape[-2]}" for m in given)
        raise ImageError(f"The person masks differ ({shapes}): give each person masks of one size and number.")
    like = max(given, key=lambda mask: mask.shape[0])
    everywhere = torch.ones_like(like)
    laid = iter(given)
    return torch.stack([everywhere if mask is None else next(laid).expand_as(like) for mask in masks])


def checked_mask(mask: Tensor, name: str) -> Tensor:
    """A mask as [N, H, W] 0..1. `name`: what messages call it.

    Raises:
        ImageError: it is none.
    """
    if mask.ndim == 4 and mask.shape[1] == 1:
        mask = mask[:, 0]
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3:
        raise ImageError(
            f"The {name} has the shape {list(mask.shape)}; [pictures, height, width] is needed. "
            "Connect a MASK, or turn the image into one (Convert Image to Mask)."
        )
    if not torch.isfinite(mask).all() or mask.min() < 0 or mask.max() > 1:
        raise ImageError(f"The {name} holds values that are not between 0 and 1. Make it anew.")
    return mask


def apply_pair(
    model: Any,
    adapter: Any,
    references: Sequence[Any],
    strength: float = 1.0,
    person_strengths: Sequence[float] | None = None,
    masks: Sequence[Tensor | None] = (),
    start: float = 0.0,
    end: float = 1.0,
    scene_strength: float | None = None,
    focus_share: float = FOCUS_SHARE,
    focus: Tensor | None = None,
) -> Any:
    """A clone of the model that draws the references' faces.

    Args:
        model: MODEL.
        adapter: ModelPatcher around an `Adapter`.
        references: one `FaceReference` a person, in order.
        strength: of all persons; where their faces are, if there is a scene strength.
        person_strengths: one a person.
        masks: one MASK [N, H, W] a person, or None for a person who may be anywhere.
        start: share of sampling at which the pair begins, 0..1.
        end: share of sampling at which it ends, 0..1.
        scene_strength: strength outside of the faces (the cascade's mode one_pass, with any sampler). None: the same everywhere.
        focus_share: share of the picture that is face.
        focus: MASK of where the faces are, in place of what is found while sampling.

    Raises:
        HostError: the adapter does not fit the model, or start is not before end.
        AdapterError: the weights are for fewer persons.
        FaceReferenceError: a reference was made with another vision tower.
    """
    if not 0 <= start < end <= 1:
        raise HostError(f"The pair starts at {start:g} and ends at {end:g} of sampling: choose a start before the end.")
    if not references:
        raise HostError("There is no reference: connect at least one person.")
    given = None if focus is None else checked_mask(focus, "focus mask")
    keys = check_fit(model, adapter.model.info)

    model_management.load_models_gpu([adapter])
    references = [reference_on(reference, adapter.load_device) for reference in references]
    with torch.no_grad():
        conditional = torch.stack([adapter.model.face_tokens(r)[0] for r in references])
        unconditional = torch.stack([adapter.model.unconditional_tokens(r)[0] for r in references])
    if not torch.isfinite(conditional).all():
        raise AdapterError("The adapter makes NaN of the references: its file is damaged. Get it again.")
    pair = Pair(
        adapter=adapter,
        tokens=torch.stack([unconditional, conditional]).float().to(model_management.intermediate_device()),
        layers=len(keys),
        strength=strength,
        person_strengths=tuple(person_strengths or [1.0] * len(references)),
        masks=stack_masks(masks),
        start=start,
        end=end,
        cascade=None
        if scene_strength is None
        else functools.partial(OnePass, scene_strength, strength, focus_share, given),
    )

    pair.keys_values(0, adapter.load_device, torch.float32)  # too many people are refused here, before sampling
    pair.forget()

    patched = model.clone()
    present = patched.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
    last = last_layers([key[:2] for key in keys])
    for layer, key in enumerate(keys):
        previous = present.get(key, present.get(key[:2]))
        patched.set_model_attn2_replace(PairedAttentionPatch(pair, layer, previous, last=layer in last), *key)
    options = patched.model_options["transformer_options"]
    options[PAIRS] = (*options.get(PAIRS, ()), pair)
    if not patched.get_wrappers(WrappersMP.PREDICT_NOISE, KEY):
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _run)
        patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, _note_step)
        patched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, _hear_first)
        patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _note_call)
        patched.add_callback_with_key(CallbacksMP.ON_CLONE, KEY, _own_patches)
    return patched


def _own_patches(_: Any, clone: Any) -> None:
    """Give a clone of the model patches of its own: other packs join theirs to them in place."""
    attn2 = clone.model_options["transformer_options"]["patches_replace"]["attn2"]
    for key, patch in attn2.items():
        if isinstance(patch, PairedAttentionPatch):
            attn2[key] = patch.copy()


def _run(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Around a whole run: nothing that it computed stays behind, also when it was interrupted."""
    pairs = pairs_of(executor.class_obj)
    for pair in pairs:
        pair.begin(executor.class_obj.model_patcher.get_model_object("model_sampling"))
    try:
        samples = executor(*args, **kwargs)
    finally:
        for pair in pairs:
            pair.forget()
    _check_finite(samples)
    return samples


def _check_finite(picture: Tensor) -> None:
    if not torch.isfinite(picture).all():
        raise HostError(
            "The model made NaN or infinite values instead of a picture. Start ComfyUI with --force-fp32 or --bf16-unet, "
            "lower the strength, or try another checkpoint: some overflow in fp16."
        )


def _note_step(executor: Any, x: Tensor, timestep: Tensor, model_options: dict | None = None, seed: Any = None) -> Any:
    pairs = pairs_of(executor.class_obj)
    for pair in pairs:
        pair.begin_step(x)
    out = executor(x, timestep, with_step(model_options or {}, Step.of_guider(executor.class_obj, x)), seed)
    if not all(pair.proven for pair in pairs):  # once a run: looking at the values waits for the device
        _check_finite(out)
        for pair in pairs:
            pair.proven = True
    return out


def _hear_first(
    executor: Any, model: Any, conds: list, x: Tensor, timestep: Tensor, model_options: dict[str, Any]
) -> list[Tensor]:
    """Let pairs with a cascade of their own hear the first prediction of a step: guidance of other nodes may add some."""
    options = model_options["transformer_options"]
    hearing = {pair for pair in options.get(PAIRS, ()) if pair.hears}
    if hearing:

        def observe(seen: Observation) -> None:
            if seen.pair in hearing:
                seen.pair.one_pass.listener(seen)

        for pair in hearing:
            pair.hears = False
        model_options = with_step(model_options, dataclasses.replace(options[STEP], observe=observe))
    return executor(model, conds, x, timestep, model_options)


def _note_call(
    executor: Any, x: Tensor, t: Tensor, c_concat: Any, c_crossattn: Any, control: Any, options: dict, **kwargs: Any
) -> Any:
    call = Call(options.get(STEP, Step()), x, t, options)
    out = executor(x, t, c_concat, c_crossattn, control, {**options, **call.for_others, CALL: call}, **kwargs)
    for pair in options.get(PAIRS, ()):
        pair.check_reached(call)
    return out
