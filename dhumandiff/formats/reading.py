"""Read tensor files without executing anything in them, and say what a file that does not fit looks like."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from ..errors import AdapterError, short_error
from . import archive
from .header import guess, is_safetensors, open_head, os_reason, read_header

__all__ = [
    "FAMILIES",
    "METADATA",
    "OTHER_BASES",
    "OTHER_ENCODERS",
    "TensorFile",
    "Weights",
    "check_dtypes",
    "compare_shapes",
    "looks_like",
    "not_finite",
    "number_layers",
    "read_tensor_file",
]

METADATA = ("base_family", "clip_tower", "recogniser", "identity_channels", "licence", "source")
"""What a file must say about an adapter because no tensor tells it."""

# What a context width or an image encoder's width gives away about where a file belongs.
FAMILIES = {2048: "sdxl", 768: "sd15", 1024: "sd2"}
"""Context width -> name of the base's family in metadata."""

OTHER_BASES = {768: "Stable Diffusion 1.5", 1024: "Stable Diffusion 2"}
OTHER_ENCODERS = {
    512: "a face recogniser's embedding (InstantID is built so)",
    1024: "CLIP ViT-L/14",
    1664: "CLIP ViT-bigG/14",
}

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True)
class TensorFile:
    """A file's tensors under flat names (a nested dict's keys are joined by dots), and its metadata."""

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Weights:
    """What every format is turned into: tensors named as in `Adapter.state_dict()`, metadata, and origin."""

    format: str
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    files: dict[str, str]
    """For each part (face_projection, identity_projection, mapping, attention) the file that errors should name."""


def read_tensor_file(path: Path) -> TensorFile:
    """Read a .safetensors or a torch file, whatever its name ends in, memory-mapped where its layout allows it.

    Raises:
        AdapterError: the file is empty, cut off, damaged, no tensor file at all, or a pickle with Python code in it, which is
            not run.
    """
    _, head = open_head(path)
    if is_safetensors(head):  # asked first, as a length may begin like a pickle
        return _checked(_read_safetensors(path))
    if head.startswith((b"PK\x03\x04", b"\x80")):
        return _checked(TensorFile(path, _read_torch(path, head)))
    raise AdapterError(
        f"{path}: this is no tensor file, it looks like {guess(head)}. Get the file again.", code="no-tensor-file"
    )


def _read_safetensors(path: Path) -> TensorFile:
    read_header(path)  # refuses what is cut off, which mapping would not notice
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = list(file.keys())
            return TensorFile(path, {name: file.get_tensor(name) for name in names}, file.metadata() or {})
    except Exception as error:  # a dtype that this torch does not know is an AttributeError, and so on
        raise AdapterError(
            f"{path}: the safetensors file is damaged ({short_error(error)}). Get it again.", code="file-damaged"
        ) from error


def _read_torch(path: Path, head: bytes) -> dict[str, Tensor]:
    is_zip = zipfile.is_zipfile(path)
    if head.startswith(b"PK") and not is_zip:
        raise AdapterError(
            f"{path}: the file is cut off or damaged: the end of the archive is missing. Get it again.",
            code="file-cut-off",
        )
    # Files from before torch 1.6 are no zip archives and cannot be mapped; they are read into memory. So are those
    # that someone renamed to .safetensors: torch.load takes that ending at its word when it is given a name.
    mapped = is_zip and path.suffix != ".safetensors" and archive.is_plain(path)
    tensors = _load_torch(path, mapped)
    if mapped and not archive.holds(path, tensors):  # a mapped tensor would go on into whatever follows its record
        tensors = _load_torch(path, mapped=False)
    return _with_own_memory(path, tensors)


def _load_torch(path: Path, mapped: bool) -> dict[str, Tensor]:
    try:
        with path.open("rb") as file:
            content = torch.load(str(path) if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise AdapterError(
            f"{path}: the file holds Python objects other than tensors, or is damaged. Code in a weights file is never "
            f"run here. Get the file from its publisher again, or convert it to .safetensors. ({short_error(error, kind=True)})",
            code="code-in-weights",
        ) from error
    except OSError as error:
        raise AdapterError(
            f"{path}: the file cannot be read ({os_reason(error)}).", code="file-not-readable"
        ) from error
    except Exception as error:  # what a broken pickle raises has no common base: EOFError, KeyError, struct.error, ...
        raise AdapterError(
            f"{path}: the file is cut off or damaged ({short_error(error, kind=True)}). Get it again.",
            code="file-damaged",
        ) from error
    return dict(_flatten(path, content, [0]))


MAX_DEPTH, MAX_ENTRIES = 8, 100_000
"""Of dicts that lie in each other; published files have two levels and some hundred entries."""


def _flatten(
    path: Path, content: Any, count: list[int], prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, Tensor]]:
    """Tensors of nested dicts under dotted names; whatever else a training script stored is passed over."""
    if isinstance(content, Tensor):
        yield prefix[:-1], content.detach()
    elif isinstance(content, Mapping):
        count[0] += len(content)
        if depth > MAX_DEPTH or count[0] > MAX_ENTRIES:  # also dicts that lie in themselves
            raise AdapterError(
                f"{path}: more dicts lie in each other than any adapter has. Get the file from its publisher again.",
                code="file-damaged",
            )
        for name, value in content.items():
            yield from _flatten(path, value, count, f"{prefix}{name}.", depth + 1)


def _with_own_memory(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors that share their memory with another, or use a part of it: they could not be written or trained."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized:
            continue  # refused by check_dtypes
        storage, size = tensor.untyped_storage(), tensor.numel() * tensor.element_size()
        stretched = size > storage.nbytes() and size > 3 * path.stat().st_size  # one value that stands for many
        if tensor.device.type != "cpu" or stretched:
            raise AdapterError(
                f"{path}: the tensor {name!r} has the shape {list(tensor.shape)}, but not as many values. Get the file again.",
                code="tensor-without-values",
            )
        if storage.data_ptr() in seen or storage.nbytes() != size:
            tensors[name] = tensor.clone(memory_format=torch.contiguous_format)
        seen.add(storage.data_ptr())
    return tensors


def _checked(file: TensorFile) -> TensorFile:
    if not file.tensors:
        raise AdapterError(
            f"{file.path}: the file holds no tensors. It may be something else, or an empty save.", code="no-tensors"
        )
    return file


def check_dtypes(file: TensorFile) -> None:
    """Refuse tensors that cannot be computed with (quantised, integer, sparse, of no values)."""
    for name, tensor in file.tensors.items():
        if tensor.layout != torch.strided or tensor.dtype not in DTYPES:
            kind = str(tensor.dtype).removeprefix("torch.")
            raise AdapterError(
                f"{file.path}: the tensor {name!r} is stored as {kind} ({tensor.layout}); float32, float16 or bfloat16 "
                "was expected. Get the file that is not quantised.",
                code="quantized-weights",
            )
        if not tensor.numel():
            raise AdapterError(
                f"{file.path}: the tensor {name!r} has the shape {list(tensor.shape)}, which holds no values. "
                "Get the file again.",
                code="tensor-without-values",
            )


def compare_shapes(
    wanted: Mapping[str, Sequence[int]],
    shapes: Mapping[str, Sequence[int]],
    called: Callable[[str], tuple[str, str]],
) -> None:
    """Compare a file's tensors with those of the module that its sizes describe.

    Args:
        wanted: name -> shape, of the module.
        shapes: the same of the file.
        called: name -> the file, and what messages call the tensor.

    Raises:
        AdapterError: a tensor is missing, unknown, or of another shape than the others ask for.
    """
    for name in [*wanted, *shapes]:
        file, shown = called(name)
        if name not in shapes:
            raise AdapterError(
                f"{file}: the tensor {shown!r} is missing. The file is incomplete: get it again.", code="tensor-missing"
            )
        if name not in wanted:
            raise AdapterError(
                f"{file}: the tensor {shown!r} is not part of the method. Is this another method's file?",
                code="tensor-unknown",
            )
        if tuple(shapes[name]) != tuple(wanted[name]):
            raise AdapterError(
                f"{file}: the tensor {shown!r} has the shape {list(shapes[name])}, "
                f"but the others ask for {list(wanted[name])}. The file is damaged or mixed from two adapters.",
                code="tensor-of-another-shape",
            )


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors with NaN or infinite values. Reads all values, which loading does not."""
    return [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]


def number_layers(file: TensorFile, prefix: str = "") -> dict[str, Tensor]:
    """Turn `{i}.to_k_ip1.weight` with i = 1, 3, 5, ... into `attention.{k}.to_k_ip1.weight` with k = 0, 1, 2, ...

    i counts all attention processors of a diffusers UNet; self-attention has no weights here, so only odd ones occur.

    Raises:
        AdapterError: there are even numbers or gaps, or layers that hold other tensors than the first.
    """
    layers: dict[int, dict[str, Tensor]] = {}
    for name, tensor in file.tensors.items():
        match = re.fullmatch(r"(\d+)\.(.+)", name.removeprefix(prefix)) if name.startswith(prefix) else None
        if not match:
            if name.startswith(prefix):
                raise AdapterError(
                    f"{file.path}: the tensor {name!r} does not belong to paired attention; "
                    f"{prefix}1.to_k_ip... was expected. The file looks like {looks_like(file.tensors)}.",
                    code="no-paired-attention",
                )
            continue
        layers.setdefault(int(match[1]), {})[match[2]] = tensor
    numbers = sorted(layers)
    if not numbers:
        raise AdapterError(
            f"{file.path}: there are no tensors of paired attention ({prefix}1.to_k_ip...).", code="no-paired-attention"
        )
    even = [i for i in numbers if i % 2 == 0]
    if even:
        raise AdapterError(
            f"{file.path}: the layers {even[:5]} have even numbers, but even ones are self-attention, which has no "
            "weights in this layout (cross-attention is 1, 3, 5, ...). The file is made for another layout.",
            code="layers-of-another-layout",
        )
    missing = sorted(set(range(1, numbers[-1] + 1, 2)) - set(numbers))
    if missing:
        raise AdapterError(
            f"{file.path}: the attention layers {missing[:5]} are missing. The file is incomplete.",
            code="layers-missing",
        )
    first = set(layers[1])
    for i in numbers:
        if set(layers[i]) != first:
            odd = ", ".join(sorted(set(layers[i]) ^ first)[:4])
            raise AdapterError(
                f"{file.path}: layer {i} and layer 1 do not hold the same tensors ({odd}).", code="layers-differ"
            )
    return {f"attention.{k}.{rest}": t for k, i in enumerate(numbers) for rest, t in layers[i].items()}


_FOLDER = "{}, one of the four released files: choose the folder that holds all four"

# What a file looks like by the names of its tensors: the first that applies.
_LOOKS = (
    (r"^ipa(_arc|_sig)?\.\d+\.", "WithAnyone's weights for FLUX, which Load WithAnyone Adapter reads"),
    (
        r"^(identity\.face_projection|tca\.layers|gates\.layers|router\.layers)\.",
        "weights of the dual pathway, which `generate --method dual_pathway` reads",
    ),
    (r"^image_proj\.latents$", "an IP-Adapter Plus"),
    (r"^ip_adapter\..*_lora\.|^image_proj\.perceiver_resampler\.", "an IP-Adapter FaceID"),
    (r"^image_proj\.proj\.3\.", "an IP-Adapter Full Face (SD 1.5)"),
    (r"^image_proj\.proj\.2\.", "an IP-Adapter FaceID (portrait)"),
    (r"^image_proj\.proj\.weight$", "a plain IP-Adapter (not Plus)"),
    (r"^(image_proj|ip_adapter)\.", "an IP-Adapter of another kind"),
    (r"^pulid_", "a PuLID file"),
    (r"lora_|\.lora[._]|\.hada_|\.lokr_|\.dora_scale", "a LoRA"),
    (r"^(controlnet_|control_model\.|input_hint_block|zero_convs)", "a ControlNet"),
    (
        r"^(state_dict\.)?(model\.diffusion_model|first_stage_model|cond_stage_model|conditioner)\.",
        "a whole checkpoint",
    ),
    (r"^(down_blocks|input_blocks)\.", "the UNet of a base model"),
    (r"^(double_blocks|transformer_blocks|joint_blocks)\.", "the diffusion transformer of a base model"),
    (r"^(vision_model|visual)\.", "a CLIP image encoder"),
    (r"^(text_model|transformer\.text_model|text_projection)\b", "a text encoder"),
    (r"^(encoder|decoder|quant_conv)\.", "a VAE"),
    (r"^(string_to_param\.|emb_params$|clip_[lg]$|<.*>$)", "a textual-inversion embedding"),
    (r"^clip_hidden", "a saved reference of a person"),
    (r"^perceiver_resampler\.", _FOLDER.format("face_projection2.pt")),
    (r"^latents$", _FOLDER.format("face_projection.pt")),
    (r"^\d+\.to_[kv]_ip\d", _FOLDER.format("ip_adapter_ca.pt")),
    (r"^fc2\.", _FOLDER.format("mapping.pt")),
)


def looks_like(tensors: Mapping[str, object]) -> str:
    """Say in words what kind of file holds these tensors."""
    for pattern, words in _LOOKS:
        if any(re.search(pattern, name) for name in tensors):
            return words
    names = ", ".join(list(tensors)[:3])
    return f"a file of another kind ({len(tensors)} tensors: {names}{', ...' if len(tensors) > 3 else ''})"
