"""Run the shipped workflows' twins in a real ComfyUI, and what a run leaves: for pictures. Needs the tests' folder on the path.

with shipped_server() as server:
    run = ran(server, "wedding_preview")
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image


@dataclass(frozen=True, eq=False)
class Run:
    """A twin after its run: its photos, what it saved, what its other nodes show, by their type, and itself in API form."""

    photos: list[Image.Image]
    saved: list[Image.Image]
    shown: dict[str, list[Image.Image]]
    prompt: dict[str, Any]


@contextmanager
def shipped_server() -> Iterator[Any]:
    """A server with this pack and everything that the twins load; its folder is gone afterwards."""
    from support.comfyui import load_pack
    from support.server import Server
    from support.twins import fill_shipped

    load_pack()
    with tempfile.TemporaryDirectory() as base:
        fill_shipped(Path(base))
        server = Server(Path(base))
        try:
            server.wait()
            yield server
        finally:
            server.stop()


def ran(server: Any, name: str) -> Run:
    """Run a twin. RuntimeError with what the server says."""
    from support.twins import twin

    return ran_prompt(server, twin(name), name)


def ran_prompt(server: Any, prompt: dict[str, Any], name: str) -> Run:
    """Run a workflow in API form. RuntimeError with its name and what the server says."""
    from support.twins import nodes_of, saved

    result = server.run(prompt)
    if result["error"]:
        raise RuntimeError(f"{name}: {result['error']}")
    shown: dict[str, list[Image.Image]] = {}
    for key in sorted(result["outputs"], key=lambda key: (len(key), key)):
        for one in result["outputs"][key].get("images", ()):
            if one["type"] == "temp":
                path = server.base / "temp" / one["subfolder"] / one["filename"]
                shown.setdefault(prompt[key]["class_type"], []).append(Image.open(path).convert("RGB"))
    photos = [
        Image.open(server.base / "input" / prompt[key]["inputs"]["image"]).convert("RGB")
        for key in nodes_of(prompt, "LoadImage")
        if "photo" in prompt[key]["inputs"]["image"]
    ]
    photos += [drawn_photo(**prompt[key]["inputs"]) for key in nodes_of(prompt, "DHDDrawPerson")]
    return Run(photos, saved(server, prompt, result["outputs"]), shown, prompt)


def drawn_photo(person: int, gender: str, view: int = 0, size: int = 384) -> Image.Image:
    """What Draw Person gives."""
    from dhd_pack.nodes.miniature import DHDDrawPerson

    pixels = DHDDrawPerson.execute(person, gender, view, size).result[0][0]
    return Image.fromarray((pixels * 255).round().byte().numpy())
