"""WithAnyone's weights for FLUX.1: one file with both branches, or with one.

    merged    ipa_arc.{0..56}.* ipa_sig.{0..56}.* arcface_in_arc.* arcface_in_sig.* siglip_in_sig.*
    a branch  ipa.{0..56}.* arcface_in.* siglip_in.*        ArcFace's (also for Kontext) or SigLIP's

Which branch a file without suffix is, its `siglip_in` tells: SigLIP's makes a token of the width of FLUX for each of SigLIP's,
ArcFace's has an unused one that begins four times as wide, or none. A merged file may hold that as `siglip_in_arc.*`, and
either may hold tensors of FLUX itself; neither is read.

Only a part of a file is in memory at a time while its numbers are brought to another type (`as_dtype`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import AdapterError, short_error
from . import ip_adapter, native
from .reading import DTYPES, TensorFile, check_dtypes, looks_like, read_tensor_file

__all__ = ["BRANCHES", "NAME", "WithAnyoneWeights", "as_dtype", "is_file", "load", "matches"]

NAME = "withanyone"
BRANCHES = ("arc", "sig")

PIECE = 2**22
"""Numbers that are brought to another type at a time: 16 MB of float32."""

_BLOCK = re.compile(r"^ipa(_arc|_sig)?\.\d+\.")
_OWN = re.compile(r"^(ipa|arcface_in|siglip_in)(_arc|_sig)?\.")
_KONTEXT = re.compile(r"kontext|withanyone[._-]?ke?(?![a-z0-9])", re.IGNORECASE)

EXPECTED = "Expected: withanyone.safetensors (Hugging Face WithAnyone/WithAnyone), or the file of one of its branches"


@dataclass(frozen=True)
class WithAnyoneWeights:
    """What a file holds.

    Attributes:
        path: of the file.
        tensors: under the names of the merged file; views of the file.
        stored: name -> name in the file.
        kind: "withanyone" (both branches), "arc", "sig", or "kontext": an ArcFace branch whose file says so in its name.
        ignored: what else is there, in words.
    """

    path: Path
    tensors: dict[str, Tensor]
    stored: dict[str, str]
    kind: str
    ignored: tuple[str, ...] = field(default=())


def matches(file: TensorFile) -> bool:
    """Whether the names of the tensors are those of WithAnyone."""
    return any(_BLOCK.match(name) for name in file.tensors)


def is_file(path: Path) -> bool:
    """Whether a path is a file with weights of WithAnyone, whole or not.

    Raises:
        AdapterError: there is a file that cannot be read.
    """
    return path.is_file() and matches(read_tensor_file(path))


def load(path: Path) -> WithAnyoneWeights:
    """Find the branches in a file. No values are read.

    Raises:
        AdapterError: the file cannot be read, is something else, or holds tensors of WithAnyone that no branch has.
    """
    if path.is_dir():
        raise AdapterError(f"{path}: this is a folder. {EXPECTED}.", code="withanyone-folder")
    file = read_tensor_file(path)
    if not matches(file):
        raise AdapterError(f"{path}: this looks like {_looks_like(file)}. {EXPECTED}.", code="no-withanyone-file")
    suffix = _suffix(file)
    tensors, stored, unused = {}, {}, 0
    others: list[str] = []
    for name, tensor in file.tensors.items():
        own = _OWN.match(name)
        if own is None:
            others.append(name)
        elif own[1] == "siglip_in" and (own[2] or suffix) == "_arc":
            unused += 1
        elif suffix and own[2]:
            raise AdapterError(
                f"{path}: the file holds {name!r} beside tensors without a branch in their names, so it is mixed of two. Get it "
                "again.",
                code="withanyone-mixed",
            )
        else:
            known = f"{own[1]}{suffix}.{name.partition('.')[2]}"
            known = name if not suffix else known
            tensors[known], stored[known] = tensor, name
    check_dtypes(TensorFile(path, tensors))
    return WithAnyoneWeights(path, tensors, stored, _kind(path, tensors), tuple(_ignored(others, unused)))


def _suffix(file: TensorFile) -> str:
    """What names without a branch lack; empty for a merged file.

    Raises:
        AdapterError: it cannot be told which branch this is.
    """
    if not any(name.startswith("ipa.") for name in file.tensors):
        return ""
    if not any(name.startswith("siglip_in.") for name in file.tensors):
        return "_arc"
    norm, first = (file.tensors.get(name) for name in ("ipa.0.norm1.weight", "siglip_in.0.weight"))
    width, rows = ((0 if tensor is None or not tensor.ndim else len(tensor)) for tensor in (norm, first))
    if width and rows in (width, 4 * width):
        return "_sig" if rows == width else "_arc"
    raise AdapterError(
        f"{file.path}: it cannot be told which branch of WithAnyone this is: siglip_in.0.weight has {rows} rows, and ipa.0.norm1.weight "
        f"{width} numbers. The file is damaged or incomplete: get it again.",
        code="withanyone-branch-unclear",
    )


def _kind(path: Path, tensors: dict[str, Tensor]) -> str:
    there = [branch for branch in BRANCHES if any(name.startswith(f"ipa_{branch}.") for name in tensors)]
    if len(there) == 2:
        return NAME
    return "kontext" if there == ["arc"] and _KONTEXT.search(path.name) else there[0]


def _ignored(others: list[str], unused: int) -> Iterator[str]:
    if unused:
        yield f"{unused} tensors siglip_in of the ArcFace branch, which it does not use"
    if others:
        kinds = sorted({name.removeprefix("model.diffusion_model.").partition(".")[0] for name in others})
        more = ", ..." if len(kinds) > 4 else ""
        yield f"{len(others)} tensors that are not WithAnyone's ({', '.join(kinds[:4])}{more})"


def _looks_like(file: TensorFile) -> str:
    if native.matches(file):
        return "a DHumanDiff adapter for SDXL, which Load DHumanDiff Adapter reads"
    if ip_adapter.matches(file):
        return f"{looks_like(file.tensors)}, which is for another base than FLUX"
    if any(re.search(r"(^|\.)double_blocks\.\d+\.", name) for name in file.tensors):
        return "a FLUX model without WithAnyone's weights; load that as the model"
    return looks_like(file.tensors)


def as_dtype(weights: WithAnyoneWeights, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The tensors in one type of numbers. Those that have it stay views of the file; of the others a piece is read at a time.

    Args:
        weights: of `load`.
        dtype: float32, float16 or bfloat16; None: as stored, where several are as most numbers are.

    Raises:
        AdapterError: another type; a value that the type cannot hold, or that is none.
    """
    if dtype is not None and dtype not in DTYPES:
        kind = str(dtype).removeprefix("torch.")
        raise AdapterError(
            f"{weights.path}: weights cannot be computed with as {kind}; choose float32, float16 or bfloat16.",
            code="withanyone-dtype",
        )
    if dtype is None:
        numbers: Counter[torch.dtype] = Counter()
        for tensor in weights.tensors.values():
            numbers[tensor.dtype] += tensor.numel()
        dtype = numbers.most_common(1)[0][0]
    source = _Source(weights)
    return {
        name: tensor if tensor.dtype == dtype else _converted(source, name, tensor, dtype)
        for name, tensor in weights.tensors.items()
    }


def _converted(source: _Source, name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # Nothing but what stays is allocated on the way: freed pieces in between would leave holes as large as themselves.
    out = torch.empty(tensor.shape, dtype=dtype)
    rows = max(1, PIECE // max(1, tensor[0].numel())) if tensor.ndim else 1
    for start in range(0, len(tensor), rows):
        part = slice(start, start + rows)
        piece = out[part]
        source.copy(name, part, piece)
        low, high = piece.aminmax()
        if not -math.inf < low.item() <= high.item() < math.inf:  # false for NaN, too
            raise AdapterError(
                f"{source.path}: {name} holds values that are none, or that {str(dtype).removeprefix('torch.')} cannot hold. Get the "
                "file again, or load it as bfloat16.",
                code="withanyone-not-finite",
            )
    return out


class _Source:
    """Rows of a file's tensors. Pages of a mapped file count as memory until the mapping ends, so it is mapped anew now and then."""

    def __init__(self, weights: WithAnyoneWeights) -> None:
        self.path, self.tensors, self.stored = weights.path, weights.tensors, weights.stored
        with self.path.open("rb") as file:
            self.can_be_mapped_anew = file.read(9)[6:9] == b"\x00\x00{"  # a .safetensors, whatever its name ends in
        self.file: Any = None
        self.read = 0

    def copy(self, name: str, part: slice, to: Tensor) -> None:
        """Copy rows of a tensor into one of another type."""
        if not self.can_be_mapped_anew:
            to.copy_(self.tensors[name][part])
            return
        try:
            if self.file is None or self.read >= PIECE:
                self.file, self.read = safe_open(self.path, framework="pt", device="cpu"), 0
            to.copy_(self.file.get_slice(self.stored[name])[part])
        except Exception as error:  # the file was changed or its disk went away since its header was read
            raise AdapterError(
                f"{self.path}: {name} can no longer be read ({short_error(error)}). Load the file again.",
                code="withanyone-changed",
            ) from error
        self.read += to.numel()
