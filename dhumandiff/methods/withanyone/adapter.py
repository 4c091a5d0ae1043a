"""The adapter: the trained weights of WithAnyone, and what they make of people.

    adapter = WithAnyone.from_pretrained("models/withanyone/withanyone.safetensors", dtype=torch.bfloat16)
    arc = adapter.arc_tokens(embeddings)                          # [N, 8, D]
    sig = adapter.sig_tokens(siglip, embeddings)                  # [N, 264, D]
    added = adapter.residual(0, picture, arc, sig, boxes, size, id_weight=0.5, siglip_weight=0.5)

The two branches: *arc* knows who somebody is (an ArcFace embedding), *sig* what they look like on the photo as well (SigLIP). All
sizes come from the tensors. Formulas as in the authors' released code, see docs/method.md#withanyone.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import AdapterError
from ...formats import withanyone as file_format
from ...formats.reading import compare_shapes
from ...io import expand_user
from .attention import IdentityAttention, region_residual
from .inputs import check_embeddings, check_picture, check_siglip
from .regions import PixelBox, Regions, region_weights, regions_of

__all__ = ["ARC_TOKENS", "SIGLIP_TOKENS", "WithAnyone", "WithAnyoneInfo"]

log = logging.getLogger(__name__)

ARC_TOKENS = 8
"""Tokens that are made of one ArcFace embedding (as released)."""
SIGLIP_TOKENS = 256
"""Patches of SigLIP's picture, 256 px in patches of 16."""
BRANCHES = file_format.BRANCHES


@dataclass(frozen=True)
class WithAnyoneInfo:
    """What a file of WithAnyone is; sizes are read from its tensors."""

    width: int
    """Hidden width of the FLUX it is for (FLUX.1: 3072)."""
    blocks: int
    """Blocks of it, double and single (FLUX.1: 19 + 38)."""
    heads: int
    """Attention heads of 64 (24)."""
    arc: bool
    """Whether the branch of ArcFace is there."""
    sig: bool
    """Whether the branch of SigLIP is there."""
    kind: str
    """ "withanyone" (both branches), "arc", "sig", or "kontext": an ArcFace branch whose file says so in its name."""
    embedding_width: int
    """Width of the face recognizer's embedding (512)."""
    siglip_width: int | None
    """Width of SigLIP's hidden states (768); None without that branch."""
    ignored: tuple[str, ...] = ()
    """What else the file holds, in words."""
    source: str = ""
    """Name of the file."""


class WithAnyone(nn.Module):
    """The trained weights, with the names that the merged file has.

    Use `from_pretrained`. Per branch: `arcface_in_*` and, for SigLIP's, `siglip_in_sig` make tokens; `ipa_*` holds one
    `IdentityAttention` a block, the double ones first.

    compute_dtype, compute_device: where tokens are made, for `operations` that cast weights on use (a host's own). None: the
    weights' dtype, the input's device. With torch.nn the weights decide both.
    """

    compute_dtype: torch.dtype | None = None
    compute_device: torch.device | None = None

    def __init__(
        self,
        shapes: Mapping[str, Sequence[int]],
        kind: str,
        ignored: tuple[str, ...],
        source: str,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        self._casts = operations is not nn
        there = [branch for branch in BRANCHES if any(name.startswith(f"ipa_{branch}.") for name in shapes)]
        prefix = f"ipa_{there[0]}.0"
        inner, width = _size(shapes, f"{prefix}.to_q.weight")
        embedding_width = _size(shapes, f"arcface_in_{there[0]}.0.weight")[1]
        blocks = _count_blocks(shapes, there)
        for branch in there:
            wide = 4 * width
            self.add_module(f"arcface_in_{branch}", _projector(embedding_width, wide, ARC_TOKENS * width, operations))
            layers = (IdentityAttention(width, inner, operations) for _ in range(blocks))
            self.add_module(f"ipa_{branch}", nn.ModuleList(layers))
        siglip_width = None
        if "sig" in there:
            siglip_width = _size(shapes, "siglip_in_sig.0.weight")[1]
            self.add_module("siglip_in_sig", _projector(siglip_width, width, width, operations))
        self.info = WithAnyoneInfo(
            width=width,
            blocks=blocks,
            heads=inner // 64,
            arc="arc" in there,
            sig="sig" in there,
            kind=kind,
            embedding_width=embedding_width,
            siglip_width=siglip_width,
            ignored=ignored,
            source=source,
        )

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], operations: Any = None, dtype: torch.dtype | None = None
    ) -> WithAnyone:
        """Read the merged file or that of a branch, a .safetensors or a torch file. Nothing in it is executed.

        Args:
            path: of the file.
            operations: namespace that the layers come from; None: torch.nn. A host's own may cast weights on use.
            dtype: of the weights; None: as stored, or as most of them are. What is stored so stays mapped; the rest is converted
                a piece at a time, so that hardly more memory is taken than stays.

        Raises:
            AdapterError: the file does not fit; the message says what it looks like.
        """
        path = expand_user(path)
        if not os.path.exists(path):
            raise AdapterError(
                f"{path}: there is no such file. {file_format.EXPECTED}.", code="withanyone-file-missing"
            )
        weights = file_format.load(path)
        for words in weights.ignored:
            log.info("%s: ignored %s", path, words)
        shapes = {name: tuple(tensor.shape) for name, tensor in weights.tensors.items()}
        given = (shapes, weights.kind, weights.ignored, path.name)
        with torch.device("meta"):  # no memory, no initialization: the file's tensors take the parameters' places
            try:
                expected = cls(*given)
                adapter = expected if operations in (None, nn) else cls(*given, operations)
            except AdapterError as error:
                raise AdapterError(f"{path}: {error}. Get the file again.", code=error.code) from None
        wanted = {name: tuple(tensor.shape) for name, tensor in expected.state_dict().items()}
        compare_shapes(wanted, shapes, lambda name: (str(path), name))
        adapter.load_state_dict(file_format.as_dtype(weights, dtype), strict=True, assign=True)
        return adapter.requires_grad_(False).eval()

    def arc_tokens(self, embeddings: Tensor) -> Tensor:
        """The tokens of who people are.

        Args:
            embeddings: [N, 512] raw ArcFace embeddings (antelopev2's), as long as the recognizer makes them.

        Returns:
            [N, 8, D].

        Raises:
            AdapterError: the file has no ArcFace branch.
            FaceReferenceError: the embeddings have another shape, are zero or not finite, or were normalized.
        """
        self.check_branch("arc")
        return self._embedded("arc", embeddings)

    def sig_tokens(self, siglip: Tensor, embeddings: Tensor) -> Tensor:
        """The tokens of what people look like: SigLIP's first, then a second projection of their embeddings.

        Args:
            siglip: [N, 256, 768] last hidden states of SigLIP base-patch16-256.
            embeddings: as for `arc_tokens`.

        Returns:
            [N, 264, D].

        Raises:
            AdapterError: the file has no SigLIP branch.
            FaceReferenceError: as for `arc_tokens`; the hidden states are of another model, or of other people.
        """
        self.check_branch("sig")
        check_embeddings(embeddings, self.info.embedding_width)
        check_siglip(siglip, SIGLIP_TOKENS, self.info.siglip_width or 0, len(embeddings))
        projector = self._part("siglip_in_sig")
        return torch.cat([projector(self._inside(siglip, projector)), self._embedded("sig", embeddings)], dim=1)

    def keys_values(self, block: int, branch: str, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the people's tokens after a block. They do not change in a run.

        Args:
            block: its number from 0, the double ones first.
            branch: "arc" or "sig".
            tokens: [P, T, D] of `arc_tokens` or `sig_tokens`.

        Returns:
            Each [P, heads, T, 64], in the tokens' dtype.

        Raises:
            AdapterError: there is no such block or branch, or the tokens have another width.
        """
        layer = self.layer(block, branch)
        if tokens.ndim != 3 or tokens.shape[-1] != self.info.width:
            raise AdapterError(
                f"Identity tokens of the shape {list(tokens.shape)} do not fit: [people, tokens, {self.info.width}] was expected.",
                code="withanyone-tokens-shape",
            )
        return layer.keys_values(tokens)

    def residual(
        self,
        block: int,
        picture: Tensor,
        arc: Tensor | None,
        sig: Tensor | None,
        boxes: Sequence[PixelBox] | None,
        size: tuple[int, int],
        id_weight: float = 1.0,
        siglip_weight: float = 0.0,
        masks: Tensor | None = None,
    ) -> Tensor:
        """What the people add to the picture after a block.

        Args:
            block: its number from 0, the double ones first.
            picture: [B, L, D] its picture tokens.
            arc: [P, 8, D] of `arc_tokens`; None where `id_weight` is 0.
            sig: [P, 264, D] of `sig_tokens`; None where `siglip_weight` is 0.
            boxes: one a person, in their order: left, top, right, bottom in px; None where there are masks.
            size: (width, height) of the picture, px.
            id_weight, siglip_weight: of the branches. A slider s from "in spirit" to "in form" is (1 - s, s).
            masks: [P, H, W] 0..1 of the picture's shape, one a person, in the place of boxes.

        Returns:
            [B, L, D]; exactly 0 outside of the boxes.

        Raises:
            AdapterError: the file lacks a branch that has a weight, or there is no such block.
            HostError, LayoutError: picture, boxes or number of people do not fit together.
            ImageError: a mask is none.
        """
        check_picture(picture, self.info.width)
        given = {"arc": (id_weight, arc), "sig": (siglip_weight, sig)}
        counts = {len(tokens) for _, tokens in given.values() if tokens is not None}
        weights = region_weights(boxes, masks, size, picture.shape[1], counts)
        regions = regions_of(weights).to(picture.device)
        keys_values = {
            branch: self.keys_values(block, branch, tokens.to(picture))
            for branch, (weight, tokens) in given.items()
            if weight != 0 and tokens is not None
        }
        added = self.residual_rows(block, picture, keys_values, regions, id_weight, siglip_weight)
        whole = torch.zeros_like(picture)
        return whole if added is None else whole.index_copy_(1, regions.rows, added)

    def residual_rows(
        self,
        block: int,
        picture: Tensor,
        keys_values: Mapping[str, tuple[Tensor, Tensor]],
        regions: Regions,
        id_weight: float = 1.0,
        siglip_weight: float = 0.0,
    ) -> Tensor | None:
        """The same from keys and values that were kept, for the rows of the regions only.

        Args:
            keys_values: branch -> `keys_values` of the block; those of weight 0 may be left out.
            regions: where the people are, on the picture's device.

        Returns:
            [B, R, D] to add to the rows `regions.rows`; None where nothing is added.
        """
        layers = []
        for branch, weight in (("arc", id_weight), ("sig", siglip_weight)):
            if weight == 0:
                continue
            layer = self.layer(block, branch)
            if branch not in keys_values:
                raise AdapterError(
                    f"The branch {branch!r} has the weight {weight:g}, but no tokens: give those of the people, or the weight 0.",
                    code="withanyone-tokens-missing",
                )
            layers.append((weight, layer, keys_values[branch]))
        return region_residual(layers, picture, regions)

    def layer(self, block: int, branch: str) -> IdentityAttention:
        """The attention of one block and branch.

        Raises:
            AdapterError: there is none.
        """
        self.check_branch(branch)
        if not 0 <= block < self.info.blocks:
            raise AdapterError(
                f"Block {block} was asked for, but the adapter has the blocks 0 to {self.info.blocks - 1}.",
                code="no-such-layer",
            )
        return self._part(f"ipa_{branch}")[block]

    def _embedded(self, branch: str, embeddings: Tensor) -> Tensor:
        check_embeddings(embeddings, self.info.embedding_width)
        projector = self._part(f"arcface_in_{branch}")
        return projector(self._inside(embeddings, projector)).unflatten(-1, (ARC_TOKENS, self.info.width))

    def _inside(self, x: Tensor, projector: nn.Sequential) -> Tensor:
        """Inputs at the door: device and dtype as the projections compute."""
        weight = projector.get_parameter("0.weight")
        if self._casts:
            return x.to(device=self.compute_device or x.device, dtype=self.compute_dtype or weight.dtype)
        return x.to(weight)

    def check_branch(self, branch: str) -> None:
        """Refuse to go on without a branch.

        Raises:
            AdapterError: the file does not have it.
        """
        if not getattr(self.info, branch, False):
            words = {"arc": "ArcFace ('in spirit')", "sig": "SigLIP ('in form')"}.get(branch, repr(branch))
            raise AdapterError(
                f"{self.info.source or 'The file'} has no branch of {words}, which was asked for. Move the slider to the other end, or "
                "load withanyone.safetensors, which has both.",
                code="withanyone-branch-missing",
            )

    def _part(self, name: str) -> Any:
        return self.get_submodule(name)


def _projector(width: int, wide: int, out: int, operations: Any) -> nn.Sequential:
    """Linear, GELU, LayerNorm, Linear, numbered as released."""
    return nn.Sequential(
        operations.Linear(width, wide), nn.GELU(), operations.LayerNorm(wide), operations.Linear(wide, out)
    )


def _size(shapes: Mapping[str, Sequence[int]], name: str) -> tuple[int, int]:
    """Rows and columns of a weight.

    Raises:
        AdapterError: it is missing or no matrix.
    """
    if name not in shapes:
        raise AdapterError(f"the tensor {name!r} is missing", code="tensor-missing")
    if len(shapes[name]) != 2:
        raise AdapterError(
            f"the tensor {name!r} has the shape {list(shapes[name])}; two dimensions were expected",
            code="tensor-of-another-shape",
        )
    return int(shapes[name][0]), int(shapes[name][1])


def _count_blocks(shapes: Mapping[str, Sequence[int]], branches: Sequence[str]) -> int:
    """How many blocks there are.

    Raises:
        AdapterError: a number is missing, or the branches differ.
    """
    numbers = {
        branch: {int(found[1]) for name in shapes if (found := re.match(rf"ipa_{branch}\.(\d+)\.", name))}
        for branch in branches
    }
    blocks = max(map(len, numbers.values()))
    for branch, there in numbers.items():
        lacking = [number for number in range(blocks) if number not in there]
        if lacking:
            raise AdapterError(
                f"ipa_{branch} has no block {', '.join(map(str, lacking[:5]))}: the file is incomplete",
                code="withanyone-blocks-missing",
            )
    return blocks
