"""Whether the parts of an adapter are there, belong together, and are this method's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from ...errors import AdapterError
from ...formats.reading import OTHER_BASES, OTHER_ENCODERS, compare_shapes
from ...formats.values import check_weights
from .projections import PairedKeysValues, Shapes

if TYPE_CHECKING:
    from .adapter import Adapter, AdapterInfo

__all__ = ["PartBuilder", "PartError", "check_agreement", "check_names_and_shapes", "check_weights"]


class PartError(AdapterError):
    """A fault in one part; `from_tensors` turns it into a message that names the file the part came from."""

    def __init__(self, part: str, message: str, *, code: str) -> None:
        super().__init__(message, code=code)
        self.part = part


class PartBuilder:
    """Builds modules from the shapes of the parts."""

    def __init__(self, parts: Mapping[str, Shapes], operations: Any) -> None:
        self.parts, self.operations = parts, operations

    def __call__(self, part: str, kind: type, optional: bool = False) -> Any:
        if part not in self.parts:
            if optional:
                return None
            raise PartError(part, f"{part} is missing", code="part-missing")
        return self._build(part, kind, self.parts[part])

    def layers(self) -> nn.ModuleList:
        """The paired attention, `attention.{k}.*` for k = 0, 1, 2, ..."""
        layers: dict[str, dict] = {}
        for name, shape in self.parts.get("attention", {}).items():
            number, _, rest = name.partition(".")
            layers.setdefault(number, {})[rest] = shape
        if not layers or set(layers) != {str(k) for k in range(len(layers))}:
            raise PartError(
                "attention",
                f"the attention layers are not numbered 0 to n but {sorted(layers)[:8]}",
                code="layers-not-numbered",
            )
        built = (self._build("attention", PairedKeysValues, layers[str(k)], f"layer {k}: ") for k in range(len(layers)))
        return nn.ModuleList(built)

    def _build(self, part: str, kind: type, shapes: Shapes, prefix: str = "") -> nn.Module:
        try:
            return kind.from_shapes(shapes, self.operations)
        except AdapterError as error:
            raise PartError(
                part, f"{prefix}{error}; the file is incomplete or made for another method", code=error.code
            ) from None


def check_names_and_shapes(expected: Adapter, shapes: Shapes, files: Mapping[str, str]) -> None:
    """Compare a file's tensors with those of the module its sizes describe, part by part.

    Args:
        expected: built from the sizes that some of the tensors have.
        shapes: of all tensors, named as in `Adapter.state_dict()`.
        files: part -> the file that messages name.

    Raises:
        AdapterError: a tensor is missing, unknown, or of another shape than the others ask for.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.state_dict().items()}

    def called(name: str) -> tuple[str, str]:
        part, _, rest = name.partition(".")
        return files.get(part, "the adapter"), rest

    compare_shapes(wanted, shapes, called)


def check_agreement(adapter: Adapter, info: AdapterInfo) -> None:
    """Refuse parts that do not belong together, and weights of another family.

    Raises:
        PartError: naming the part.
    """
    if info.shared:  # IP-Adapter exists for several bases and encoders, under names that are easily mistaken
        _check_is_for_sdxl(info)
    face_width = adapter.face_projection.proj_out.out_features
    layers = adapter.layers
    for k, layer in enumerate(layers):
        if layer.context_width != face_width:
            raise PartError(
                "attention",
                f"layer {k} reads tokens of width {layer.context_width}, but the face projection makes tokens of "
                f"width {face_width}; the parts come from different adapters",
                code="parts-of-different-adapters",
            )
        if layer.suffixes != layers[0].suffixes:
            raise PartError(
                "attention",
                f"layer {k} holds {len(layer.suffixes)} persons, layer 0 holds {len(layers[0].suffixes)}",
                code="layers-of-different-persons",
            )
    if (adapter.identity_projection is None) != (adapter.mapping is None):
        lacking = "identity_projection" if adapter.identity_projection is None else "mapping"
        raise PartError(
            lacking,
            f"{lacking} is missing; the subject path needs identity_projection and mapping",
            code="part-missing",
        )
    if adapter.identity_projection is None or adapter.mapping is None:
        return
    clip_width = adapter.identity_projection.perceiver_resampler.proj_in.in_features
    if clip_width != info.clip_width:
        raise PartError(
            "identity_projection",
            f"it reads an image encoder of width {clip_width}, the face projection one of width {info.clip_width}; "
            "the parts come from different adapters",
            code="parts-of-different-adapters",
        )
    if adapter.mapping.fc1.in_features != (info.text_width or 0) + (info.token_width or 0):
        raise PartError(
            "mapping",
            f"it reads {adapter.mapping.fc1.in_features} numbers, but word and identity token are {info.text_width} + "
            f"{info.token_width} wide; the parts come from different adapters",
            code="parts-of-different-adapters",
        )


def _check_is_for_sdxl(info: AdapterInfo) -> None:
    if info.context_width in OTHER_BASES:
        raise PartError(
            "attention",
            f"its keys and values read a context of width {info.context_width}, that of "
            f"{OTHER_BASES[info.context_width]}; SDXL's is 2048. Choose the file made for SDXL",
            code="made-for-another-base",
        )
    if info.clip_width in OTHER_ENCODERS:
        raise PartError(
            "face_projection",
            f"it was trained on features of width {info.clip_width}: {OTHER_ENCODERS[info.clip_width]}; "
            "CLIP ViT-H/14 has 1280. Choose the file with vit-h in its name",
            code="made-for-another-encoder",
        )
