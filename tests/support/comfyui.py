"""Where ComfyUI is for the host tests, and whether this Python can import it."""

import importlib.util
import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
COMFYUI = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "comfy" / "ComfyUI")


def why_not() -> str | None:
    """Why the host tests cannot run, or None when they can."""
    if not (COMFYUI / "comfy").is_dir():
        return f"there is no ComfyUI at {COMFYUI}; set COMFYUI_PATH to a ComfyUI checkout"
    missing = [name for name in ("torchsde", "av", "aiohttp", "alembic") if importlib.util.find_spec(name) is None]
    if missing:
        return f"{sys.executable} lacks {', '.join(missing)}; pip install -r {COMFYUI / 'requirements.txt'}"
    return None
