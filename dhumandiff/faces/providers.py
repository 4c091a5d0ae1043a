"""What ONNX Runtime computes face models on: the choice of a provider, and what to do where it cannot be had."""

from __future__ import annotations

from typing import Any

from ..errors import FaceError

__all__ = [
    "PROVIDERS",
    "PROVIDER_ADVICE",
    "check_provider",
    "choose_provider",
    "provider_options",
    "provider_order",
    "session_providers",
]

PROVIDERS = {
    "CUDA": "CUDAExecutionProvider",
    "CoreML": "CoreMLExecutionProvider",
    "DirectML": "DmlExecutionProvider",
    "CPU": "CPUExecutionProvider",
}
"""What a person calls a provider -> what ONNX Runtime calls it, best first."""

PROVIDER_ADVICE = {
    "CUDA": "For CUDA keep onnxruntime-gpu as the only runtime (pip uninstall onnxruntime; pip install "
    "--force-reinstall onnxruntime-gpu) and see that its CUDA and cuDNN versions are there.",
    "CoreML": "CoreML needs macOS and the onnxruntime package.",
    "DirectML": "DirectML needs Windows and onnxruntime-directml as the only runtime.",
    "CPU": "Install onnxruntime again.",
}


def check_provider(wanted: str) -> None:
    """Refuse what is no provider.

    Raises:
        FaceError: it is none.
    """
    if wanted not in ("auto", *PROVIDERS):
        raise FaceError(
            f'There is no provider "{wanted}" for face analysis. Choose auto, {", ".join(PROVIDERS)}.',
            code="unknown-provider",
        )


def choose_provider(wanted: str, available: list[str]) -> tuple[str, str | None]:
    """(provider to ask for, note when it is not the wanted one)."""
    check_provider(wanted)
    if wanted == "auto":
        return next((short for short, full in PROVIDERS.items() if full in available), "CPU"), None
    if PROVIDERS[wanted] in available:
        return wanted, None
    return (
        "CPU",
        f"{wanted} was wanted for face analysis, but this ONNX Runtime has none, so it runs on CPU. "
        f"{PROVIDER_ADVICE[wanted]}",
    )


def provider_order(wanted: str) -> list[str]:
    """What a session is asked to run on, in ONNX Runtime's names: what is wanted, then the CPU."""
    return [PROVIDERS[wanted]] + ([PROVIDERS["CPU"]] if wanted != "CPU" else [])


def provider_options(wanted: str) -> list[dict[str, str]]:
    """Options for each of `provider_order`: on CUDA no exhaustive search, which costs a second or more for each new size of a picture,
    and memory by need, not in powers of two."""
    options = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
    return [dict(options) if name == PROVIDERS["CUDA"] else {} for name in provider_order(wanted)]


def session_providers(wanted: str) -> list[Any]:
    """`provider_order` with options: a name that has some is a pair."""
    given = zip(provider_order(wanted), provider_options(wanted), strict=True)
    return [(name, options) if options else name for name, options in given]
