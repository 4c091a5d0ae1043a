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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from ... import formats
from ...errors import AdapterError, FaceReferenceError, HostError
from ...formats.reading import OTHER_ENCODERS
from ...references.lacks import called, require
from ...references.recognizers import check_trained_with
from .adapter_checks import PartBuilder, PartError, check_agreement, check_names_and_shapes
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
    """Width of the image encoder's hidden states (CLIP ViT-H/14: 1280)."""
    identity_width: int | None
    """Width of the recognizer's embedding (512); None without a subject path."""
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
    recognizer: str = ""
    identity_channels: str = "rgb-swapped"
    """"rgb-swapped": embeddings of channel-swapped faces, as the released script makes them; "bgr": of true colors."""
    license: str = ""
    source: str = ""

    @property
    def metadata(self) -> dict[str, str]:
        """The part that tensors cannot tell, under the names that files have for it."""
        everything = asdict(self)
        return {key: everything[field_of(key)] for key in formats.METADATA}

    def blending_note(self, masks: Sequence[object | None]) -> str | None:
        """A sentence for the person where people without a mask share one projection; `masks`: of each person, None for none."""
        if not self.shared or len(masks) < 2 or None not in masks:
            return None
        return (
            "These weights have one key/value projection for everybody, as IP-Adapter files do: where people have no mask their "
            "faces blend. Give each person a mask, such as those of Portrait Layout."
        )

    @property
    def identity_key(self) -> str:
        """Which embedding of a `FaceReference` the weights were trained with: "identity_swapped" or "identity"."""
        return "identity_swapped" if self.identity_channels == "rgb-swapped" else "identity"


def field_of(key: str) -> str:
    """The field of `AdapterInfo` for a key of a file's metadata, which keeps the spelling it was published with."""
    return {"recogniser": "recognizer", "licence": "license"}.get(key, key)


class Adapter(nn.Module):
    """The trained weights: face projection, identity projection, subject mapping, paired attention.

    Use `from_pretrained`. `identity_projection` and `mapping` are None where a file has no subject path (IP-Adapter).
    `attention` holds one PairedKeysValues a cross-attention layer, in file order down, up, mid.

    compute_dtype, compute_device: where `face_tokens` and its siblings compute, for `operations` that cast weights on
    use (a host's own). None: the weights' dtype, the reference's device. With torch.nn the weights decide both.
    """

    face_projection: FaceProjection
    identity_projection: IdentityProjection | None
    mapping: SubjectMapping | None
    attention: nn.ModuleList
    compute_dtype: torch.dtype | None = None
    compute_device: torch.device | None = None

    def __init__(self, shapes: Shapes, metadata: Mapping[str, str], operations: Any = nn) -> None:
        super().__init__()
        parts: dict[str, dict] = {}
        for name, shape in shapes.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = shape
        build = PartBuilder(parts, operations)
        self.face_projection = build("face_projection", FaceProjection)
        self.identity_projection = build("identity_projection", IdentityProjection, optional=True)
        self.mapping = build("mapping", SubjectMapping, optional=True)
        self.attention = build.layers()
        self._weights_cast_themselves = operations is not nn
        self.info = self._read_info(metadata)

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, operations: Any = nn, full: Iterable[Path] = ()
    ) -> Adapter:
        """Read a folder with the four released files, a native .safetensors, an IP-Adapter Plus (Face) SDXL file, or a low-rank
        file together with the full adapter that it changes.

        Nothing in a file is executed.

        Args:
            path: of the file or folder.
            operations: see `from_tensors`.
            full: for a low-rank file, files and folders among which its full adapter is; without any, those beside it.

        Raises:
            AdapterError: the file does not fit; the message says what it looks like.
        """
        weights = formats.load(path, full)
        return cls.from_tensors(weights.tensors, weights.metadata, files=weights.files, operations=operations)

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, Tensor],
        metadata: Mapping[str, str],
        *,
        files: Mapping[str, str] | None = None,
        operations: Any = nn,
    ) -> Adapter:
        """Build around tensors named as in `state_dict()`, without copying them.

        Args:
            tensors: of all parts.
            metadata: what tensors cannot tell, under the keys of files.
            files: for each part (face_projection, identity_projection, mapping, attention) the file that errors name.
            operations: namespace that the layers come from: torch.nn, or a host's own that casts weights on use.

        Raises:
            AdapterError: the tensors are incomplete, or made for another method or base; the message names the file.
        """
        files = dict(files or {})
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        with torch.device("meta"):  # no memory, no initialisation: the file's tensors take the parameters' places
            try:
                expected = cls(shapes, metadata)
                adapter = expected if operations is nn else cls(shapes, metadata, operations)
            except PartError as error:
                file = files.get(error.part, "the adapter")
                raise AdapterError(f"{file}: {error}.", code=error.code) from None
        check_names_and_shapes(expected, shapes, files)
        adapter.load_state_dict(dict(tensors), strict=True, assign=True)
        return adapter.requires_grad_(False).eval()

    def save_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Write one native .safetensors, at once or not at all; reading it gives the same bits and the same info."""
        formats.native.save(Path(path), self.state_dict(), self.info.metadata)

    def save_released(self, folder: str | os.PathLike[str]) -> None:
        """Write the four files of the released layout.

        Raises:
            AdapterError: the layout cannot hold these weights, or they cannot be written.
        """
        formats.released.save(Path(folder), self.state_dict(), self.info.metadata)

    @property
    def layers(self) -> list[PairedKeysValues]:
        """`attention` as a list: one PairedKeysValues a cross-attention layer, in file order."""
        return [layer for layer in self.attention if isinstance(layer, PairedKeysValues)]

    @property
    def has_subject_path(self) -> bool:
        """Whether identity and subject tokens can be made."""
        return self.identity_projection is not None and self.mapping is not None

    def face_tokens(self, reference: FaceReference) -> Tensor:
        """The face tokens of one person, [1, tokens, context_width]; the mean over several photos.

        Raises:
            FaceReferenceError: another image encoder saw the photos.
        """
        return self.face_projection(self._hidden(reference, "clip_hidden")).mean(dim=0, keepdim=True)

    def unconditional_tokens(self, reference: FaceReference) -> Tensor:
        """Face tokens of a normalized picture of zeros, [1, tokens, context_width], for the unconditional half.

        Raises:
            FaceReferenceError: another image encoder saw the photos.
        """
        return self.face_projection(self._hidden(reference, "clip_hidden_zero")).mean(dim=0, keepdim=True)

    def identity_token(self, reference: FaceReference) -> Tensor:
        """The identity token of one person, [1, token_width].

        The identity is the spherical mean over the photos, the token the mean over their hidden states.

        Raises:
            AdapterError: the weights have no subject path.
            FaceReferenceError: the reference has no identity, or one of another recognizer or image encoder.
        """
        projection, _ = self._subject_path()
        require(reference, "identity")
        # References made elsewhere may lack the swapped embedding; theirs is then taken as it is given.
        wants_swapped = self.info.identity_key == "identity_swapped"
        identity = reference.mean_identity(swapped=wants_swapped and reference.identity_swapped is not None)
        if identity.shape[-1] != self.info.identity_width:
            raise FaceReferenceError(
                f"{called(reference)} has an identity of {identity.shape[-1]} numbers, but the adapter was trained "
                f"with {self.info.identity_width} ({self.info.recognizer or 'its recogniser'}). "
                "Encode the photos again with that recogniser.",
                code="identity-of-another-width",
            )
        check_trained_with(reference, self.info.recognizer)
        hidden = self._hidden(reference, "clip_hidden")
        identity = identity.to(hidden).expand(hidden.shape[0], -1)
        return projection(identity, hidden).mean(dim=0, keepdim=True)

    def subject_token(self, word_embedding: Tensor, reference: FaceReference) -> Tensor:
        """Map a word's token embedding to the person.

        Args:
            word_embedding: [K, text_width], of K tokens.
            reference: the person.

        Returns:
            [K, text_width].

        Raises:
            HostError: the embedding is another text encoder's.
            AdapterError: the weights have no subject path.
            FaceReferenceError: as in `identity_token`.
        """
        _, mapping = self._subject_path()
        if word_embedding.ndim != 2 or word_embedding.shape[-1] != self.info.text_width:
            raise HostError(
                f"The word embedding has the shape {list(word_embedding.shape)}, but the adapter was trained with "
                f"[1, {self.info.text_width}] (CLIP-L, the first text encoder of SDXL). Connect SDXL's text encoders.",
                code="word-embedding-of-another-shape",
            )
        token = self.identity_token(reference)
        words = word_embedding.to(token)
        return mapping(torch.cat([words, token.expand(words.shape[0], -1)], dim=-1))

    def keys_values(self, layer: int, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the persons' face tokens in one cross-attention layer.

        Args:
            layer: its number from 0, in file order.
            tokens: [B, P, T, context_width] of P persons in order. Person p uses their own projections, or the one there is
                when `info.shared`.

        Returns:
            Keys and values [B, P, T, hidden[layer]], in the dtype of the tokens.

        Raises:
            AdapterError: there is no such layer, the tokens have another shape, or there are more persons than projections.
        """
        if not 0 <= layer < len(self.attention):
            raise AdapterError(
                f"Layer {layer} was asked for, but the adapter has the layers 0 to {self.info.layers - 1}.",
                code="no-such-layer",
            )
        if tokens.ndim != 4 or tokens.shape[-1] != self.info.context_width:
            raise AdapterError(
                f"Face tokens of the shape {list(tokens.shape)} do not fit this adapter: "
                f"[batch, persons, tokens, {self.info.context_width}] was expected.",
                code="face-tokens-of-another-shape",
            )
        self.check_persons(tokens.shape[1])
        inside = tokens
        if not self._weights_cast_themselves:
            weight = next(self.attention[layer].parameters())
            inside = tokens.to(weight.device, weight.dtype)
        keys, values = self.attention[layer](inside)
        return keys.to(tokens.dtype), values.to(tokens.dtype)

    def check_persons(self, persons: int) -> None:
        """Refuse more people than the weights can tell apart; one projection for everybody takes any number.

        Raises:
            AdapterError: says how many they hold.
        """
        if persons < 1 or (persons > self.info.persons and not self.info.shared):
            raise AdapterError(
                f"{persons} references were given, but these weights hold {self.info.persons} persons: "
                f"give 1 to {self.info.persons} references. For more people load an IP-Adapter Plus (Face) file for SDXL, whose "
                "one projection serves everybody, and give each person a mask.",
                code="too-many-references",
            )

    def _hidden(self, reference: FaceReference, part: Literal["clip_hidden", "clip_hidden_zero"]) -> Tensor:
        """Hidden states at the door: width checked, device and dtype as the projections compute."""
        require(reference, "clip_hidden")
        hidden: Tensor = getattr(reference, part)
        if hidden.ndim != 3 or hidden.shape[-1] != self.info.clip_width:
            raise FaceReferenceError(
                f"{called(reference)} was encoded by a CLIP image encoder of width {hidden.shape[-1]} "
                f"({OTHER_ENCODERS.get(hidden.shape[-1], 'which one is unknown')}), but the adapter was trained with "
                f"{self.info.clip_tower or 'CLIP ViT-H/14'}, width {self.info.clip_width}. "
                "Load that encoder and encode the photos again.",
                code="reference-of-another-encoder",
            )
        weight = self.face_projection.latents
        if self._weights_cast_themselves:
            return hidden.to(device=self.compute_device or hidden.device, dtype=self.compute_dtype or weight.dtype)
        return hidden.to(weight.device, weight.dtype)

    def _subject_path(self) -> tuple[IdentityProjection, SubjectMapping]:
        if self.identity_projection is None or self.mapping is None:
            raise AdapterError(
                f"This adapter has no subject path (identity projection and subject mapping): {self.info.source}. "
                "IP-Adapter files hold face tokens and paired attention only; "
                "encode the prompt with the ordinary text encoder, or load DHumanDiff weights.",
                code="no-subject-path",
            )
        return self.identity_projection, self.mapping

    def _read_info(self, metadata: Mapping[str, str]) -> AdapterInfo:
        first = self.layers[0]
        identity, mapping = self.identity_projection, self.mapping
        info = AdapterInfo(
            layers=len(self.attention),
            hidden=tuple(layer.hidden for layer in self.layers),
            context_width=first.context_width,
            face_tokens=self.face_projection.latents.shape[1],
            clip_width=self.face_projection.proj_in.in_features,
            identity_width=identity.identity_width if identity else None,
            token_width=identity.perceiver_resampler.proj_out.out_features if identity else None,
            text_width=mapping.fc2.out_features if mapping else None,
            persons=len(first.suffixes),
            shared=first.shared,
            **{field_of(key): metadata[key] for key in formats.METADATA if key in metadata},
        )
        check_agreement(self, info)
        return info
