"""What people and shared workflows see of the nodes: read from their schemas, and kept in two files.

    python -m tools.interface        # after a change of nodes; needs a ComfyUI (COMFYUI_PATH, or ~/comfy/ComfyUI)

locales/en/nodeDefs.json    names and tooltips in English, which the other languages in locales/ are translations of
frozen_nodes.json           nodes, inputs and outputs that shared workflows count on; only additions are written
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
LOCALES = REPOSITORY / "locales"
FROZEN = REPOSITORY / "tests" / "host" / "frozen_nodes.json"
COMMAND = "python -m tools.interface"

# Characters with a meaning of their own in the messages of ComfyUI's page (vue-i18n): links, placeholders, plurals.
SYNTAX = frozenset("@{}|")
# Choices that depend on ComfyUI's version or on files, not on this pack.
CHANGING_CHOICES = {"adapter_name", "file_name", "folder", "pack", "sampler_name", "scheduler", "siglip_name"}
# Types whose inputs are widgets: workflows keep their values by place.
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}


def node_infos() -> dict[str, dict[str, Any]]:
    """What ComfyUI's server tells the page about each node, in the order of NODES."""
    from dhd_pack.nodes import NODES

    return {node.GET_SCHEMA().node_id: _info(node) for node in NODES}


def _info(node: Any) -> dict[str, Any]:
    # ComfyUI 0.3.64 calls an output without a display name after its type.
    names = [output.display_name or output.id for output in node.GET_SCHEMA().outputs]
    return {**node.GET_NODE_INFO_V1(), "output_name": names}


def inputs_of(info: dict[str, Any]) -> dict[str, tuple[str, dict[str, Any]]]:
    """Name -> (type, options): the required inputs, then the optional ones."""
    return {name: (kind, options) for group in ("required", "optional") for name, kind, options in _group(info, group)}


def _group(info: dict[str, Any], group: str) -> list[tuple[str, str, dict[str, Any]]]:
    return [(name, spec[0], spec[1]) for name, spec in info["input"].get(group, {}).items()]


# --- names and tooltips -----------------------------------------------------------------------------------------------


def english(infos: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What locales/en/nodeDefs.json should hold."""
    return {node: _texts(info) for node, info in infos.items()}


def _texts(info: dict[str, Any]) -> dict[str, Any]:
    texts: dict[str, Any] = {
        "display_name": escaped(info["display_name"]),
        "description": escaped(info["description"]),
        "inputs": {
            name: _named(options.get("display_name") or name, options["tooltip"])
            for name, (_, options) in inputs_of(info).items()
        },
        "outputs": {
            str(number): _named(name, tooltip)
            for number, (name, tooltip) in enumerate(zip(info["output_name"], info["output_tooltips"], strict=True))
        },
    }
    return {key: value for key, value in texts.items() if value}


def _named(name: str, tooltip: str) -> dict[str, str]:
    # Newer pages show a tooltip as it is written here, older ones read it as a message, so that no spelling of an @ suits
    # both. Left out, the page shows the schema's own; translations do without those characters.
    return {"name": escaped(name)} | ({} if SYNTAX & set(tooltip) else {"tooltip": tooltip})


def escaped(text: str) -> str:
    """A text as a message: its special characters quoted."""
    return "".join(f"{{'{c}'}}" if c in SYNTAX else c for c in text)


# --- what shared workflows count on -----------------------------------------------------------------------------------


def interface(infos: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Inputs, their types and choices, and outputs of all nodes."""
    return {
        node: {
            "required": {name: kind for name, kind, _ in _group(info, "required")},
            "optional": {name: kind for name, kind, _ in _group(info, "optional")},
            "choices": {
                name: list(options["options"])
                for name, (kind, options) in inputs_of(info).items()
                if kind == "COMBO" and name not in CHANGING_CHOICES
            },
            "outputs": dict(zip(info["output_name"], info["output"], strict=True)),
        }
        for node, info in infos.items()
    }


def breaks(frozen: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What would break a workflow made with the frozen nodes, a sentence each.

    Workflows keep values of inputs by their place and links by name and place, so that the order counts too. New nodes,
    choices, and optional inputs and outputs behind the others, break nothing; nor does an input that is only linked and is not
    required any more, since links are found by its name.
    """
    return [sentence for node, before in frozen.items() for sentence in _breaks(node, before, now.get(node))]


def _breaks(node: str, before: dict[str, Any], after: dict[str, Any] | None) -> Iterator[str]:
    if after is None:
        yield f"{node} is gone"
        return
    eased = {
        name
        for name, kind in before["required"].items()
        if name not in after["required"] and after["optional"].get(name) == kind and kind not in WIDGETS
    }
    if [item for item in before["required"].items() if item[0] not in eased] != list(after["required"].items()):
        yield f"{node}: required inputs were {before['required']}, and are {after['required']}"
    for group in ("optional", "outputs"):
        kept = [item for item in after[group].items() if group == "outputs" or item[0] not in eased]
        if kept[: len(before[group])] != list(before[group].items()):
            yield f"{node}: {group} were {before[group]}, and begin with {after[group]}"
    for name, choices in before["choices"].items():
        if gone := [choice for choice in choices if choice not in after["choices"].get(name, ())]:
            yield f"{node}: {name} has no {', '.join(gone)} any more"


# --- files ------------------------------------------------------------------------------------------------------------


def read(path: Path) -> Any:
    """A JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def written(content: Any) -> str:
    """The text of a JSON file: one entry a line, letters of all scripts as they are."""
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def main() -> None:
    """Write both files anew; stop where that would break workflows."""
    sys.path.insert(0, str(REPOSITORY / "tests"))
    from support.comfyui import load_pack

    load_pack()
    infos = node_infos()
    now = interface(infos)
    if found := breaks(read(FROZEN) if FROZEN.exists() else {}, now):
        sys.exit("Shared workflows would break, so nothing was written:\n  " + "\n  ".join(found))
    FROZEN.write_text(written(now), encoding="utf-8")
    path = LOCALES / "en" / "nodeDefs.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(written(english(infos)), encoding="utf-8")


if __name__ == "__main__":
    main()
