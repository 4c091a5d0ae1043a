"""WithAnyone written a second time, from the description of the method alone: every token, every head, one after another.

Nothing of the project is imported. Tensors have the names of the merged file. Slow, in float64, and plain.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


def layer_norm(x: Tensor, t: Tensors, name: str) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * t[f"{name}.weight"].double() + t[f"{name}.bias"].double()


def projector(x: Tensor, t: Tensors, name: str) -> Tensor:
    y = x.double() @ t[f"{name}.0.weight"].double().T + t[f"{name}.0.bias"].double()
    y = 0.5 * y * (1 + torch.erf(y / math.sqrt(2)))
    return layer_norm(y, t, f"{name}.2") @ t[f"{name}.3.weight"].double().T + t[f"{name}.3.bias"].double()


def arcface_tokens(embeddings: Tensor, t: Tensors, branch: str) -> Tensor:
    people = []
    for embedding in embeddings:
        y = projector(embedding[None], t, f"arcface_in_{branch}")[0]
        width = len(y) // 8
        people.append(torch.stack([y[token * width : (token + 1) * width] for token in range(8)]))
    return torch.stack(people)


def arc_tokens(embeddings: Tensor, t: Tensors) -> Tensor:
    return arcface_tokens(embeddings, t, "arc")


def sig_tokens(siglip: Tensor, embeddings: Tensor, t: Tensors) -> Tensor:
    faces = arcface_tokens(embeddings, t, "sig")
    people = []
    for person, hidden in enumerate(siglip):
        people.append(torch.cat([projector(hidden, t, "siglip_in_sig"), faces[person]]))
    return torch.stack(people)


def tokens_of_box(box: Sequence[float], size: tuple[int, int]) -> set[int]:
    """Which picture tokens a box covers, where both sides are multiples of 16."""
    columns, rows = size[0] // 16, size[1] // 16
    x1, y1, x2, y2 = box
    found = set()
    for row in range(max(0, int(y1) // 16), min(rows, math.ceil(y2 / 16))):
        for column in range(max(0, int(x1) // 16), min(columns, math.ceil(x2 / 16))):
            found.add(row * columns + column)
    return found


def branch_residual(block: int, branch: str, picture: Tensor, people: Tensor, shares: Tensor, t: Tensors) -> Tensor:
    """One branch after one block.

    Args:
        picture: [L, D].
        people: [P, T, D] tokens.
        shares: [P, L], who counts in which picture token, and how much.
    """
    name = f"ipa_{branch}.{block}"
    h = layer_norm(picture.double(), t, f"{name}.norm2")
    x = torch.cat([layer_norm(person.double(), t, f"{name}.norm1") for person in people])
    query = h @ t[f"{name}.to_q.weight"].double().T
    kv = x @ t[f"{name}.to_kv.weight"].double().T
    inner = query.shape[-1]
    key, value = kv[:, :inner], kv[:, inner:]
    per_person = people.shape[1]
    out = torch.zeros(len(picture), inner, dtype=torch.float64)
    for token in range(len(picture)):
        share = shares[:, token].double()
        if share.max() == 0:
            continue  # in nobody's region: exactly 0
        of_token = share.repeat_interleave(per_person)
        for head in range(inner // 64):
            part = slice(64 * head, 64 * (head + 1))
            logits = key[:, part] @ query[token, part] / 8
            parts = of_token * torch.exp(logits - logits.max())
            out[token, part] = share.max() * (parts / parts.sum()) @ value[:, part]
    return out @ t[f"{name}.to_out.weight"].double().T


def residual(
    block: int,
    picture: Tensor,
    arc: Tensor | None,
    sig: Tensor | None,
    boxes: Sequence[Sequence[float]],
    size: tuple[int, int],
    id_weight: float,
    siglip_weight: float,
    t: Tensors,
    shares: Tensor | None = None,
) -> Tensor:
    """[B, L, D]: both branches of a batch of pictures. `shares` [P, L] takes the place of the boxes."""
    if shares is None:
        shares = torch.zeros(len(boxes), picture.shape[1])
        for person, box in enumerate(boxes):
            for token in tokens_of_box(box, size):
                shares[person, token] = 1
    found = []
    for sample in picture:
        total = torch.zeros(sample.shape, dtype=torch.float64)
        if id_weight and arc is not None:
            total += id_weight * branch_residual(block, "arc", sample, arc, shares, t)
        if siglip_weight and sig is not None:
            total += siglip_weight * branch_residual(block, "sig", sample, sig, shares, t)
        found.append(total)
    return torch.stack(found)
