"""A real ComfyUI in this process, on the CPU, with the pack loaded the way ComfyUI loads it; and one server a session."""

from pathlib import Path

import pytest
from support.comfyui import load_pack, why_not

HERE = Path(__file__).parent
collect_ignore_glob = []

if why_not() is None:
    load_pack()
else:
    collect_ignore_glob += ["test_*.py", "pages"]  # tests/conftest.py says so at the end of the run


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.host)


@pytest.fixture(scope="session")
def workflow_server(tmp_path_factory):
    """One server for all tests: every file that a shipped workflow names is there, tiny, and so is the tiny base."""
    from support.server import Server
    from support.twins import fill_shipped

    base = tmp_path_factory.mktemp("comfyui")
    fill_shipped(base)
    running = Server(base)
    try:
        running.wait()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def server(workflow_server, faces_root):
    """The same server with real faces: a pack that finds them, and photos."""
    from support.server import add_faces

    add_faces(workflow_server.base, faces_root)
    return workflow_server


@pytest.fixture
def nothing_downloaded(server):
    """The server while DHumanDiff's weights and the face pack buffalo_l are not there."""
    there = [server.base / "models" / name for name in ("dhumandiff/DHumanDiff", "insightface/models/buffalo_l")]
    away = [server.base / f"put_away_{path.name}" for path in there]
    for path, place in zip(there, away, strict=True):
        path.rename(place)
    server.post("free", {"unload_models": True, "free_memory": True})  # nor remembered
    yield
    for path, place in zip(there, away, strict=True):
        place.rename(path)


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
