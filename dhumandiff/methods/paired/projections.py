"""The trained parts of the adapter as modules, with parameter names exactly as released.

    FaceProjection        CLIP-H hidden states of a face -> face tokens                    face_projection.pt
    IdentityProjection    recognizer's embedding + CLIP-H hidden states -> identity token  face_projection2.pt
    SubjectMapping        [word embedding; identity token] -> subject token                mapping.pt
    PairedKeysValues      face tokens -> keys and values of one cross-attention layer      ip_adapter_ca.pt

Formulas: docs/method.md#projections, read from the authors' released code. Every class has `from_shapes`,
which reads all sizes from the shapes of a state dict, so that small adapters and the real one take the same road.
Layers come from an `operations` namespace (Linear, LayerNorm): torch.nn, or a host's own that casts weights on use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from ...errors import AdapterError

__all__ = [
    "FaceProjection",
    "IdentityProjection",
    "PairedKeysValues",
    "Perceiver",
    "SubjectMapping",
]

HEAD_WIDTH = 64
"""Width of an attention head in both projections (as released)."""

Shapes = Mapping[str, Sequence[int]]


def _size(shapes: Shapes, name: str, axis: int, ndim: int = 2) -> int:
    """One size out of a state dict's shapes.

    Raises:
        AdapterError: the tensor is missing or has another rank.
    """
    if name not in shapes:
        raise AdapterError(f"the tensor {name!r} is missing", code="tensor-missing")
    if len(shapes[name]) != ndim:
        raise AdapterError(
            f"the tensor {name!r} has the shape {list(shapes[name])}; {ndim} dimensions were expected",
            code="tensor-of-another-shape",
        )
    return int(shapes[name][axis])


class PerceiverAttention(nn.Module):
    """Learnt latents look at the picture's tokens and at each other.

    `x <- norm1(x)`, `l <- norm2(l)`; queries from l, keys and values from [x; l] along the tokens; heads of 64; softmax
    in float32; `to_out`. The residual is added by the caller. Shapes: x [B, N, width], latents [B, T, width].
    """

    def __init__(self, width: int, inner: int, operations: Any = nn) -> None:
        super().__init__()
        if inner % HEAD_WIDTH:
            raise AdapterError(
                f"to_q is {inner} wide, which is no multiple of the method's head width {HEAD_WIDTH}",
                code="heads-of-another-width",
            )
        self.heads = inner // HEAD_WIDTH
        self.norm1 = operations.LayerNorm(width)
        self.norm2 = operations.LayerNorm(width)
        self.to_q = operations.Linear(width, inner, bias=False)
        self.to_kv = operations.Linear(width, 2 * inner, bias=False)
        self.to_out = operations.Linear(inner, width, bias=False)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        """Return what the latents gather, [B, T, width]."""
        x, latents = self.norm1(x), self.norm2(latents)
        queries = rearrange(self.to_q(latents), "b t (h d) -> b h t d", h=self.heads)
        keys, values = rearrange(
            self.to_kv(torch.cat([x, latents], dim=1)), "b n (two h d) -> two b h n d", two=2, h=self.heads
        )
        # The scale goes in before the product: in float16 the plain product can pass 65504.
        scores = (queries * HEAD_WIDTH**-0.5) @ keys.transpose(-2, -1)
        out = scores.softmax(dim=-1, dtype=torch.float32).to(values.dtype) @ values
        return self.to_out(rearrange(out, "b h t d -> b t (h d)"))


class Perceiver(nn.Module):
    """`layers` of perceiver attention and feed-forward around `proj_in`, `proj_out`, `norm_out` (as released)."""

    def __init__(
        self,
        width: int,
        hidden_width: int,
        out_width: int,
        inner: int,
        ffn_width: int,
        depth: int,
        operations: Any = nn,
    ) -> None:
        super().__init__()
        self.proj_in = operations.Linear(hidden_width, width)
        self.proj_out = operations.Linear(width, out_width)
        self.norm_out = operations.LayerNorm(out_width)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PerceiverAttention(width, inner, operations),
                    nn.Sequential(
                        operations.LayerNorm(width),
                        operations.Linear(width, ffn_width, bias=False),
                        nn.GELU(),
                        operations.Linear(ffn_width, width, bias=False),
                    ),
                ]
            )
            for _ in range(depth)
        )

    @staticmethod
    def sizes(shapes: Shapes) -> dict[str, int]:
        """The keyword arguments that rebuild the module a state dict of these shapes came from."""
        depth = len({match[1] for name in shapes if (match := re.match(r"layers\.(\d+)\.", name))})
        return {
            "width": _size(shapes, "proj_in.weight", 0),
            "hidden_width": _size(shapes, "proj_in.weight", 1),
            "out_width": _size(shapes, "proj_out.weight", 0),
            "inner": _size(shapes, "layers.0.0.to_q.weight", 0),
            "ffn_width": _size(shapes, "layers.0.1.1.weight", 0),
            "depth": depth,
        }

    def forward(self, hidden: Tensor, latents: Tensor) -> Tensor:
        """hidden [B, N, hidden_width] and latents [B, T, width] -> [B, T, out_width]."""
        hidden = self.proj_in(hidden)
        for layer in self.layers:
            attention, feed_forward = layer.children()
            latents = latents + attention(hidden, latents)
            latents = latents + feed_forward(latents)
        return self.norm_out(self.proj_out(latents))


class FaceProjection(Perceiver):
    """CLIP-H hidden states of a face -> its face tokens (1280 -> 16 x 2048 as released, and in IP-Adapter Plus)."""

    def __init__(self, tokens: int, operations: Any = nn, **sizes: int) -> None:
        super().__init__(**sizes, operations=operations)
        self.latents = nn.Parameter(torch.randn(1, tokens, sizes["width"]) / sizes["width"] ** 0.5)

    @classmethod
    def from_shapes(cls, shapes: Shapes, operations: Any = nn) -> FaceProjection:
        """Build for a state dict of these shapes.

        Raises:
            AdapterError: they fit no face projection.
        """
        return cls(tokens=_size(shapes, "latents", 1, ndim=3), operations=operations, **cls.sizes(shapes))

    def forward(self, hidden: Tensor) -> Tensor:  # pyrefly: ignore[bad-override] (released names ask for inheritance)
        """hidden [B, N, clip_width] -> face tokens [B, tokens, context_width]."""
        latents = self.latents.to(hidden).expand(hidden.shape[0], -1, -1)
        return super().forward(hidden, latents)


class IdentityProjection(nn.Module):
    """(Recognizer's embedding, CLIP-H hidden states) -> identity token (512 and 257 x 1280 -> 1024 as released).

    The embedding makes the latent (Linear, GELU, Linear, LayerNorm), the perceiver makes the token of it; no shortcut.
    """

    def __init__(
        self, identity_width: int, between: int, token_width: int, perceiver: Mapping[str, int], operations: Any = nn
    ) -> None:
        super().__init__()
        self.identity_width = identity_width
        self.proj = nn.Sequential(
            operations.Linear(identity_width, between), nn.GELU(), operations.Linear(between, token_width)
        )
        self.norm = operations.LayerNorm(token_width)
        self.perceiver_resampler = Perceiver(**perceiver, operations=operations)

    @classmethod
    def from_shapes(cls, shapes: Shapes, operations: Any = nn) -> IdentityProjection:
        """Build for a state dict of these shapes.

        Raises:
            AdapterError: they fit no identity projection.
        """
        prefix = "perceiver_resampler."
        inside = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
        sizes = Perceiver.sizes(inside)
        token_width = _size(shapes, "proj.2.weight", 0)
        if token_width != sizes["width"]:
            raise AdapterError(
                f"'proj.2.weight' gives a latent of {token_width}, but the perceiver is {sizes['width']} wide; "
                "the released layout has one identity token of the perceiver's width",
                code="latent-of-another-width",
            )
        return cls(
            identity_width=_size(shapes, "proj.0.weight", 1),
            between=_size(shapes, "proj.0.weight", 0),
            token_width=token_width,
            perceiver=sizes,
            operations=operations,
        )

    def forward(self, identity: Tensor, hidden: Tensor) -> Tensor:
        """identity [B, identity_width] and hidden [B, N, clip_width] -> identity token [B, token_width]."""
        latent = self.norm(self.proj(identity))
        return self.perceiver_resampler(hidden, latent[:, None])[:, 0]


class SubjectMapping(nn.Module):
    """[word embedding; identity token] -> subject token: LayerNorm, Linear, GELU, Linear, no residual (as released)."""

    def __init__(self, in_width: int, between: int, out_width: int, operations: Any = nn) -> None:
        super().__init__()
        self.layernorm = operations.LayerNorm(in_width)
        self.fc1 = operations.Linear(in_width, between)
        self.fc2 = operations.Linear(between, out_width)

    @classmethod
    def from_shapes(cls, shapes: Shapes, operations: Any = nn) -> SubjectMapping:
        """Build for a state dict of these shapes.

        Raises:
            AdapterError: they fit no subject mapping.
        """
        return cls(
            in_width=_size(shapes, "fc1.weight", 1),
            between=_size(shapes, "fc1.weight", 0),
            out_width=_size(shapes, "fc2.weight", 0),
            operations=operations,
        )

    def forward(self, words: Tensor) -> Tensor:
        """words [..., text_width + token_width] -> [..., text_width]."""
        return self.fc2(nn.functional.gelu(self.fc1(self.layernorm(words))))


class PairedKeysValues(nn.Module):
    """Key and value projections of one cross-attention layer: `to_k_ip1`, `to_v_ip1`, `to_k_ip2`, ... without bias.

    Each person has projections of their own; that is what keeps two people apart. With `persons=None` there is a single
    pair, `to_k_ip` and `to_v_ip`, which serves everyone (IP-Adapter files).
    """

    to_k_ip: nn.Module
    to_v_ip: nn.Module

    def __init__(self, context_width: int, hidden: int, persons: int | None = 2, operations: Any = nn) -> None:
        super().__init__()
        self.context_width, self.hidden, self.shared = context_width, hidden, persons is None
        self.suffixes = [""] if persons is None else [str(p + 1) for p in range(persons)]
        for suffix in self.suffixes:
            setattr(self, f"to_k_ip{suffix}", operations.Linear(context_width, hidden, bias=False))
            setattr(self, f"to_v_ip{suffix}", operations.Linear(context_width, hidden, bias=False))

    @classmethod
    def from_shapes(cls, shapes: Shapes, operations: Any = nn) -> PairedKeysValues:
        """Build for a state dict of these shapes.

        Raises:
            AdapterError: they fit no layer of paired attention.
        """
        suffixes = sorted({match[1] for name in shapes if (match := re.fullmatch(r"to_[kv]_ip(\d*)\.weight", name))})
        if suffixes != [""] and (not suffixes or sorted(map(str, range(1, len(suffixes) + 1))) != suffixes):
            found = ", ".join(f"to_k_ip{suffix}" for suffix in suffixes) or "neither"
            raise AdapterError(
                f"keys and values must be to_k_ip1, to_k_ip2, ... or one to_k_ip, but it has {found}",
                code="keys-and-values-of-another-method",
            )
        first = f"to_k_ip{suffixes[0]}.weight"
        return cls(
            context_width=_size(shapes, first, 1),
            hidden=_size(shapes, first, 0),
            persons=None if suffixes == [""] else len(suffixes),
            operations=operations,
        )

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [B, P, T, context_width], one row a person -> keys, values, each [B, P, T, hidden]."""
        if self.shared:
            return self.to_k_ip(tokens), self.to_v_ip(tokens)
        persons = list(zip(self.suffixes, tokens.unbind(1), strict=False))  # fewer people than weights are welcome
        keys = torch.stack([getattr(self, f"to_k_ip{suffix}")(own) for suffix, own in persons], dim=1)
        values = torch.stack([getattr(self, f"to_v_ip{suffix}")(own) for suffix, own in persons], dim=1)
        return keys, values
