"""Where ComfyUI is for the host tests, whether this Python can import it, and the pack loaded on it."""

import importlib.util
import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
COMFYUI = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "comfy" / "ComfyUI")

DEVICE = os.environ.get("DHUMANDIFF_TEST_DEVICE") or "cpu"
"""Where ComfyUI computes in the tests: cpu, or cuda (`python -m benchmarks.gpu --part comfyui-tests`)."""


def why_not() -> str | None:
    """Why the host tests cannot run, or None when they can."""
    if not (COMFYUI / "comfy").is_dir():
        return f"there is no ComfyUI at {COMFYUI}; set COMFYUI_PATH to a ComfyUI checkout"
    missing = [name for name in ("torchsde", "av", "aiohttp", "alembic") if importlib.util.find_spec(name) is None]
    if missing:
        return f"{sys.executable} lacks {', '.join(missing)}; pip install -r {COMFYUI / 'requirements.txt'}"
    return None


def load_pack() -> None:
    """Load the pack as `dhd_pack`, on the CPU (or `DEVICE`), the way ComfyUI's loader does it: a package of an arbitrary name."""
    if "dhd_pack" in sys.modules:
        return
    sys.path.append(str(COMFYUI))  # at the end: ComfyUI has top-level modules called `nodes`, `utils`, `tests`
    import comfy.cli_args

    comfy.cli_args.args.cpu = DEVICE == "cpu"  # before anything imports comfy.model_management
    comfy.cli_args.args.use_pytorch_cross_attention = True
    spec = importlib.util.spec_from_file_location(
        "dhd_pack", REPOSITORY / "__init__.py", submodule_search_locations=[str(REPOSITORY)]
    )
    pack = importlib.util.module_from_spec(spec)
    sys.modules["dhd_pack"] = pack
    spec.loader.exec_module(pack)


def stock_nodes():
    """ComfyUI's own nodes.py, whose name is that of the pack's folder."""
    if "comfyui_nodes" not in sys.modules:
        spec = importlib.util.spec_from_file_location("comfyui_nodes", COMFYUI / "nodes.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules["comfyui_nodes"] = module
        spec.loader.exec_module(module)
    return sys.modules["comfyui_nodes"]
