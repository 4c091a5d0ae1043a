"""Write ComfyUI workflow files from a compact description, in columns that read from left to right.

    graph = Graph("dual_portrait")
    graph.group("1 Photos")                                   # a new group in this band; `band` begins the next to the right
    photo = graph.add("LoadImage", "Photo of person 1", image="person_1.png")
    graph.column()                                            # what follows stands to the right
    graph.add("PreviewImage", images=photo["IMAGE"])          # links are checked: names, types, nothing left open
    text = written(graph.file())

What inputs, outputs and defaults a node has is read from nodes.json (known.py), so that a file is the same whichever ComfyUI is
installed.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .known import WIDGETS, known_nodes

NOTE = "MarkdownNote"

# Pixels of the canvas, as both looks of the page draw nodes.
TITLE, SLOT, WIDGET, TEXT, FOOT = 30, 20, 30, 110, 60
"""Height of a node's title, a slot, a widget, a text of several lines, and the line about the pack below our nodes."""
GAP, BAND, INSIDE, HEAD = 30, 50, 16, 50
"""Between nodes and groups, between bands, between a group's edge and its nodes, and the height of a group's title."""
WIDTH = 260
SIZES = {
    # type: (width, room below the widgets for pictures and texts)
    NOTE: (380, 0),
    "LoadImage": (260, 240),
    "SaveImage": (440, 420),
    "PreviewImage": (340, 300),
    "MaskPreview": (260, 220),
    "PreviewAny": (280, 150),
    "PrimitiveStringMultiline": (380, 20),
    "CLIPTextEncode": (380, 0),
    "VAEDecode": (225, 0),
    "VAEEncode": (225, 0),
    "SetLatentNoiseMask": (225, 0),
    "SamplerCustomAdvanced": (300, 240),
    "ControlNetApplyAdvanced": (280, 0),
    "DHDEncodeReference": (280, 280),
    "DHDSubjectPrompt": (380, 40),
    "DHDSentences": (440, 200),
    "DHDPortraitLayout": (340, 330),
    "DHDApplyDualPathway": (340, 0),
    "DHDApplyPair": (320, 0),
    "DHDCascadeKSampler": (310, 240),
    "DHDCascadeGuider": (280, 0),
    "DHDIdentityScore": (360, 300),
    "DHDPickBest": (360, 300),
    "DHDFaceMasks": (300, 0),
    "DHDApplyWithAnyone": (320, 0),
    "DHDApplyParts": (320, 0),
}


@dataclass(frozen=True, eq=False)
class Output:
    """One output of a node, to be given as an input of another."""

    node: Node
    slot: int
    type: str


@dataclass(eq=False)
class Node:
    """A node of a graph; `node["IMAGE"]` is its output of that name."""

    id: int
    type: str
    title: str | None
    facts: Mapping[str, Any]
    values: dict[str, Any]
    links: dict[str, Output]
    models: list[dict[str, str]]
    width: float
    room: float
    control: str = "randomize"
    x: float = 0
    y: float = 0

    def __getitem__(self, name: str) -> Output:
        names = list(self.facts["outputs"])
        if name not in names:
            raise KeyError(f"{self.type} has no output {name!r}: it has {', '.join(names)}")
        return Output(self, names.index(name), self.facts["outputs"][name])

    def inputs(self, widgets: bool) -> dict[str, dict[str, Any]]:
        """The inputs that are widgets, or those that are not."""
        return {n: i for n, i in self.facts["inputs"].items() if (i["type"] in (*WIDGETS, "IMAGEUPLOAD")) == widgets}

    def height(self, advanced: bool) -> float:
        """Without its title, px: as new pages show it, or with the advanced inputs that old ones show too."""
        if self.type == NOTE:
            return _note_height(self.values["text"], self.width)
        slots = max(len(self.inputs(widgets=False)), len(self.facts["outputs"]))
        high = 16 + SLOT * slots + self.room + FOOT * self.type.startswith("DHD")
        for one in self.inputs(widgets=True).values():
            if advanced or not one.get("advanced"):
                high += TEXT if one.get("multiline") else WIDGET * (2 if one.get("seed") and advanced else 1)
        return high


@dataclass
class _Group:
    title: str | None
    columns: list[list[Node]] = field(default_factory=lambda: [[]])

    def widths(self) -> list[float]:
        return [max(node.width for node in column) for column in self.columns]

    def width(self) -> float:
        return sum(self.widths()) + GAP * (len(self.columns) - 1) + 2 * INSIDE

    def height(self) -> float:
        head = HEAD if self.title else 0
        return head + max(sum(TITLE + n.height(True) + GAP for n in c) for c in self.columns) - GAP + INSIDE


class Graph:
    """A workflow under construction. Nodes are added from left to right and from top to bottom."""

    def __init__(self, name: str, id: str | None = None) -> None:
        self.name = name
        self.id = id or str(uuid.uuid5(uuid.NAMESPACE_URL, f"dhumandiff/workflows/{name}"))
        self.nodes: list[Node] = []
        self.bands: list[list[_Group]] = []
        self.known = known_nodes()

    # --- what it holds ---------------------------------------------------------------------------------------------------

    def band(self) -> None:
        """Begin anew to the right of everything."""
        self.bands.append([])

    def group(self, title: str | None) -> None:
        """Begin a group below the others of this band; without a title it has no frame."""
        if not self.bands:
            self.band()
        self.bands[-1].append(_Group(title))

    def column(self) -> None:
        """Begin a column to the right within this group."""
        self.bands[-1][-1].columns.append([])

    def note(self, text: str) -> Node:
        """A note that the page renders as Markdown."""
        return self._place(
            Node(
                len(self.nodes) + 1,
                NOTE,
                "Read me",
                {"inputs": {}, "outputs": {}},
                {"text": text},
                {},
                [],
                *SIZES[NOTE],
            )
        )

    def add(
        self,
        type: str,
        /,
        title: str | None = None,
        *,
        models: Iterable[dict[str, str]] = (),
        size: tuple[float, float] | None = None,
        control: str = "randomize",
        **inputs: Any,
    ) -> Node:
        """A node in the present column.

        Args:
            models: files that the page may offer to download: name, url, directory.
            size: width, and room below the widgets, px.
            control: what becomes of a seed after a run: fixed, increment, decrement, randomize.
            inputs: values of widgets, and outputs of other nodes. Widgets that are not given have their defaults.

        Raises:
            ValueError: an input that is not there, or of another type; or one that is needed and not given.
        """
        facts = self.known[type]
        links = {name: one for name, one in inputs.items() if isinstance(one, Output)}
        values = {name: one for name, one in inputs.items() if name not in links}
        node = Node(
            len(self.nodes) + 1,
            type,
            title,
            facts,
            values,
            links,
            list(models),
            *(size or SIZES.get(type, (WIDTH, 0))),
            control,
        )
        for name, output in links.items():
            wanted = facts["inputs"].get(name, {}).get("type")
            if wanted is None or not ({"*", output.type} & set(wanted.split(","))):
                raise ValueError(f"{type}: {name} takes {wanted}, and {output.node.type} gives {output.type}")
        for name, one in node.inputs(widgets=True).items():
            if name not in values:
                if "default" not in one and name not in links:
                    raise ValueError(f"{type}: {name} has no default: give it a value")
                # A linked text shows nothing, rather than a sentence that is not used.
                values[name] = "" if name in links and one["type"] == "STRING" else one.get("default", "")
        known = node.inputs(widgets=True)
        if strange := set(values) - set(known):
            raise ValueError(f"{type} has no {', '.join(sorted(strange))}")
        if missing := [n for n, i in node.inputs(widgets=False).items() if n not in links and not i.get("optional")]:
            raise ValueError(f"{type}: {', '.join(missing)} is not connected")
        return self._place(node)

    def _place(self, node: Node) -> Node:
        self.nodes.append(node)
        self.bands[-1][-1].columns[-1].append(node)
        return node

    # --- where it stands ------------------------------------------------------------------------------------------------

    def _lay_out(self) -> list[dict[str, Any]]:
        """Give every node its place; the groups' frames."""
        frames, left = [], 0.0
        for band in self.bands:
            wide, top = max(group.width() for group in band), 0.0
            for group in band:
                group.columns[-1][0].width += wide - group.width()  # all groups of a band are equally wide
                x = left + INSIDE
                for column, width in zip(group.columns, group.widths(), strict=True):
                    y = top + (HEAD if group.title else 0)
                    for node in column:
                        node.x, node.y, node.width = x, y + TITLE, width
                        y += TITLE + node.height(True) + GAP
                    x += width + GAP
                high = group.height()
                if group.title:
                    frames.append(
                        {
                            "id": len(frames) + 1,
                            "title": group.title,
                            "bounding": [_px(left), _px(top), _px(wide), _px(high)],
                            "color": "#3f789e",
                            "font_size": 24,
                            "flags": {},
                        }
                    )
                top += high + GAP
            left += wide + BAND
        return frames

    def _view(self) -> dict[str, Any]:
        """Where the page looks when it opens the file: at all of it, in a window of usual size."""
        left, top, wide, high = 80, 100, 1800, 900  # what the page's own bars leave of 1920 x 1080
        right = max(node.x + node.width for node in self.nodes) + INSIDE
        bottom = max(node.y + node.height(False) for node in self.nodes) + INSIDE
        scale = round(min(wide / right, high / bottom, 1.0), 3)
        return {
            "scale": scale,
            "offset": [
                _px((left + (wide - scale * right) / 2) / scale),
                _px((top + (high - scale * bottom) / 2) / scale),
            ],
        }

    def file(self) -> dict[str, Any]:
        """The workflow as the page opens it."""
        frames = self._lay_out()
        links: list[list[Any]] = []
        into: dict[tuple[int, str], int] = {}
        out: dict[tuple[int, int], list[int]] = {}
        for node in self.nodes:
            names = [*node.inputs(widgets=False), *node.inputs(widgets=True)]
            for name in names:
                if output := node.links.get(name):
                    number = len(links) + 1
                    links.append([number, output.node.id, output.slot, node.id, names.index(name), output.type])
                    into[node.id, name] = number
                    out.setdefault((output.node.id, output.slot), []).append(number)
        return {
            "id": self.id,
            "revision": 0,
            "last_node_id": len(self.nodes),
            "last_link_id": len(links),
            "nodes": [_node(node, number, into, out) for number, node in enumerate(self.nodes)],
            "links": links,
            "groups": frames,
            "config": {},
            "extra": {"ds": self._view()},
            "version": 0.4,
        }


def _node(node: Node, order: int, into: Mapping[Any, int], out: Mapping[Any, list[int]]) -> dict[str, Any]:
    inputs = []
    for widgets in (False, True):
        for name, one in node.inputs(widgets).items():
            entry: dict[str, Any] = {"name": name, "type": one["type"]}
            if one.get("optional"):
                entry["shape"] = 7
            if widgets:
                entry["widget"] = {"name": name}
            inputs.append({**entry, "link": into.get((node.id, name))})
    values = []
    for name, one in node.inputs(widgets=True).items():
        values += [node.values[name], node.control] if one.get("seed") else [node.values[name]]
    if node.type == NOTE:
        values = [node.values["text"]]
    properties: dict[str, Any] = {} if node.type == NOTE else {"Node name for S&R": node.type}
    if node.models:
        properties["models"] = node.models
    return {
        "id": node.id,
        "type": node.type,
        "pos": [_px(node.x), _px(node.y)],
        "size": [_px(node.width), _px(node.height(False))],
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": inputs,
        "outputs": [
            {"name": name, "type": kind, "links": out.get((node.id, slot))}
            for slot, (name, kind) in enumerate(node.facts["outputs"].items())
        ],
        **({"title": node.title} if node.title else {}),
        "properties": properties,
        "widgets_values": values,
        **({"color": "#432", "bgcolor": "#653"} if node.type == NOTE else {}),
    }


def _px(value: float) -> int:
    return round(value)


def _note_height(text: str, width: float) -> float:
    letters = (width - 40) / 6.2
    lines = [line for line in text.splitlines() if line.strip()]
    return 30 + sum(15 * math.ceil(len(line) / letters) + (14 if line.startswith("#") else 6) for line in lines)


def written(content: Any) -> str:
    """The text of a workflow file: small, and with one node or link a line it reads in a diff."""
    parts = []
    for key, value in content.items():
        if isinstance(value, list) and value:
            rows = ",\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in value)
            parts.append(f"{json.dumps(key)}:[\n{rows}\n]")
        else:
            parts.append(f"{json.dumps(key)}:{json.dumps(value, ensure_ascii=False, separators=(',', ':'))}")
    return "{\n" + ",\n".join(parts) + "\n}\n"
