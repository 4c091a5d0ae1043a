"""The dual pathway on a MODEL of ComfyUI: identity where faces count, words where words count (DP-Adapter, our reading).

The trained parts lie beside an adapter, in a ModelPatcher of their own: whoever takes the adapter (Subject Prompt, the pair) does not
see them. Keys and values of both paths are made before a run; only a router is read while sampling.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import comfy.model_management as model_management
import comfy.ops
import torch
from torch import Tensor, nn

from ...dhumandiff.conditioning.attention_store import last_layers
from ...dhumandiff.conditioning.finished_keys_values import FinishedKeysValues
from ...dhumandiff.conditioning.token_conditioning import KeysValues
from ...dhumandiff.errors import HostError
from ...dhumandiff.formats.values import check_weights
from ...dhumandiff.methods.dual_pathway import DualPathway, DualPathwaySettings
from ...dhumandiff.methods.dual_pathway.conditioning import DualConditioning
from ...dhumandiff.methods.dual_pathway.finding import FindRegions
from ...dhumandiff.methods.dual_pathway.regions import regions_of
from ...dhumandiff.methods.paired.settings import check_strengths
from .attention import AppliedPeople
from .memory import compute_dtype, managed
from .patch import check_compatible, put_on, reference_on

if TYPE_CHECKING:
    from pathlib import Path

    from ...dhumandiff.references.reference import FaceReference

__all__ = ["AppliedDual", "apply_dual", "load_pathway"]

PATHWAY = "dhumandiff_dual_pathway"
"""The attachment of an adapter that holds the trained parts."""


class TrainedParts(nn.Module):
    """What is trained beside an adapter, as one module that ComfyUI loads."""

    def __init__(self, dual: DualPathway) -> None:
        super().__init__()
        self.tca, self.gates, self.router, self.metadata = dual.tca, dual.gates, dual.router, dual.metadata


def load_pathway(path: Path) -> Any:
    """Read a file of the dual pathway: DHD_ADAPTER, with the trained parts beside it.

    Raises:
        AdapterError: the file is damaged, has no identity path, or its parts do not belong together.
    """
    dual = DualPathway.from_pretrained(path, operations=comfy.ops.manual_cast)
    dual.identity.compute_dtype = torch.float32  # as for an adapter alone
    adapter = managed(dual.identity)
    adapter.set_attachments(PATHWAY, managed(TrainedParts(dual)))
    return adapter


def apply_dual(
    model: Any,
    adapter: Any,
    references: Sequence[FaceReference],
    settings: DualPathwaySettings | None = None,
    *,
    person_strengths: Sequence[float] | None = None,
    masks: Sequence[Tensor | None] = (),
) -> tuple[Any, list[str]]:
    """A clone of the model that draws the references' faces by both paths, and what is to be said to who draws.

    Args:
        model: MODEL.
        adapter: ModelPatcher around an `Adapter`, of `load_pathway` or of an adapter alone, which is untrained.
        references: one a person, in order.
        settings: of the method; None: its defaults.
        person_strengths: one a person, multiplied with both strengths.
        masks: one region [N, H, W] a person, or None for a person who may be anywhere.

    Raises:
        HostError: the adapter does not fit the model, settings make no picture, or regions are lacking or empty.
        AdapterError: the weights lack a part that the settings need, hold NaN, or are for fewer persons.
        FaceReferenceError: a reference was made with another image encoder.
    """
    settings = settings or DualPathwaySettings()
    if not references:
        raise HostError("There is no reference: connect at least one person.", code="dual-no-reference")
    check_strengths(*(person_strengths or ()))
    keys = check_compatible(model, adapter.model.info)
    parts = adapter.get_attachment(PATHWAY)
    dual = _joined(adapter, parts)
    dual.check(settings)
    regions, notes = regions_of(masks, len(references), settings)
    adapter.model.check_persons(len(references))
    check_weights(dual)

    needed = [adapter] if parts is None else [adapter, parts]
    model_management.load_models_gpu(needed)
    moved = [reference_on(reference, adapter.load_device) for reference in references]
    last = last_layers([key[:2] for key in keys])
    people = dual.conditioning([moved], settings, person_strengths, regions, last)
    identity, words = people.keys_values, people.text_keys_values

    def finish(dtype: torch.dtype) -> None:
        model_management.load_models_gpu(needed)
        people.keys_values = _finished(identity, len(keys), adapter.load_device, dtype)
        if words is not None:
            people.text_keys_values = _finished(words, len(keys), adapter.load_device, dtype)

    finish(compute_dtype(model))
    applied = AppliedDual(
        people=people,
        adapter=parts if settings.regions == "router" else None,
        layers=len(keys),
        strength=1.0,
        finish=finish,
        start=settings.start,
        end=settings.end,
    )
    return put_on(model, applied, keys), [*notes, *dual.notes]


@dataclasses.dataclass(eq=False)
class AppliedDual(AppliedPeople):
    """People on one MODEL by the dual pathway.

    Attributes:
        finish: makes the keys and values of both paths for a model that computes in a dtype.
    """

    NODE = "Apply Dual Pathway"

    finish: Any = None

    def prepare(self, dtype: torch.dtype) -> None:
        """Before a run: make keys and values, where those that are there are of another dtype."""
        made = self.people.keys_values if isinstance(self.people, DualConditioning) else None
        if not isinstance(made, FinishedKeysValues) or made.dtype != dtype:
            self.finish(dtype)

    def on_run_start(self, sampling: Any) -> None:
        """Before a run: note the noise levels of `start` and `end`, and begin to look for regions where nobody drew any."""
        self.note_sigmas(sampling)
        assert isinstance(self.people, DualConditioning)
        settings = self.people.settings
        self.mode = FindRegions(settings) if settings.regions == "attention" else None


def _joined(adapter: Any, parts: Any) -> DualPathway:
    """The adapter's weights and the trained parts beside it as one. Nothing is copied."""
    if parts is None:
        return DualPathway(adapter.model)
    trained = parts.model
    return DualPathway(adapter.model, trained.tca, trained.gates, trained.router, trained.metadata)


def _finished(source: KeysValues, layers: int, device: torch.device, dtype: torch.dtype) -> FinishedKeysValues:
    with torch.no_grad():
        made = [source(layer, device, dtype) for layer in range(layers)]
    return FinishedKeysValues(made, model_management.intermediate_device())
