"""People on a MODEL of ComfyUI: every change goes through the model patcher, and the original model stays as it was.

Adapter weights live in a ModelPatcher of their own, so that ComfyUI counts, offloads and casts them like any other model. They are
read here, and not while sampling: keys and values do not change in a run, and are made before it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import comfy.model_management as model_management
import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP
from torch import Tensor

from ...dhumandiff.conditioning.finished_keys_values import FinishedKeysValues
from ...dhumandiff.conditioning.masks import check_mask, stack_masks
from ...dhumandiff.errors import AdapterError, HostError
from ...dhumandiff.methods.paired.adapter_checks import check_weights
from ...dhumandiff.methods.paired.attention_store import AttentionRecord, last_layers
from ...dhumandiff.methods.paired.conditioning import PairedConditioning
from ...dhumandiff.methods.paired.settings import CascadeSettings, check_start_end, check_strengths
from .attention import PEOPLE, AppliedPeople, PairedAttentionPatch, check_compilable, form_of, people_of
from .batch import CALL, STEP, GuiderStep, UNetCall, with_step
from .compiled import going_on, is_compiled
from .flux import FLUX_PEOPLE, FluxPeople, check_flux_not_compiled, flux_people_of
from .ids import check_seen
from .memory import compute_dtype

if TYPE_CHECKING:
    from ...dhumandiff.methods.paired.adapter import AdapterInfo
    from ...dhumandiff.references.reference import FaceReference

KEY = "dhumandiff"
LayerKey = tuple[str, int, int]
"""(part of the UNet, block, transformer within it), as ComfyUI's patches name a layer."""


def cross_attention_layers(model: Any) -> list[tuple[LayerKey, Any]]:
    """All cross-attention layers of a UNet as (patch key, module), in the adapter's order: down, up, mid.

    Raises:
        HostError: the MODEL is no UNet with cross-attention.
    """
    unet = model.get_model_object("diffusion_model")
    if not all(hasattr(unet, part) for part in ("input_blocks", "middle_block", "output_blocks")):
        raise HostError(
            f"This adapter is for SDXL, but the MODEL is {type(model.model).__name__}, which has no UNet. "
            "Load an SDXL checkpoint, or, for FLUX.1, use Apply WithAnyone.",
            code="no-unet",
        )
    middle = [] if unet.middle_block is None else [unet.middle_block]
    layers = []
    for part, blocks in (("input", unet.input_blocks), ("output", unet.output_blocks), ("middle", middle)):
        for number, block in enumerate(blocks):
            transformers = (t for layer in block for t in getattr(layer, "transformer_blocks", ()))
            layers += [((part, number, index), t.attn2) for index, t in enumerate(transformers) if t.attn2 is not None]
    return layers


def check_compatible(model: Any, info: AdapterInfo) -> list[LayerKey]:
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
            f"{f', like {known[context]}' if context in known else ''}. Load a checkpoint of the adapter's base.",
            code="adapter-of-another-base",
        )
    return [key for key, _ in layers]


def reference_on(reference: FaceReference, device: torch.device) -> FaceReference:
    """The reference with what the adapter reads moved to a device."""
    moved = {
        field: getattr(reference, field).to(device)
        for field in ("identity", "identity_swapped", "clip_hidden", "clip_hidden_zero")
        if getattr(reference, field, None) is not None
    }
    return dataclasses.replace(reference, **moved)


def apply_people(
    model: Any,
    adapter: Any,
    references: Sequence[FaceReference],
    strength: float = 1.0,
    *,
    person_strengths: Sequence[float] | None = None,
    masks: Sequence[Tensor | None] = (),
    start: float = 0.0,
    end: float = 1.0,
    cascade: CascadeSettings | None = None,
    focus: Tensor | None = None,
) -> Any:
    """A clone of the model that draws the references' faces.

    Args:
        model: MODEL.
        adapter: ModelPatcher around an `Adapter`.
        references: one a person, in order.
        strength: of all persons, where there is no cascade.
        person_strengths: one a person.
        masks: one MASK [N, H, W] a person, or None for a person who may be anywhere.
        start: share of sampling at which the people begin to act, 0..1.
        end: share of sampling at which they cease to, 0..1.
        cascade: that of the mode one_pass, with any sampler; None: the strength is the same everywhere.
        focus: MASK of where the faces are, in place of what is found while sampling.

    Raises:
        HostError: the adapter does not fit the model, or start is not before end.
        AdapterError: the weights are for fewer persons.
        FaceReferenceError: a reference was made with another image encoder.
    """
    check_start_end(start, end)
    check_strengths(strength, *(person_strengths or ()))
    if not references:
        raise HostError("There is no reference: connect at least one person.", code="no-reference")
    focus = None if focus is None else check_mask(focus, "focus mask")
    keys = check_compatible(model, adapter.model.info)
    adapter.model.check_persons(len(references))

    check_weights(adapter.model)
    model_management.load_models_gpu([adapter])
    references = [reference_on(reference, adapter.load_device) for reference in references]
    with torch.no_grad():
        conditional = torch.stack([adapter.model.face_tokens(r)[0] for r in references])
        unconditional = torch.stack([adapter.model.unconditional_tokens(r)[0] for r in references])
    if not torch.isfinite(conditional).all():
        raise AdapterError(
            "The adapter makes NaN of the references: its file is damaged. Get it again.", code="adapter-makes-nan"
        )
    tokens = torch.stack([unconditional, conditional]).float().to(model_management.intermediate_device())

    def keys_values(dtype: torch.dtype) -> FinishedKeysValues:
        model_management.load_models_gpu([adapter])
        given = tokens.to(adapter.load_device, dtype)
        with torch.no_grad():
            made = [adapter.model.keys_values(layer, given) for layer in range(len(keys))]
        one_couple = [(layer_keys[:, None], layer_values[:, None]) for layer_keys, layer_values in made]
        return FinishedKeysValues(one_couple, model_management.intermediate_device())

    last = last_layers([key[:2] for key in keys])
    finished = keys_values(compute_dtype(model))
    people = AppliedPeople(
        people=PairedConditioning(finished, len(references), person_strengths, stack_masks(masks), last),
        adapter=None,
        make_keys_values=keys_values,
        layers=len(keys),
        strength=strength,
        start=start,
        end=end,
        cascade=cascade,
        focus=focus,
    )
    return put_on(model, people, keys)


def put_on(model: Any, people: AppliedPeople, keys: Sequence[LayerKey]) -> Any:
    """A clone of the model with the people at these cross-attention layers, in the order of their numbers."""
    patched = model.clone()
    people.number = len(people_of(patched))
    present = patched.model_options["transformer_options"].get("patches_replace", {}).get("attn2", {})
    for layer, key in enumerate(keys):
        previous = present.get(key, present.get(key[:2]))
        patched.set_model_attn2_replace(PairedAttentionPatch(people, layer, previous), *key)
    options = patched.model_options["transformer_options"]
    options[PEOPLE] = (*options.get(PEOPLE, ()), people)
    add_wrappers(patched)
    return patched


def add_wrappers(patched: Any) -> None:
    """What runs around a run, its steps, predictions and calls of a model that somebody is on; added once."""
    if not patched.get_wrappers(WrappersMP.PREDICT_NOISE, KEY):
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _around_run)
        patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, _around_step)
        patched.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, KEY, _around_prediction)
        patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, _around_call)
        patched.add_callback_with_key(CallbacksMP.ON_CLONE, KEY, _own_patches)


def everybody_on(model: Any) -> tuple[AppliedPeople | FluxPeople, ...]:
    """The people on a MODEL, or on the model of a guider, of whichever method."""
    return (*people_of(model), *flux_people_of(model))


def _own_patches(_: Any, clone: Any) -> None:
    """Give a clone of the model patches of its own: other packs join theirs to them in place."""
    attn2 = clone.model_options["transformer_options"]["patches_replace"].get("attn2", {})
    for key, patch in attn2.items():
        if isinstance(patch, PairedAttentionPatch):
            attn2[key] = patch.copy()


def _around_run(executor: Any, *args: Any, **kwargs: Any) -> Any:
    """Nothing that a run computed stays behind, also when it was interrupted."""
    model, applied = executor.class_obj.model_patcher, everybody_on(executor.class_obj)
    compiled = is_compiled(model)
    for people in applied:
        people.prepare(compute_dtype(model))
        people.on_run_start(model.get_model_object("model_sampling"))
        people.compiled = compiled
    if compiled:
        check_compilable(model)
        check_flux_not_compiled(model)
    try:
        samples = executor(*args, **kwargs)
    finally:
        for people in applied:
            people.clear_cache()
    _check_finite(samples)
    return samples


def _check_finite(picture: Tensor) -> None:
    if not torch.isfinite(picture).all():
        raise HostError(
            "The model made NaN or infinite values instead of a picture. Start ComfyUI with --force-fp32 or --bf16-unet, "
            "lower the strength, or try another checkpoint: some overflow in fp16.",
            code="not-finite",
        )


def _around_step(
    executor: Any, x: Tensor, timestep: Tensor, model_options: dict | None = None, seed: Any = None
) -> Any:
    applied = everybody_on(executor.class_obj)
    for people in applied:
        people.on_step_start(x)
    step = GuiderStep.of_guider(executor.class_obj, x)
    out = executor(x, timestep, with_step(model_options or {}, step), seed)
    if not all(people.finite_checked for people in applied):  # once a run: looking at the values waits for the device
        _check_finite(out)
        check_seen(executor.class_obj.conds, step.positives or (), step.seen, float(timestep.flatten()[0]))
        for people in applied:
            people.finite_checked = True
    return out


def _around_prediction(
    executor: Any, model: Any, conds: list, x: Tensor, timestep: Tensor, model_options: dict[str, Any]
) -> list[Tensor]:
    """Read what is predicted as a part of the guider's step, and let people with a cascade of their own record the first prediction
    of each: guidance of other nodes may add some."""
    options = model_options["transformer_options"]
    step = options.get(STEP)
    if step is None:
        return executor(model, conds, x, timestep, model_options)
    step = step.predicting(x, options).asked(conds)
    recorders = {
        people.people: step.recording(people.mode.store, people.recorded)
        for people in options.get(PEOPLE, ())
        if people.should_record
    }
    if any(recorders.values()):

        def record(seen: AttentionRecord) -> None:
            recorder = recorders.get(seen.conditioning)
            if recorder is not None:
                recorder(seen)

        step = dataclasses.replace(step, record=record)
    return executor(model, conds, x, timestep, with_step(model_options, step))


def _around_call(
    executor: Any, x: Tensor, t: Tensor, c_concat: Any, c_crossattn: Any, control: Any, options: dict, **kwargs: Any
) -> Any:
    call = UNetCall(options.get(STEP, GuiderStep()), x, t, options)
    applied = options.get(PEOPLE, ())
    if any(people.compiled for people in applied):
        kwargs.update(form_of(options))
    with going_on(call, applied):
        out = executor(x, t, c_concat, c_crossattn, control, {**options, **call.for_others, CALL: call}, **kwargs)
    for people in (*applied, *options.get(FLUX_PEOPLE, ())):
        people.check_coverage(call, options)
    return out
