"""The pack loads wherever ComfyUI does, whatever else is missing."""

import subprocess
import sys

import pytest
from dhd_pack.nodes import NODES
from support.comfyui import COMFYUI, REPOSITORY
from support.published import copy_published

INSTALL = "pip install insightface onnxruntime"

LOAD = """
import asyncio, importlib.util, sys

sys.path.insert(0, {comfyui!r})
import comfy.cli_args
comfy.cli_args.args.cpu = True

sys.modules.update(dict.fromkeys({blocked!r}))  # None: as if they were not installed
spec = importlib.util.spec_from_file_location("pack", {init!r}, submodule_search_locations=[{root!r}])
pack = importlib.util.module_from_spec(spec)
sys.modules["pack"] = pack
spec.loader.exec_module(pack)
nodes = asyncio.run(asyncio.run(pack.comfy_entrypoint()).get_node_list())
for node in nodes:
    node.GET_SCHEMA()
print(len(nodes), "nodes")
try:
    node = next(node for node in nodes if node.__name__ == "DHDLoadFaceAnalysis")
    node.execute("buffalo_l", "auto", False)
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("blocked", "said"),
    [
        # ONNX Runtime reads InsightFace's packs by itself, so that only the pack is missing.
        pytest.param(("insightface",), "There is no face model pack", marks=pytest.mark.slow, id="insightface"),
        pytest.param(("onnxruntime",), INSTALL, marks=pytest.mark.slow, id="onnxruntime"),
        pytest.param(("insightface", "onnxruntime", "cv2", "diffusers"), INSTALL, id="all"),
    ],
)
def test_the_pack_loads_without_face_recognition(blocked, said):
    """The node says what is missing, and how to get it."""
    code = LOAD.format(
        comfyui=str(COMFYUI), blocked=blocked, init=str(REPOSITORY / "__init__.py"), root=str(REPOSITORY)
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert f"{len(NODES)} nodes" in out.stdout, out.stderr[-2000:]
    assert said in out.stdout


MINIATURE = """
model, *_ = next(node for node in nodes if node.__name__ == "DHDLoadMiniature").execute().args
print("miniature", type(model.model).__name__)
"""


@pytest.mark.slow
def test_the_pack_as_it_is_published_loads_with_its_miniature(tmp_path):
    root = copy_published(tmp_path / "dhumandiff")
    code = LOAD.format(comfyui=str(COMFYUI), blocked=(), init=str(root / "__init__.py"), root=str(root)) + MINIATURE
    out = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert " nodes\n" in out.stdout, out.stderr[-2000:]
    assert "miniature _MiniSDXL" in out.stdout, out.stderr[-2000:]


def test_no_input_shares_its_id_with_an_output():
    from dhd_pack.nodes import NODES

    for node in NODES:  # ComfyUI 0.3.64 refuses such a node, and the whole pack with it
        schema = node.define_schema()
        inputs, outputs = ({part.id for part in parts} for parts in (schema.inputs, schema.outputs))
        assert not inputs & outputs, node.__name__
