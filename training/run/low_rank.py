"""Low-rank training (LoRA, by PEFT): what is trained and saved is two narrow matrices beside every frozen one.

The file format, and how the changes come into the full adapter, is dhumandiff/formats/low_rank.py. Inside PEFT a tensor is
`x.lora_A.default.weight`, in files `x.lora_A.weight`; the full adapter is in no checkpoint, but read again, and known by its digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from dhumandiff import Adapter
from dhumandiff.formats import low_rank
from dhumandiff.io import expand_user

from .. import TrainingError
from .config import InitConfig
from .weights import identity_of, load_weights

__all__ = [
    "add_factors",
    "check_full",
    "file_name",
    "full_metadata",
    "is_low_rank",
    "kept_tensors",
    "merged_adapter",
    "source_adapter",
]

PEFT_NAME = "default"


def add_factors(adapter: Adapter, parts: Sequence[str], rank: int, fresh: Sequence[str]) -> None:
    """Give every matrix of these parts two factors to train, and freeze the rest; the second starts at zero.

    Args:
        adapter: changed in place.
        parts: of `InitConfig.train`.
        rank: width of the factors.
        fresh: parts that the full adapter does not have, which are trained as they are.

    Raises:
        TrainingError: PEFT is missing.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise TrainingError(
            f"init.rank is {rank}, which needs PEFT ({error}). Install it with: pip install --no-deps peft; or set init.rank to 0.",
            code="peft-missing",
        ) from error
    inside = tuple(f"{part}." for part in parts if part not in fresh)
    matrices = [
        name for name, module in adapter.named_modules() if isinstance(module, nn.Linear) and name.startswith(inside)
    ]
    if matrices:
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=matrices), adapter, PEFT_NAME)
    adapter.requires_grad_(False).eval()
    for name, parameter in adapter.named_parameters():
        parameter.requires_grad_(
            ".lora_" in name or (name.partition(".")[0] in fresh and name.partition(".")[0] in parts)
        )


def file_name(name: str) -> str:
    """PEFT's name of a parameter -> its name in files; others are the same in both."""
    return name.replace(f".{PEFT_NAME}.weight", ".weight") if ".lora_" in name else name


def kept_tensors(adapter: Adapter, frozen: Mapping[str, Tensor] = {}) -> dict[str, Tensor]:
    """What a checkpoint keeps of an adapter, by names in files: everything, or of a low-rank one what is trained.

    frozen: float32 values of weights that the adapter holds in less precision.
    """
    trained = {name: value for name, value in adapter.named_parameters() if value.requires_grad}
    if any(".lora_" in name for name in trained):
        return {file_name(name): value for name, value in trained.items()}
    return {**adapter.state_dict(), **frozen}


def is_low_rank(metadata: Mapping[str, str]) -> bool:
    """Whether metadata of a checkpoint is that of a low-rank run."""
    return "base_adapter_sha256" in metadata


def full_metadata(config: InitConfig, adapter: Adapter) -> dict[str, str]:
    """What a low-rank file says of its full adapter; empty where everything is trained."""
    if not config.rank:
        return {}
    full = source_adapter(config.weights)
    name = "mini" if config.weights == "mini" else expand_user(config.weights).resolve().name
    return {
        "base_adapter": low_rank.SHIPPED.name if name == "mini" else name,
        "base_adapter_sha256": low_rank.digest(full.state_dict()),
        "persons": str(adapter.info.persons) if full.info.shared and not adapter.info.shared else "",
    }


def merged_adapter(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], weights: str) -> Adapter:
    """A low-rank run's adapter with the changes in it.

    Args:
        tensors: of a checkpoint.
        metadata: of the same.
        weights: `init.weights` of the run.

    Raises:
        TrainingError: these are not the weights that the run began with.
    """
    full = dict(source_adapter(weights).state_dict())
    if low_rank.digest(full) != metadata["base_adapter_sha256"]:
        raise TrainingError(
            f"init.weights: {weights} holds other weights than when the low-rank run began (digest "
            f"{metadata['base_adapter_sha256'][:12]} was expected). Bring those back.",
            code="another-full-adapter",
        )
    return Adapter.from_tensors(low_rank.merge(full, tensors, metadata["persons"], weights), metadata)


def source_adapter(weights: str) -> Adapter:
    """The adapter that `init.weights` names; of a dual pathway, its identity path.

    Raises:
        AdapterError: it is no adapter.
    """
    from dhumandiff.miniature import mini_adapter

    from .checkpoint import CONFIG_FILE, adapter_of_run

    if weights == "mini":
        return mini_adapter()
    path = expand_user(weights)
    return identity_of(adapter_of_run(path) if (path / CONFIG_FILE).is_file() else load_weights(path))


def check_full(config: InitConfig) -> None:
    """Refuse to train changes of changes: whoever loads them would have to find two other files.

    Raises:
        TrainingError: `init.weights` is itself low-rank.
    """
    path = expand_user(config.weights)
    if config.weights == "mini" or not path.exists():
        return
    from .checkpoint import CONFIG_FILE, RunFolder

    of_run = (path / CONFIG_FILE).is_file() and RunFolder(path).steps()
    if low_rank.is_file(path) or (of_run and is_low_rank(RunFolder(path).load(of_run[-1]).metadata)):
        raise TrainingError(
            f"init.weights: {config.weights} is itself low-rank. Export it with --merged true and start from that file.",
            code="low-rank-on-low-rank",
        )
