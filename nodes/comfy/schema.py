"""What the node classes share: this pack's types, and what differs between the ComfyUI versions it supports."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable, Iterable
from typing import Any

from comfy_api.latest import io

from ...dhumandiff.errors import HostError

log = logging.getLogger(__name__)

CATEGORY = "DHumanDiff"

AdapterType = io.Custom("DHD_ADAPTER")
ReferenceType = io.Custom("DHD_REFERENCE")
WithAnyoneType = io.Custom("DHD_WITHANYONE")
PartsWeightsType = io.Custom("DHD_PARTS")
PartsType = io.Custom("DHD_PART")
# ComfyUI's own type for boxes x, y, width, height in px; 0.3.64 does not have it yet, so that there it is one by name.
BoundingBoxType = getattr(io, "BoundingBox", None) or io.Custom("BOUNDING_BOX")
# For an input of that type: a socket, no widget. 0.3.64 makes one of every custom type.
FORCE_INPUT: dict[str, Any] = {"force_input": True} if hasattr(io, "BoundingBox") else {}
# InsightFace objects under the names that other packs use for them: IPAdapter_plus, InstantID and PuLID.
FACE_ANALYSIS_TYPES = [io.FaceAnalysis, io.Custom("INSIGHTFACE"), io.Custom("FACEANALYSIS")]

_SCHEMA_FIELDS = frozenset(inspect.signature(io.Schema).parameters)

# Inputs that the page folds away; ComfyUI 0.3.64 does not know the word yet.
ADVANCED: dict[str, Any] = (
    {"advanced": True} if "advanced" in inspect.signature(io.Float.Input.__init__).parameters else {}
)

STRENGTH: dict[str, Any] = {"min": 0.0, "max": 3.0, "step": 0.05}
"""Of an input for how much people or parts count; 1 is as trained."""
SHARE: dict[str, Any] = {"min": 0.0, "max": 1.0, "step": 0.01}
"""Of an input for a share of sampling or of the picture."""


PERSONS = range(1, 5)
"""Numbers of the people whom a node takes."""


def of_each_person(
    kind: Any, name: str, tooltip: str, *, persons: Iterable[int] = PERSONS, **settings: Any
) -> list[Any]:
    """Inputs NAME_1, NAME_2, ... of a type: one a person. `{k}` in the tooltip stands for their number."""
    return [kind.Input(f"{name}_{k}", tooltip=tooltip.format(k=k), **settings) for k in persons]


def start_and_end(who: str, **settings: Any) -> list[Any]:
    """The inputs start and end: in which share of sampling `who` counts."""
    share = {**SHARE, **ADVANCED, **settings}
    return [
        io.Float.Input("start", default=0.0, tooltip=f"Share of sampling at which {who} begin to count.", **share),
        io.Float.Input("end", default=1.0, tooltip="Share of sampling at which they cease to count.", **share),
    ]


def start_before_end(start: float | None, end: float | None) -> bool | str:
    """For a node's `validate_inputs`: True, or what is wrong with its inputs start and end; None is linked and not known yet."""
    if start is not None and end is not None and start >= end:
        return f"start ({start:g}) must be before end ({end:g}): they are shares of sampling."
    return True


def schema(**fields: Any) -> io.Schema:
    """An `io.Schema` in this pack's category, without the fields that an older ComfyUI does not know."""
    fields = {"category": CATEGORY, **fields}
    return io.Schema(**{name: value for name, value in fields.items() if name in _SCHEMA_FIELDS})


def tell(node: type[io.ComfyNode], text: str) -> None:
    """Show a note on the node in the page, and in the log. Needs ``hidden=[io.Hidden.unique_id]`` in the schema."""
    log.warning("%s: %s", node.SCHEMA.display_name if node.SCHEMA else node.__name__, text)
    progress_text(node)(text)


def progress_text(node: type[io.ComfyNode]) -> Callable[[str], None]:
    """What shows on the node in the page what it is doing: text -> None. The same text twice is sent once.

    Needs ``hidden=[io.Hidden.unique_id]`` in the schema. Outside of a server, and on one without such texts, nothing happens.
    """
    node_id = getattr(node.hidden, "unique_id", None)
    shown: str | None = None

    def show(text: str) -> None:
        nonlocal shown
        if node_id is None or text == shown:
            return
        shown = text
        from server import PromptServer

        send = getattr(getattr(PromptServer, "instance", None), "send_progress_text", None)
        if send is not None:
            send(plain(text), node_id)

    return show


def plain(text: str) -> str:
    """A text without markup and links: the page shows it as HTML, and a text may quote what somebody typed.

    A sign that is not seen (U+2060) takes from [[, :// and www. what the page would make a link of.
    """
    return _LINK.sub("\\g<0>\u2060", text.replace("<", "‹").replace(">", "›"))


_LINK = re.compile(r"\[(?=\[)|:(?=//)|www(?=\.)", re.IGNORECASE)


def check_choice(name: str, value: Any, options: Iterable[str]) -> str:
    """What came for an input with a list of choices. ComfyUI looks at it only while it is not linked to another node.

    Raises:
        HostError: it is none of them.
    """
    options = list(options)
    if isinstance(value, str) and value in options:
        return value
    raise HostError(
        f"{name} is {str(value)[:80]!r}, which is none of its choices: {', '.join(options)}. Choose one, or link a node "
        "that gives one.",
        code="not-a-choice",
    )
