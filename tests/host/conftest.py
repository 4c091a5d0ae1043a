"""A real ComfyUI in this process, on the CPU, with the pack loaded the way ComfyUI loads it."""

import importlib.util
import sys
from pathlib import Path

import pytest
from support.comfyui import COMFYUI, REPOSITORY, why_not

collect_ignore_glob = []

if why_not() is None:
    sys.path.append(str(COMFYUI))  # at the end: ComfyUI has top-level modules called `nodes`, `utils`, `tests`
    import comfy.cli_args

    comfy.cli_args.args.cpu = True  # before anything imports comfy.model_management
    comfy.cli_args.args.use_pytorch_cross_attention = True

    # As ComfyUI's loader does it: a package of an arbitrary name.
    spec = importlib.util.spec_from_file_location(
        "dhd_pack", REPOSITORY / "__init__.py", submodule_search_locations=[str(REPOSITORY)]
    )
    pack = importlib.util.module_from_spec(spec)
    sys.modules["dhd_pack"] = pack
    spec.loader.exec_module(pack)
else:
    collect_ignore_glob.append("test_*.py")  # tests/conftest.py says so at the end of the run


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(item.fspath).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.host)


@pytest.fixture(scope="session")
def server(tmp_path_factory, faces_root):
    from support.server import Server, fill

    base = tmp_path_factory.mktemp("comfyui")
    fill(base, faces_root)
    running = Server(base)
    try:
        running.wait()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def workflow_server(tmp_path_factory):
    """A server on which every file that a shipped workflow names is there, tiny."""
    from support.server import Server
    from support.twins import fill_shipped

    base = tmp_path_factory.mktemp("shipped")
    fill_shipped(base)
    running = Server(base)
    try:
        running.wait()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def model():
    """MODEL with the tiny UNet."""
    from support import tiny_comfy

    return tiny_comfy.model_patcher()


@pytest.fixture(scope="module")
def adapter():
    """DHD_ADAPTER with the tiny adapter."""
    from support import tiny_comfy

    return tiny_comfy.adapter_patcher()


@pytest.fixture(scope="module")
def people():
    """Two random people."""
    from support import tiny_comfy

    return [tiny_comfy.reference(1), tiny_comfy.reference(2)]
