"""The blueprints in subgraphs/, made from the workflows: what a person chooses stays outside, all the rest goes inside.

    python -m tools.blueprints        # after a change of dual_portrait, mini_dual_portrait, withanyone_two, parts_one or dual_pathway

ComfyUI shows them in its node library under "Subgraph Blueprints". A blueprint is a workflow of one node, whose inside is
`definitions.subgraphs`: the nodes that its outputs need, at their places in the workflow, with its values and model links.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
FOLDER = REPOSITORY / "subgraphs"
WORKFLOWS = REPOSITORY / "workflows"
COMMAND = "python -m tools.blueprints"

INSIDE_OF_INPUTS, INSIDE_OF_OUTPUTS = -10, -20
"""Ids that the page gives the two ends of a subgraph."""

Json = dict[str, Any]


class Slot(NamedTuple):
    """An input or output of the blueprint: its name, what the page calls it, and where it is inside."""

    name: str
    label: str
    node: str
    """Type of the node inside."""
    number: int
    """Which one of that type, in the order of ids, from 0."""
    inside: str
    """Name of its input or output."""


@dataclass(frozen=True)
class Blueprint:
    """One file: which workflow it is made from, and what of it can be reached from outside."""

    name: str
    workflow: str
    description: str
    aliases: tuple[str, ...]
    inputs: tuple[Slot, ...]
    outputs: tuple[Slot, ...]
    size: tuple[int, int]

    @property
    def path(self) -> Path:
        """The file. The page calls the blueprint after it."""
        return FOLDER / f"{self.name}.json"


DUAL_PORTRAIT = Blueprint(
    name="Dual Portrait",
    workflow="dual_portrait",
    description="Two photos and one sentence become a portrait of both people. Connect a photo of each, write word@1 and word@2 "
    "where a word means person 1 or person 2, and press Run. Use photos of people who agreed to it.",
    aliases=("two people", "couple", "face", "identity", "photos", "dhumandiff"),
    inputs=(
        Slot("photo_1", "photo of person 1", "DHDEncodeReference", 0, "image"),
        Slot("photo_2", "photo of person 2", "DHDEncodeReference", 1, "image"),
        Slot("sentence", "sentence", "DHDSubjectPrompt", 0, "text"),
        Slot("seed", "seed", "DHDCascadeKSampler", 0, "seed"),
        Slot("width", "width", "EmptyLatentImage", 0, "width"),
        Slot("height", "height", "EmptyLatentImage", 0, "height"),
        Slot("steps", "steps", "DHDCascadeKSampler", 0, "steps"),
        Slot("cfg", "cfg", "DHDCascadeKSampler", 0, "cfg"),
        Slot("ckpt_name", "checkpoint", "CheckpointLoaderSimple", 0, "ckpt_name"),
        Slot("adapter_name", "adapter", "DHDLoadAdapter", 0, "adapter_name"),
        Slot("clip_name", "image encoder", "CLIPVisionLoader", 0, "clip_name"),
        Slot("pack", "face pack", "DHDLoadFaceAnalysis", 0, "pack"),
    ),
    outputs=(
        Slot("portrait", "portrait", "VAEDecode", 0, "IMAGE"),
        Slot("crop_1", "face of photo 1", "DHDEncodeReference", 0, "crop"),
        Slot("crop_2", "face of photo 2", "DHDEncodeReference", 1, "crop"),
        Slot("report_1", "about photo 1", "DHDEncodeReference", 0, "report"),
        Slot("report_2", "about photo 2", "DHDEncodeReference", 1, "report"),
        Slot("bound_words", "which word is whom", "DHDSubjectPrompt", 0, "bound_words"),
    ),
    size=(400, 620),
)

MINIATURE = Blueprint(
    name="Dual Portrait (miniature)",
    workflow="mini_dual_portrait",
    description="A portrait of two drawn people in seconds, with a small model that ships with DHumanDiff: nothing to download. "
    "Another number is another person. For photos of real people take the blueprint Dual Portrait.",
    aliases=("two people", "mini", "demo", "example", "drawn people", "dhumandiff"),
    inputs=(
        Slot("person_1", "person 1", "DHDDrawPerson", 0, "person"),
        Slot("gender_1", "person 1 is", "DHDDrawPerson", 0, "gender"),
        Slot("person_2", "person 2", "DHDDrawPerson", 1, "person"),
        Slot("gender_2", "person 2 is", "DHDDrawPerson", 1, "gender"),
        Slot("sentence", "sentence", "DHDSubjectPrompt", 0, "text"),
        Slot("seed", "seed", "DHDCascadeKSampler", 0, "seed"),
    ),
    outputs=(
        Slot("portrait", "portrait", "ImageScaleBy", 0, "IMAGE"),
        Slot("photo_1", "photo of person 1", "DHDDrawPerson", 0, "image"),
        Slot("photo_2", "photo of person 2", "DHDDrawPerson", 1, "image"),
        Slot("bound_words", "which word is whom", "DHDSubjectPrompt", 0, "bound_words"),
    ),
    size=(360, 420),
)

WITHANYONE = Blueprint(
    name="WithAnyone Portrait",
    workflow="withanyone_two",
    description="A portrait of two people with FLUX.1, each in a box of their own. Connect a photo of each and write the sentence, with "
    "hair, age and clothes of both. Double-click it to drag the boxes. For non-commercial use, with photos of people who agreed to it.",
    aliases=("two people", "flux", "withanyone", "face", "identity", "photos", "dhumandiff"),
    inputs=(
        Slot("photo_1", "photo of person 1", "DHDEncodeReference", 0, "image"),
        Slot("photo_2", "photo of person 2", "DHDEncodeReference", 1, "image"),
        Slot("sentence", "sentence", "CLIPTextEncode", 0, "text"),
        Slot("form", "in spirit (0) or in form (1)", "DHDApplyWithAnyone", 0, "form"),
        Slot("seed", "seed", "KSampler", 0, "seed"),
        Slot("width", "width", "EmptySD3LatentImage", 0, "width"),
        Slot("height", "height", "EmptySD3LatentImage", 0, "height"),
        Slot("steps", "steps", "KSampler", 0, "steps"),
        Slot("unet_name", "FLUX.1", "UNETLoader", 0, "unet_name"),
        Slot("clip_name1", "text encoder CLIP-L", "DualCLIPLoader", 0, "clip_name1"),
        Slot("clip_name2", "text encoder T5", "DualCLIPLoader", 0, "clip_name2"),
        Slot("vae_name", "VAE", "VAELoader", 0, "vae_name"),
        Slot("adapter_name", "WithAnyone", "DHDLoadWithAnyone", 0, "adapter_name"),
        Slot("siglip_name", "SigLIP", "DHDLoadSigLIP", 0, "siglip_name"),
        Slot("pack", "face pack", "DHDLoadFaceAnalysis", 0, "pack"),
    ),
    outputs=(
        Slot("portrait", "portrait", "VAEDecode", 0, "IMAGE"),
        Slot("places", "where the faces are", "DHDPortraitLayout", 0, "preview"),
        Slot("crop_1", "face of photo 1", "DHDEncodeReference", 0, "crop"),
        Slot("crop_2", "face of photo 2", "DHDEncodeReference", 1, "crop"),
        Slot("report_1", "about photo 1", "DHDEncodeReference", 0, "report"),
        Slot("report_2", "about photo 2", "DHDEncodeReference", 1, "report"),
    ),
    size=(400, 680),
)

PARTS = Blueprint(
    name="Parts2Whole Portrait",
    workflow="parts_one",
    description="One person with face and clothes from pictures of their own, on Stable Diffusion 1.5. Connect a face photo, a picture of "
    "each garment and, if you have one, a DensePose map, and write the sentence. Use photos of people who agreed to it.",
    aliases=("parts2whole", "clothes", "outfit", "virtual try on", "garment", "face", "dhumandiff"),
    inputs=(
        Slot("face", "face", "DHDEncodePart", 0, "image"),
        Slot("upper", "upper body clothes", "DHDEncodePart", 1, "image"),
        Slot("lower", "lower body clothes", "DHDEncodePart", 2, "image"),
        Slot("pose", "pose map (DensePose, raw IUV)", "DHDApplyParts", 0, "pose"),
        Slot("sentence", "sentence", "CLIPTextEncode", 0, "text"),
        Slot("seed", "seed", "KSampler", 0, "seed"),
        Slot("width", "width", "PrimitiveInt", 0, "value"),
        Slot("height", "height", "PrimitiveInt", 1, "value"),
        Slot("steps", "steps", "KSampler", 0, "steps"),
        Slot("cfg", "cfg", "KSampler", 0, "cfg"),
        Slot("folder", "Parts2Whole", "DHDLoadParts2Whole", 0, "folder"),
        Slot("ckpt_name", "CLIP and VAE of SD 1.5", "CheckpointLoaderSimple", 0, "ckpt_name"),
        Slot("clip_name", "CLIP ViT-L/14", "CLIPVisionLoader", 0, "clip_name"),
    ),
    outputs=(Slot("portrait", "portrait", "VAEDecode", 0, "IMAGE"),),
    size=(400, 560),
)

DUAL_PATHWAY = Blueprint(
    name="Dual Pathway Portrait",
    workflow="dual_pathway",
    description="Two photos and one sentence become a portrait by the dual pathway: each face counts in its place, and the words decide on "
    "all the rest. Write word@1 and word@2 where a word means person 1 or person 2; preset has settings for full bodies, other ages, "
    "other expressions and old photos. Double-click it to drag the places. Use photos of people who agreed to it.",
    aliases=("two people", "dp-adapter", "full body", "age", "expression", "old photo", "face", "photos", "dhumandiff"),
    inputs=(
        Slot("photo_1", "photo of person 1", "DHDEncodeReference", 0, "image"),
        Slot("photo_2", "photo of person 2", "DHDEncodeReference", 1, "image"),
        Slot("sentence", "sentence", "DHDSubjectPrompt", 0, "text"),
        Slot("preset", "use", "DHDApplyDualPathway", 0, "preset"),
        Slot("identity_strength", "faces in their places", "DHDApplyDualPathway", 0, "identity_strength"),
        Slot("text_strength", "path of the words", "DHDApplyDualPathway", 0, "text_strength"),
        Slot("seed", "seed", "KSampler", 0, "seed"),
        Slot("width", "width", "EmptyLatentImage", 0, "width"),
        Slot("height", "height", "EmptyLatentImage", 0, "height"),
        Slot("steps", "steps", "KSampler", 0, "steps"),
        Slot("cfg", "cfg", "KSampler", 0, "cfg"),
        Slot("ckpt_name", "checkpoint", "CheckpointLoaderSimple", 0, "ckpt_name"),
        Slot("adapter_name", "adapter", "DHDLoadAdapter", 0, "adapter_name"),
        Slot("clip_name", "image encoder", "CLIPVisionLoader", 0, "clip_name"),
        Slot("pack", "face pack", "DHDLoadFaceAnalysis", 0, "pack"),
    ),
    outputs=(
        Slot("portrait", "portrait", "VAEDecode", 0, "IMAGE"),
        Slot("places", "where they are", "DHDPortraitLayout", 0, "preview"),
        Slot("crop_1", "face of photo 1", "DHDEncodeReference", 0, "crop"),
        Slot("crop_2", "face of photo 2", "DHDEncodeReference", 1, "crop"),
        Slot("report_1", "about photo 1", "DHDEncodeReference", 0, "report"),
        Slot("report_2", "about photo 2", "DHDEncodeReference", 1, "report"),
        Slot("bound_words", "which word is whom", "DHDSubjectPrompt", 0, "bound_words"),
    ),
    size=(400, 720),
)

BLUEPRINTS = (DUAL_PORTRAIT, MINIATURE, WITHANYONE, PARTS, DUAL_PATHWAY)


def built(blueprint: Blueprint) -> Json:
    """What the blueprint's file should hold. ValueError when the workflow has not what it names."""
    workflow = json.loads((WORKFLOWS / f"{blueprint.workflow}.json").read_text(encoding="utf-8"))
    every = {node["id"]: node for node in workflow["nodes"]}
    links = [dict(zip(_LINK, link, strict=True)) for link in workflow["links"]]
    ends = [(slot, *_find(every.values(), slot, "outputs")) for slot in blueprint.outputs]
    starts = [(slot, *_find(every.values(), slot, "inputs")) for slot in blueprint.inputs]
    # What feeds an input from outside is not needed inside: a photo's loader.
    fed = {(node["id"], place) for _, node, place in starts}
    links = [link for link in links if (link["target_id"], link["target_slot"]) not in fed]
    kept = _needed({node["id"] for _, node, _ in ends}, links)
    links = [link for link in links if {link["origin_id"], link["target_id"]} <= kept]

    numbers = iter(range(max(link["id"] for link in links) + 1, 10**6))
    outer_in, outer_out = [], []
    for number, (slot, node, place) in enumerate(starts):
        kind = node["inputs"][place]["type"]
        link = _joined(next(numbers), INSIDE_OF_INPUTS, number, node["id"], place, kind)
        links.append(link)
        outer_in.append(_outer(blueprint, "in", slot, kind, link["id"]))
    for number, (slot, node, place) in enumerate(ends):
        kind = node["outputs"][place]["type"]
        link = _joined(next(numbers), node["id"], place, INSIDE_OF_OUTPUTS, number, kind)
        links.append(link)
        outer_out.append(_outer(blueprint, "out", slot, kind, link["id"]))

    nodes = [_inner(every[number], links) for number in sorted(kept)]
    groups = [group for group in workflow["groups"] if any(_stands_in(node, group) for node in nodes)]
    left = min(node["pos"][0] for node in nodes)
    right = max(node["pos"][0] + node["size"][0] for node in nodes)
    top = min(node["pos"][1] for node in nodes)
    own = max(every) + 1
    subgraph = {
        "id": _id(blueprint, "subgraph"),
        "version": 1,
        "state": {
            "lastGroupId": max((group["id"] for group in groups), default=0),
            "lastNodeId": own,
            "lastLinkId": links[-1]["id"],
            "lastRerouteId": 0,
        },
        "revision": 0,
        "config": {},
        "name": blueprint.name,
        "category": "DHumanDiff",
        "description": blueprint.description,
        "inputNode": {"id": INSIDE_OF_INPUTS, "bounding": [left - 260, top, 160, 20 * len(outer_in) + 40]},
        "outputNode": {"id": INSIDE_OF_OUTPUTS, "bounding": [right + 100, top, 160, 20 * len(outer_out) + 40]},
        "inputs": outer_in,
        "outputs": outer_out,
        "widgets": [],
        "nodes": nodes,
        "groups": groups,
        "links": links,
        "extra": {},
    }
    return {
        "revision": 0,
        "last_node_id": own,
        "last_link_id": 0,
        "nodes": [_host(blueprint, own, subgraph["id"], starts, outer_out)],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [subgraph]},
        "extra": {"BlueprintSearchAliases": list(blueprint.aliases)},
    }


_LINK = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


def _joined(*values: Any) -> Json:
    return dict(zip(_LINK, values, strict=True))


def _find(nodes: Iterable[Json], slot: Slot, side: str) -> tuple[Json, int]:
    """The node inside, and the place of its input or output."""
    those = sorted((node for node in nodes if node["type"] == slot.node), key=lambda node: node["id"])
    if len(those) > slot.number:
        node = those[slot.number]
        for place, entry in enumerate(node[side]):
            if entry["name"] == slot.inside:
                return node, place
    raise ValueError(f"the workflow has no {slot.node} number {slot.number} with {slot.inside} among its {side}")


def _needed(ends: set[int], links: list[Json]) -> set[int]:
    """The nodes that these need, themselves included."""
    kept: set[int] = set()
    while ends:
        kept |= ends
        ends = {link["origin_id"] for link in links if link["target_id"] in ends} - kept
    return kept


def _inner(node: Json, links: list[Json]) -> Json:
    """A node with the subgraph's links in place of the workflow's."""
    into = {link["target_slot"]: link["id"] for link in links if link["target_id"] == node["id"]}
    out: dict[int, list[int]] = {}
    for link in links:
        if link["origin_id"] == node["id"]:
            out.setdefault(link["origin_slot"], []).append(link["id"])
    return _plain(node) | {
        "inputs": [_plain(entry) | {"link": into.get(place)} for place, entry in enumerate(node["inputs"])],
        "outputs": [_plain(entry) | {"links": out.get(place, [])} for place, entry in enumerate(node["outputs"])],
    }


def _stands_in(node: Json, group: Json) -> bool:
    (x, y), (left, top, width, height) = node["pos"], group["bounding"]
    return left <= x <= left + width and top <= y <= top + height


def _plain(entry: Json) -> Json:
    """Without what says nothing, and without names in one language."""
    return {key: value for key, value in entry.items() if value is not None and key != "localized_name"}


def _outer(blueprint: Blueprint, side: str, slot: Slot, kind: str, link: int) -> Json:
    return {
        "id": _id(blueprint, f"{side}/{slot.name}"),
        "name": slot.name,
        "type": kind,
        "linkIds": [link],
        "label": slot.label,
    }


def _host(
    blueprint: Blueprint, number: int, subgraph: str, starts: list[tuple[Slot, Json, int]], outputs: list[Json]
) -> Json:
    """The one node that is seen from outside."""
    return {
        "id": number,
        "type": subgraph,
        "title": blueprint.name,
        "pos": [0, 0],
        "size": list(blueprint.size),
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": list(_host_inputs(starts)),
        "outputs": [{key: entry[key] for key in ("name", "type", "label")} | {"links": []} for entry in outputs],
        "properties": {},
        "widgets_values": [],
    }


def _host_inputs(starts: list[tuple[Slot, Json, int]]) -> Iterator[Json]:
    for slot, node, place in starts:
        entry = node["inputs"][place]
        widget = {"widget": {"name": slot.name}} if "widget" in entry else {}
        yield {"name": slot.name, "label": slot.label, "type": entry["type"], **widget, "link": None}


def _id(blueprint: Blueprint, what: str) -> str:
    """Always the same one, so that a file changes only where something changed."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"dhumandiff/{blueprint.name}/{what}"))


def files() -> dict[Path, str]:
    """Every file that is made here, and its text."""
    return {one.path: json.dumps(built(one), ensure_ascii=False, indent=1) + "\n" for one in BLUEPRINTS}


def main() -> None:
    """Write all files anew."""
    FOLDER.mkdir(exist_ok=True)
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
