"""The adapter: the trained weights of the method, and what they make of a reference.

    adapter = Adapter.from_pretrained("models/dhumandiff/DHumanDiff")       # or a .safetensors, or an IP-Adapter Plus
    tokens = adapter.face_tokens(reference)                                # [1, 16, 2048]
    keys, values = adapter.keys_values(0, tokens[:, None])                 # first cross-attention layer, one person
    adapter.save_pretrained("pair.safetensors")

All sizes come from the tensors. The modules hold the very tensors that the file gave (memory-mapped where the format
allows it), without gradients; training switches those on with `requires_grad_`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ... import formats
from ...errors import AdapterError, FaceReferenceError, HostError
from ...formats.reading import OTHER_BASES, OTHER_TOWERS
from .projections import FaceProjection, IdentityProjection, PairedKeysValues, Shapes, SubjectMapping

if TYPE_CHECKING:
    from ...references.reference import FaceReference

__all__ = ["Adapter", "AdapterInfo"]


@dataclass(frozen=True)
class AdapterInfo:
    """What an adapter is: sizes read from its tensors, origin from its metadata."""

    layers: int
    """Cross-attention layers of the base UNet (SDXL: 70)."""
    hidden: tuple[int, ...]
    """Width of each of them, in file order: down, up, mid."""
    context_width: int
    """Width of a face token, which is that of the base's text context (SDXL: 2048)."""
    face_tokens: int
    """Tokens a face (16)."""
    clip_width: int
    """Width of the vision tower's hidden states (CLIP ViT-H/14: 1280)."""
    identity_width: int | None
    """Width of the recogniser's embedding (512); None without a subject path."""
    token_width: int | None
    """Width of the identity token (1024); None without a subject path."""
    text_width: int | None
    """Width of the text encoder's token embeddings (CLIP-L: 768); None without a subject path."""
    persons: int
    """Own key/value projections a layer: the number of people the weights can tell apart (2; 1 when shared)."""
    shared: bool
    """One key/value projection serves every person (IP-Adapter files)."""
    base_family: str = "sdxl"
    clip_tower: str = ""
    recogniser: str = ""
    identity_channels: str = "rgb-swapped"
    """"rgb-swapped": embeddings of channel-swapped faces, as the released script makes them; "bgr": of true colours."""
    licence: str = ""
    source: str = ""

    @property
    def metadata(self) -> dict[str, str]:
        """The part that tensors cannot tell, as files keep it."""
        everything = asdict(self)
        return {name: everything[name] for name in formats.METADATA}


class Adapter(nn.Module):
    """The trained weights: face projection, identity projection, subject mapping, paired attention.

    Use `from_pretrained`. `identity_projection` and `mapping` are None where a file has no subject path (IP-Adapter).
    `attention` holds one PairedKeysValues a cross-attention layer, in file order down, up, mid.

    compute_dtype, compute_device: where `face_tokens` and its siblings compute, for `operations` that cast weights on
    use (a host's own). None: the weights' dtype, the reference's device. With torch.nn the weights decide both.
    """

    compute_dtype: torch.dtype | None = None
    compute_device: torch.device | None = None

    def __init__(self, shapes: Shapes, metadata: Mapping[str, str], operations: Any = nn) -> None:
        super().__init__()
        parts: dict[str, dict] = {}
        for name, shape in shapes.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = shape
        build = _PartBuilder(parts, operations)
        self.face_projection = build("face_projection", FaceProjection)
        self.identity_projection = build("identity_projection", IdentityProjection, optional=True)
        self.mapping = build("mapping", SubjectMapping, optional=True)
        self.attention = build.layers()
        self._weights_cast_themselves = operations is not nn
        self.info = self._read_info(metadata)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike[str], *, operations: Any = nn) -> Adapter:
        """Read a folder with the four released files, a native .safetensors, or an IP-Adapter Plus (Face) SDXL file.

        Nothing in a file is executed. AdapterError says what a file that does not fit looks like.
        """
        weights = formats.load(path)
        return cls.from_tensors(weights.tensors, weights.metadata, places=weights.places, operations=operations)

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        metadata: Mapping[str, str],
        *,
        places: Mapping[str, str] | None = None,
        operations: Any = nn,
    ) -> Adapter:
        """Build around tensors named as in `state_dict()`, without copying them.

        `places` says, for each part (face_projection, identity_projection, mapping, attention), which file errors name.
        """
        places = dict(places or {})
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        with torch.device("meta"):  # no memory, no initialisation: the file's tensors take the parameters' places
            try:
                expected = cls(shapes, metadata)
                adapter = expected if operations is nn else cls(shapes, metadata, operations)
            except _PartError as error:
                place = places.get(error.part, "the adapter")
                raise AdapterError(f"{place}: {error}.") from None
        _check_names_and_shapes(expected, shapes, places)
        adapter.load_state_dict(dict(tensors), strict=True, assign=True)
        return adapter.requires_grad_(False).eval()

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write one native .safetensors, at once or not at all; reading it gives the same bits and the same info."""
        formats.native.save(Path(path), self.state_dict(), self.info.metadata)

    def save_released(self, folder: str | os.PathLike[str]) -> None:
        """Write the four files of the released layout. AdapterError for weights that the layout cannot hold."""
        formats.released.save(Path(folder), self.state_dict(), self.info.metadata)

    @property
    def has_subject_path(self) -> bool:
        """Whether identity and subject tokens can be made."""
        return self.identity_projection is not None and self.mapping is not None

    def face_tokens(self, reference: FaceReference) -> Tensor:
        """The face tokens of one person, [1, tokens, context_width]; the mean over several photos."""
        return self.face_projection(self._hidden(reference, reference.clip_hidden)).mean(dim=0, keepdim=True)

    def unconditional_tokens(self, reference: FaceReference) -> Tensor:
        """Face tokens of a normalised picture of zeros, [1, tokens, context_width], for the unconditional half."""
        return self.face_projection(self._hidden(reference, reference.clip_hidden_zero)).mean(dim=0, keepdim=True)

    def identity_token(self, reference: FaceReference) -> Tensor:
        """The identity token of one person, [1, token_width].

        The identity is the spherical mean over the photos, the token the mean over their hidden states.
        """
        self._need_subject_path()
        if reference.identity is None:
            raise FaceReferenceError(
                f"{_called(reference)} has no identity: it was made without a face recogniser. "
                "Encode the photos again with face analysis connected."
            )
        # References made elsewhere may lack the swapped embedding; theirs is then taken as it is given.
        as_released = self.info.identity_channels == "rgb-swapped"
        swapped = as_released and getattr(reference, "identity_swapped", None) is not None
        identity = reference.mean_identity(swapped=swapped)
        if identity.shape[-1] != self.info.identity_width:
            raise FaceReferenceError(
                f"{_called(reference)} has an identity of {identity.shape[-1]} numbers, but the adapter was trained "
                f"with {self.info.identity_width} ({self.info.recogniser or 'its recogniser'}). "
                "Encode the photos again with that recogniser."
            )
        hidden = self._hidden(reference, reference.clip_hidden)
        identity = identity.to(hidden).expand(hidden.shape[0], -1)
        return self.identity_projection(identity, hidden).mean(dim=0, keepdim=True)

    def subject_token(self, word_embedding: Tensor, reference: FaceReference) -> Tensor:
        """Map a word's token embedding to the person: [K, text_width] -> [K, text_width] (K = 1 for one token)."""
        self._need_subject_path()
        if word_embedding.ndim != 2 or word_embedding.shape[-1] != self.info.text_width:
            raise HostError(
                f"The word embedding has the shape {list(word_embedding.shape)}, but the adapter was trained with "
                f"[1, {self.info.text_width}] (CLIP-L, the first text encoder of SDXL). Connect SDXL's text encoders."
            )
        token = self.identity_token(reference)
        words = word_embedding.to(token)
        return self.mapping(torch.cat([words, token.expand(words.shape[0], -1)], dim=-1))

    def keys_values(self, layer: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the persons' face tokens in cross-attention layer `layer` (from 0, file order).

        tokens [B, P, T, context_width], P persons in order -> keys and values [B, P, T, hidden[layer]], in the dtype of
        the tokens. Person p uses their own projections, or the one there is when `info.shared`.
        """
        if not 0 <= layer < len(self.attention):
            raise AdapterError(
                f"Layer {layer} was asked for, but the adapter has the layers 0 to {self.info.layers - 1}."
            )
        if tokens.ndim != 4 or tokens.shape[-1] != self.info.context_width:
            raise AdapterError(
                f"Face tokens of the shape {list(tokens.shape)} do not fit this adapter: "
                f"[batch, persons, tokens, {self.info.context_width}] was expected."
            )
        persons = tokens.shape[1]
        if persons < 1 or (persons > self.info.persons and not self.info.shared):
            raise AdapterError(
                f"{persons} references were given, but these weights hold {self.info.persons} persons: "
                f"give 1 to {self.info.persons} references."
            )
        inside = tokens
        if not self._weights_cast_themselves:
            inside = tokens.to(next(self.attention[layer].parameters()))
        keys, values = self.attention[layer](inside)
        return keys.to(tokens.dtype), values.to(tokens.dtype)

    def _hidden(self, reference: FaceReference, hidden: Tensor) -> Tensor:
        """Hidden states at the door: width checked, device and dtype as the projections compute."""
        if hidden.ndim != 3 or hidden.shape[-1] != self.info.clip_width:
            raise FaceReferenceError(
                f"{_called(reference)} was encoded by a CLIP vision tower of width {hidden.shape[-1]} "
                f"({OTHER_TOWERS.get(hidden.shape[-1], 'which one is unknown')}), but the adapter was trained with "
                f"{self.info.clip_tower or 'CLIP ViT-H/14'}, width {self.info.clip_width}. "
                "Load that tower and encode the photos again."
            )
        weight = self.face_projection.latents
        if self._weights_cast_themselves:
            return hidden.to(device=self.compute_device or hidden.device, dtype=self.compute_dtype or weight.dtype)
        return hidden.to(weight)

    def _need_subject_path(self) -> None:
        if not self.has_subject_path:
            raise AdapterError(
                f"This adapter has no subject path (identity projection and subject mapping): {self.info.source}. "
                "IP-Adapter files hold face tokens and paired attention only; "
                "encode the prompt with the ordinary text encoder, or load DHumanDiff weights."
            )

    def _read_info(self, metadata: Mapping[str, str]) -> AdapterInfo:
        first = self.attention[0]
        identity, mapping = self.identity_projection, self.mapping
        info = AdapterInfo(
            layers=len(self.attention),
            hidden=tuple(layer.hidden for layer in self.attention),
            context_width=first.context_width,
            face_tokens=self.face_projection.latents.shape[1],
            clip_width=self.face_projection.proj_in.in_features,
            identity_width=identity and identity.proj[0].in_features,
            token_width=identity and identity.perceiver_resampler.proj_out.out_features,
            text_width=mapping and mapping.fc2.out_features,
            persons=len(first.suffixes),
            shared=first.shared,
            **{name: metadata[name] for name in formats.METADATA if name in metadata},
        )
        self._check_agreement(info)
        return info

    def _check_agreement(self, info: AdapterInfo) -> None:
        """Refuse parts that do not belong together, and weights of another family."""
        if info.shared:  # IP-Adapter exists for several bases and towers, under names that are easily mistaken
            self._check_is_for_sdxl(info)
        face_width = self.face_projection.proj_out.out_features
        for k, layer in enumerate(self.attention):
            if layer.context_width != face_width:
                raise _PartError(
                    "attention",
                    f"layer {k} reads tokens of width {layer.context_width}, but the face projection makes tokens of "
                    f"width {face_width}; the parts come from different adapters",
                )
            if layer.suffixes != self.attention[0].suffixes:
                raise _PartError(
                    "attention",
                    f"layer {k} holds {len(layer.suffixes)} persons, layer 0 holds {len(self.attention[0].suffixes)}",
                )
        if (self.identity_projection is None) != (self.mapping is None):
            lacking = "identity_projection" if self.identity_projection is None else "mapping"
            raise _PartError(lacking, f"{lacking} is missing; the subject path needs identity_projection and mapping")
        if self.mapping is None:
            return
        clip_width = self.identity_projection.perceiver_resampler.proj_in.in_features
        if clip_width != info.clip_width:
            raise _PartError(
                "identity_projection",
                f"it reads a CLIP tower of width {clip_width}, the face projection one of width {info.clip_width}; "
                "the parts come from different adapters",
            )
        if self.mapping.fc1.in_features != info.text_width + info.token_width:
            raise _PartError(
                "mapping",
                f"it reads {self.mapping.fc1.in_features} numbers, but word and identity token are {info.text_width} + "
                f"{info.token_width} wide; the parts come from different adapters",
            )

    def _check_is_for_sdxl(self, info: AdapterInfo) -> None:
        if info.context_width in OTHER_BASES:
            raise _PartError(
                "attention",
                f"its keys and values read a context of width {info.context_width}, that of "
                f"{OTHER_BASES[info.context_width]}; SDXL's is 2048. Choose the file made for SDXL",
            )
        if info.clip_width in OTHER_TOWERS:
            raise _PartError(
                "face_projection",
                f"it was trained on features of width {info.clip_width}: {OTHER_TOWERS[info.clip_width]}; "
                "CLIP ViT-H/14 has 1280. Choose the file with vit-h in its name",
            )


class _PartError(AdapterError):
    """A fault in one part; `from_tensors` turns it into a message that names the file the part came from."""

    def __init__(self, part: str, message: str) -> None:
        super().__init__(message)
        self.part = part


class _PartBuilder:
    """Builds modules from the shapes of the parts."""

    def __init__(self, parts: Mapping[str, Shapes], operations: Any) -> None:
        self.parts, self.operations = parts, operations

    def __call__(self, part: str, kind: type, optional: bool = False) -> Any:
        if part not in self.parts:
            if optional:
                return None
            raise _PartError(part, f"{part} is missing")
        return self._build(part, kind, self.parts[part])

    def layers(self) -> nn.ModuleList:
        """The paired attention, `attention.{k}.*` for k = 0, 1, 2, ..."""
        layers: dict[str, dict] = {}
        for name, shape in self.parts.get("attention", {}).items():
            number, _, rest = name.partition(".")
            layers.setdefault(number, {})[rest] = shape
        if not layers or set(layers) != {str(k) for k in range(len(layers))}:
            raise _PartError("attention", f"the attention layers are not numbered 0 to n but {sorted(layers)[:8]}")
        built = (self._build("attention", PairedKeysValues, layers[str(k)], f"layer {k}: ") for k in range(len(layers)))
        return nn.ModuleList(built)

    def _build(self, part: str, kind: type, shapes: Shapes, prefix: str = "") -> nn.Module:
        try:
            return kind.from_shapes(shapes, self.operations)
        except AdapterError as error:
            raise _PartError(part, f"{prefix}{error}; the file is incomplete or made for another method") from None


def _check_names_and_shapes(expected: Adapter, shapes: Shapes, places: Mapping[str, str]) -> None:
    """Compare a file's tensors with those of the module its sizes describe, part by part."""
    wanted = {name: tuple(tensor.shape) for name, tensor in expected.state_dict().items()}
    for name in [*wanted, *shapes]:
        part, _, rest = name.partition(".")
        place = places.get(part, "the adapter")
        if name not in shapes:
            raise AdapterError(f"{place}: the tensor {rest!r} is missing. The file is incomplete: get it again.")
        if name not in wanted:
            raise AdapterError(
                f"{place}: the tensor {rest!r} is not part of the method. Is this another method's file?"
            )
        if shapes[name] != wanted[name]:
            raise AdapterError(
                f"{place}: the tensor {rest!r} has the shape {list(shapes[name])}, "
                f"but the others ask for {list(wanted[name])}. The file is damaged or mixed from two adapters."
            )


def _called(reference: FaceReference) -> str:
    name = getattr(reference, "name", "")
    return f"The reference {name!r}" if name else "The reference"
