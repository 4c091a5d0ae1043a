"""What inputs, defaults and outputs the nodes of the workflows have: nodes.json, and how it is read out of a ComfyUI."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

NODES = Path(__file__).parent / "nodes.json"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
"""Types of inputs that the page shows as widgets."""


def known_nodes() -> dict[str, Any]:
    """Type -> inputs (name -> type, default, optional, multiline, advanced, seed) and outputs (name -> type)."""
    return json.loads(NODES.read_text(encoding="utf-8"))


def read_nodes(told: Mapping[str, Any], types: Iterable[str]) -> dict[str, Any]:
    """What is to be known of these node types, out of a server's `object_info`."""
    return {kind: _facts(kind, told[kind]) for kind in sorted(types)}


def update_nodes(types: Iterable[str] = ()) -> None:
    """Write nodes.json anew with what a ComfyUI says: the types that are in it, and these.

    Inputs stay in the order in which they stand there, new ones come behind: files count on it, and an input that may be left open
    since a later version would move in ComfyUI's own order.
    """
    from support.server import Server

    there = known_nodes() if NODES.exists() else {}
    with tempfile.TemporaryDirectory() as base:
        server = Server(Path(base))
        try:
            server.wait()
            facts = read_nodes(server.get("object_info"), {*there, *types})
        finally:
            server.stop()
    facts = in_known_order(facts, there)
    rows = ",\n".join(f"{json.dumps(kind)}: {json.dumps(one)}" for kind, one in facts.items())
    NODES.write_text(f"{{\n{rows}\n}}\n", encoding="utf-8")


def in_known_order(facts: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    """The facts with every node's inputs in the order of the known ones; those that are new come behind."""
    ordered = {}
    for kind, one in facts.items():
        inputs = one["inputs"]
        names = [name for name in known.get(kind, one)["inputs"] if name in inputs]
        ordered[kind] = {**one, "inputs": {name: inputs[name] for name in (*names, *inputs)}}
    return ordered


def _facts(kind: str, info: Mapping[str, Any]) -> dict[str, Any]:
    inputs = {}
    for group in ("required", "optional"):
        for name, spec in info["input"].get(group, {}).items():
            options = spec[1] if len(spec) > 1 else {}
            choices = spec[0] if isinstance(spec[0], list) else options.get("options", [])
            one: dict[str, Any] = {"type": "COMBO" if isinstance(spec[0], list) else spec[0]}
            if group == "optional":
                one["optional"] = True
            if "default" in options:
                one["default"] = options["default"]
            elif choices and not options.get("image_upload"):
                one["default"] = choices[0]
            one |= {word: True for word in ("multiline", "advanced") if options.get(word)}
            if options.get("control_after_generate"):
                one["seed"] = True
            inputs[name] = one
            if options.get("image_upload"):  # the page's own button beside the choice of a file
                inputs["upload"] = {"type": "IMAGEUPLOAD", "default": "image"}
    # Old pages know no outputs of nodes that save or show.
    shows = info["output_node"] and not kind.startswith("DHD")
    return {"inputs": inputs, "outputs": {} if shows else dict(zip(info["output_name"], info["output"], strict=True))}
