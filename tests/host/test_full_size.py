"""Files of SDXL's own sizes, made of random numbers, from the photos to the picture: command line and ComfyUI, 256 px, one step.

    DHUMANDIFF_TEST_FULL_SIZE=/disk/with/12_GB python -m pytest -m slow tests/host/test_full_size.py -s

Not run otherwise: it takes up to 17 GB of memory, and from ten minutes to an hour. The files stay in that folder for the next time
(with =1 they go with pytest's own); what was measured is written to measured.json there, and stands in docs/benchmarks.md.
"""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import full_size
from support.comfyui import REPOSITORY
from support.server import Server, api_form, node_of

WANTED = os.environ.get("DHUMANDIFF_TEST_FULL_SIZE", "")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.faces,
    pytest.mark.skipif(not WANTED, reason="DHUMANDIFF_TEST_FULL_SIZE names no folder for files of full size (12 GB)"),
]

FLAGS = {
    "fp16": ["--fp16-unet"],
    "fp8": ["--fp8_e4m3fn-unet", "--fp8_e4m3fn-text-enc"],
}
"""Of ComfyUI, beside --cpu (which excludes --lowvram and --novram); without --fp16-unet its UNet takes 10.3 GB there."""

LOADED = """
import re, socket, sys
def refuse(*_): raise OSError("there is no network")
socket.socket.connect = refuse
from dhumandiff.__main__ import main
code = main(sys.argv[1:])
print("peak", re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
sys.exit(code)
"""


@pytest.fixture(scope="module")
def models(faces_root, tmp_path_factory):
    folder = (tmp_path_factory.mktemp("full") if WANTED == "1" else Path(WANTED)) / "models"
    if not (folder / full_size.ADAPTER / "ip_adapter_ca.pt").exists():  # what is made last
        full_size.make_models(folder, faces_root / "models" / "mini")
    return folder


def remember(models, name, seconds, peak_kb):
    """Add a measurement to those beside the models."""
    path = models.parent / "measured.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known[name] = {"seconds": round(seconds, 1), "peak_GiB": round(peak_kb / 2**20, 2)}
    path.write_text(json.dumps(known, indent=1))
    print(name, known[name])


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_the_command_line_needs_no_path_but_the_photos(models, faces_root, tmp_path, dtype):
    out = tmp_path / "portrait.png"
    line = [
        "generate",
        "--models",
        models,
        "--prompt",
        "A man@1 and a man@2 in a garden",
        "--size",
        "256x256",
        "--steps",
        1,
    ]
    line += ["--person-1", faces_root / "photos" / "obama.jpg", "--person-2", faces_root / "photos" / "biden.jpg"]
    begin = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *map(str, line), "--dtype", dtype, "--out", str(out)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=3600,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "no_cache")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert out.exists()
    remember(models, f"command line, {dtype}", time.monotonic() - begin, int(done.stdout.split("peak")[1]))


@pytest.mark.parametrize("name", FLAGS)
def test_comfyui_draws_with_the_same_files(models, faces_root, tmp_path, name):
    (tmp_path / "models").symlink_to(models)
    for photo in (faces_root / "photos").iterdir():
        (tmp_path / "input").mkdir(exist_ok=True)
        (tmp_path / "input" / photo.name).write_bytes(photo.read_bytes())
    server = Server(tmp_path, *FLAGS[name])
    try:
        server.wait(600)
        begin = time.monotonic()
        result = server.run(prompt(), seconds=3600)
        seconds = time.monotonic() - begin
        peak = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{server.process.pid}/status").read_text())[1]
    finally:
        server.stop()
    assert result["error"] is None, result["error"]
    assert list((tmp_path / "output").rglob("*.png"))
    remember(models, f"ComfyUI, {name}", seconds, int(peak))


def prompt():
    """The workflow Dual Portrait on the files of full size: one step at 256 px, and no previews of masks."""
    graph = api_form(json.loads((REPOSITORY / "workflows" / "dual_portrait.json").read_text()))
    graph[node_of(graph, "CheckpointLoaderSimple")]["inputs"]["ckpt_name"] = Path(full_size.CHECKPOINT).name
    graph[node_of(graph, "CLIPVisionLoader")]["inputs"]["clip_name"] = Path(full_size.IMAGE_ENCODER).name
    graph[node_of(graph, "DHDLoadAdapter")]["inputs"]["adapter_name"] = Path(full_size.ADAPTER).name
    graph[node_of(graph, "DHDLoadFaceAnalysis")]["inputs"]["pack"] = "buffalo_l"
    graph[node_of(graph, "DHDCascadeKSampler")]["inputs"]["steps"] = 1
    graph[node_of(graph, "EmptyLatentImage")]["inputs"].update(width=256, height=256)
    photos = iter(("obama.jpg", "biden.jpg"))
    for node in graph.values():
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = next(photos)
    return graph
