"""The adapter: a DHumanDiff adapter as the identity path, and what is trained beside it.

dual = DualPathway.from_pretrained("pathway.safetensors")              # all parts in one file
dual = DualPathway.from_pretrained("models/dhumandiff/DHumanDiff")     # an adapter alone: untrained, and it works
people = dual.conditioning([[reference_1, reference_2]], DualPathwaySettings(), masks=masks)
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from ...conditioning.token_conditioning import Later, TokenMaker, face_tokens, projected
from ...errors import AdapterError
from ...formats import dual_pathway as file_format
from ...formats.reading import compare_shapes
from ...io import expand_user
from ...references.lacks import require
from .. import identity_from_pretrained, identity_from_tensors
from .conditioning import DualConditioning
from .settings import DualPathwaySettings
from .weights import Gates, Router, TextConsistency

if TYPE_CHECKING:
    from ...references.reference import FaceReference

__all__ = ["DualPathway", "DualPathwayInfo", "IdentityPath", "parts_of"]


class IdentityPath(TokenMaker, Protocol):
    """What the dual pathway asks of the weights of its identity path, a module; DHumanDiff's `Adapter` is such."""

    info: Any
    """layers, hidden, context_width, clip_width, and `metadata` as files have it."""

    def keys_values(self, layer: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Of the persons' tokens [B, P, T, C] at a layer, [B, P, T, hidden] each."""
        ...

    def check_persons(self, persons: int) -> None:
        """Refuse more people than the weights can tell apart."""
        ...


@dataclass(frozen=True)
class DualPathwayInfo:
    """What weights of the dual pathway are; sizes are read from their tensors. Of the identity path see `identity.info`."""

    parts: tuple[str, ...]
    """Of identity, tca, gates, router."""
    rank: int | None
    """Of the text-consistency path's projections; None where it is untrained."""
    gate_groups: tuple[int, ...]
    """Groups of heads that have a gate, of each layer; empty without gates."""
    router_width: int | None
    """Of routing tokens; None without a router."""
    license: str = ""
    """Of the trained parts."""
    source: str = ""
    """Where the trained parts come from."""
    trained_with: str = ""
    """Source of the identity that they were trained with."""


class DualPathway(nn.Module):
    """All weights of the method.

    Args:
        identity: DHumanDiff's `Adapter`, the identity-enhancing path.
        tca: the text-consistency path; None: a weaker identity path in its place.
        gates: of the mask; None: the mask acts as given.
        router: predicts regions; None: they are given, or found in the attention.
        metadata: pathway_licence, pathway_source, pathway_identity, as files have them.

    Raises:
        AdapterError: the parts are of several bases; the message names their sizes.
    """

    def __init__(
        self,
        identity: Any,
        tca: TextConsistency | None = None,
        gates: Gates | None = None,
        router: Router | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.identity, self.tca, self.gates, self.router = identity, tca, gates, router
        said = {key: (metadata or {}).get(key, "") for key in file_format.METADATA_KEYS}
        self.info = DualPathwayInfo(
            parts=tuple(part for part in file_format.PARTS if getattr(self, part) is not None),
            rank=None if tca is None else tca.rank,
            gate_groups=() if gates is None else gates.groups,
            router_width=None if router is None else router.width,
            license=said["pathway_licence"],
            source=said["pathway_source"],
            trained_with=said["pathway_identity"],
        )
        self._check_agreement()

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], identity: Any = None, *, operations: Any = nn
    ) -> DualPathway:
        """Read a file of the dual pathway, or a DHumanDiff adapter in any of its formats, which is then untrained.

        Args:
            path: of the file or folder. Nothing in it is executed.
            identity: an `Adapter` for a file that has none, or in place of the file's.
            operations: namespace that the layers come from; a host's own may cast weights on use.

        Raises:
            AdapterError: the file does not fit; the message says what it looks like.
        """
        place = Path(expand_user(path))
        if not file_format.is_file(place):
            if identity is not None:
                file_format.load(place)  # raises, and says what it is
            return cls(identity_from_pretrained(path, operations))
        weights = file_format.load(place)
        if identity is None and "identity" not in weights.parts:
            raise AdapterError(
                f"{place}: the file holds {', '.join(weights.parts)}, but no identity path. Give the adapter that it was trained with "
                f"({weights.metadata['pathway_identity'] or 'it does not say which'}), or join both with `python -m dhumandiff "
                "convert`.",
                code="dual-identity-missing",
            )
        if identity is None:
            files = dict.fromkeys(("face_projection", "identity_projection", "mapping", "attention"), str(place))
            identity = identity_from_tensors(weights.of("identity"), weights.metadata, files, operations)
        parts = parts_of(weights, operations)
        try:
            return cls(identity, **parts, metadata=weights.metadata).requires_grad_(False).eval()
        except AdapterError as error:
            raise AdapterError(f"{place}: {error}", code=error.code) from None

    def save_pretrained(self, path: str | os.PathLike[str], parts: Iterable[str] = file_format.PARTS) -> None:
        """Write one native .safetensors, at once or not at all; reading it gives the same bits.

        Args:
            path: ends in .safetensors.
            parts: which of the parts that are there.

        Raises:
            AdapterError: nothing is left of them, or the file cannot be written.
        """
        wanted = [part for part in self.info.parts if part in set(parts)]
        if not wanted:
            raise AdapterError(
                f"{path}: none of the parts {', '.join(parts)} is there; these weights hold {', '.join(self.info.parts)}.",
                code="dual-nothing-to-write",
            )
        tensors = {name: t for name, t in self.state_dict().items() if name.partition(".")[0] in wanted}
        file_format.save(Path(path), tensors, self.metadata)

    @property
    def metadata(self) -> dict[str, str]:
        """What tensors cannot tell, under the names that files have for it."""
        own = (self.info.license, self.info.source, self.info.trained_with)
        return {**self.identity.info.metadata, **dict(zip(file_format.METADATA_KEYS, own, strict=True))}

    @property
    def trained(self) -> bool:
        """Whether the text-consistency path has weights of its own."""
        return self.tca is not None

    @property
    def notes(self) -> list[str]:
        """What is to be said of these weights to who draws with them."""
        said = []
        if not self.trained:
            said.append("The text-consistency path is untrained: outside of the regions a weaker identity stands in.")
        own, with_ = self.identity.info.source, self.info.trained_with
        if own and with_ and own != with_:
            said.append(
                f"The trained parts of the dual pathway were trained with another adapter ({with_}) than the one at hand ({own}): they "
                "may fit badly."
            )
        return said

    def require_tca(self) -> TextConsistency:
        """The text-consistency path.

        Raises:
            AdapterError: there is none.
        """
        if self.tca is None:
            raise AdapterError(
                "These weights have no text-consistency path of their own, and a trained one was asked for: outside of the regions a "
                "weaker identity would stand in. Load weights that were trained for the dual pathway, or do not ask for it.",
                code="dual-untrained",
            )
        return self.tca

    def require_router(self) -> Router:
        """The router.

        Raises:
            AdapterError: there is none.
        """
        if self.router is None:
            raise AdapterError(
                "These weights have no router, so it cannot be asked for regions. Draw them, choose regions from attention, or load "
                "weights with a router.",
                code="dual-no-router",
            )
        return self.router

    def check(self, settings: DualPathwaySettings) -> None:
        """Refuse settings that these weights cannot follow, before anything heavy is done.

        Raises:
            HostError: the settings make no picture.
            AdapterError: a part that they need is not there.
        """
        settings.check()
        if settings.require_trained:
            self.require_tca()
        if settings.regions == "router":
            self.require_router()

    def conditioning(
        self,
        couples: Sequence[Sequence[FaceReference]],
        settings: DualPathwaySettings,
        person_strengths: Sequence[float] | None = None,
        masks: Tensor | None = None,
        recorded_layers: Iterable[int] | None = None,
    ) -> DualConditioning:
        """People, ready for every layer of a host.

        Args:
            couples: references of the people of each picture of a batch; one couple for all.
            settings: of the method.
            person_strengths: one a person, multiplied with both strengths.
            masks: each person's region, [P, N, H, W] 0..1. Needed where `settings.regions` is "given".
            recorded_layers: those whose attention tells where faces are; None: all.

        Raises:
            AdapterError: a part that the settings need is not there, or the weights are for fewer persons.
            HostError: there are no regions, or another number of them than of persons.
            FaceReferenceError: a reference was made with another image encoder.
        """
        self.check(settings)
        keys_values, text = Later(), None if self.tca is None else Later()
        people = DualConditioning(
            keys_values=keys_values,
            persons=len(couples[0]),
            settings=settings,
            text_keys_values=text,
            gates=self.gates,
            router=self.router if settings.regions == "router" else None,
            person_strengths=person_strengths,
            masks=masks,
            recorded_layers=recorded_layers,
        )
        self.identity.check_persons(people.persons)  # and only then are their tokens made
        with torch.no_grad():
            tokens = face_tokens(self.identity, couples)
            people.routing_tokens = self._routing_tokens(couples) if people.router is not None else None
        keys_values.made = projected(self.identity.keys_values, tokens)
        if self.tca is not None and text is not None:
            text.made = projected(self.tca.keys_values, tokens)
        return people

    def _routing_tokens(self, couples: Sequence[Sequence[FaceReference]]) -> Tensor:
        """[couples, P + 1, width]: the people's, the mean over their photos; then those of a picture of zeros."""
        router = self.require_router()
        nobody = [router.tokens(_states(couple[0], "clip_hidden_zero")).mean(dim=0) for couple in couples]
        people = [[router.tokens(_states(one, "clip_hidden")).mean(dim=0) for one in couple] for couple in couples]
        return torch.stack([torch.stack([*own, none]) for own, none in zip(people, nobody, strict=True)])

    def _check_agreement(self) -> None:
        base = self.identity.info
        for name, part in (("text-consistency path", self.tca), ("router", self.router)):
            if part is not None and tuple(part.hidden) != tuple(base.hidden):
                raise AdapterError(_of_another_base(name, part.hidden, base), code="dual-part-of-another-base")
        if self.gates is not None and len(self.gates.groups) != base.layers:
            sizes = f"The gates are for {len(self.gates.groups)} layers, the identity path for {base.layers}."
            raise AdapterError(f"{sizes} {_SAME_BASE}", code="dual-part-of-another-base")
        widths = []
        if self.tca is not None:
            widths.append(("text-consistency path reads face tokens", self.tca.context_width, base.context_width))
        if self.router is not None:
            widths.append(("router reads an image encoder's states", self.router.clip_width, base.clip_width))
        for what, own, wanted in widths:
            if own != wanted:
                raise AdapterError(
                    f"The {what} of width {own}, the identity path has {wanted}. {_SAME_BASE}",
                    code="dual-part-of-another-base",
                )


def _states(reference: FaceReference, part: str) -> Tensor:
    """The image encoder's hidden states of a person's photos, or of a picture of zeros. FaceReferenceError where there are none."""
    require(reference, "clip_hidden")
    return getattr(reference, part)


_SAME_BASE = "They were trained for another base: load parts that belong together."


def _of_another_base(name: str, hidden: Sequence[int], base: Any) -> str:
    def sizes(widths: Sequence[int]) -> str:
        each = ", ".join(f"{list(widths).count(width)} of width {width}" for width in sorted(set(widths)))
        return f"{len(widths)} cross-attention layers ({each})"

    return f"The {name} is for {sizes(hidden)}, the identity path for {sizes(base.hidden)}. {_SAME_BASE}"


def parts_of(weights: file_format.DualWeights, operations: Any = nn) -> dict[str, Any]:
    """The trained parts that a file holds, by name.

    Raises:
        AdapterError: one is incomplete; the message names the file.
    """
    kinds = {"tca": TextConsistency, "gates": Gates, "router": Router}
    return {
        name: _part(kinds[name], weights.of(name), name, str(weights.path), operations)
        for name in weights.parts
        if name in kinds
    }


def _part(kind: Any, tensors: Mapping[str, Tensor], name: str, file: str, operations: Any) -> Any:
    """A part around a file's tensors, without copying them. AdapterError names the file."""
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    with torch.device("meta"):
        try:
            expected = kind.from_shapes(shapes)
            part = expected if operations is nn else kind.from_shapes(shapes, operations)
        except AdapterError as error:
            raise AdapterError(f"{file}: {error}. Get it again.", code=error.code) from None
    wanted = {key: tuple(tensor.shape) for key, tensor in expected.state_dict().items()}
    compare_shapes(wanted, shapes, lambda key: (file, f"{name}.{key}"))
    part.load_state_dict(dict(tensors), strict=True, assign=True)
    return part
