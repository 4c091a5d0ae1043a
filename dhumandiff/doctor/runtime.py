"""What ONNX Runtime really computes on: a list of providers is a promise, a session keeps it or not."""

from __future__ import annotations

from typing import Any

from ..errors import short_error
from ..onnx_bytes import tiny_model
from .findings import DAMAGED, NOTE, OK, Finding
from .versions import attempt, pip, version

__all__ = ["providers"]


def providers() -> list[Finding]:
    """One finding for each provider that this pack can use; none without ONNX Runtime, which is a finding elsewhere."""
    onnxruntime, _ = attempt("onnxruntime")
    if onnxruntime is None:
        return []
    from ..faces.insightface import PROVIDER_ADVICE, PROVIDERS

    listed = list(onnxruntime.get_available_providers())
    found = []
    for short, full in PROVIDERS.items():
        if full in listed:
            found.append(_try(onnxruntime, short, full, PROVIDER_ADVICE[short]))
    if version("onnxruntime-gpu") and PROVIDERS["CUDA"] not in listed:
        text = "CUDA: onnxruntime-gpu is installed, but offers no CUDA. The faces are looked for on the CPU."
        found.insert(0, Finding(NOTE, "CUDA", text, PROVIDER_ADVICE["CUDA"]))
    if PROVIDERS["CPU"] not in listed:
        todo = pip("--force-reinstall", "--no-deps", "onnxruntime")
        found.append(Finding(DAMAGED, "ONNX Runtime", "CPU: this ONNX Runtime does not even offer the CPU.", todo))
    others = [full for full in listed if full not in PROVIDERS.values()]
    if others:
        found.append(Finding(OK, "others", f"listed too, and not used by this pack: {', '.join(others)}"))
    return found


def _try(onnxruntime: Any, short: str, full: str, advice: str) -> Finding:
    """Make a session of one node with this provider, and see what it says it runs on."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # a provider that fails to load is told here, not on the console
    try:
        session = onnxruntime.InferenceSession(tiny_model(), options, providers=[full])
        obtained = session.get_providers()
    except Exception as error:  # ONNX Runtime's errors have no common base but this
        obtained, why = [], f"a session with it fails ({short_error(error, kind=True)})"
    else:
        why = f"ONNX Runtime lists it, but a session then runs on {', '.join(obtained) or 'nothing'}"
    if full in obtained:
        return Finding(OK, short, f"{short}: works (a session says {', '.join(obtained)})")
    if short == "CPU":
        return Finding(DAMAGED, "ONNX Runtime", f"CPU: {why}.", advice)
    return Finding(NOTE, short, f"{short}: {why}. The faces are looked for on the CPU.", advice)
