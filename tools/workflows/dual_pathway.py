"""Portraits by the dual pathway: faces where they count, words where they count."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from dhumandiff.methods.dual_pathway.presets import PRESETS

from .graph import Graph, Output
from .parts import (
    NEGATIVE,
    OLD_LOOKS,
    OLD_PHOTOS,
    SIDE,
    couple,
    decoded,
    empty,
    layout,
    models,
    people,
    result,
    sentence,
    start,
)


def dual_pathway() -> Graph:
    """Two people, a region each, and all else as written."""
    text = "A woman@1 on the left in a long green coat and a man@2 on the right in a yellow raincoat walk through a market in the rain"
    return _portrait("dual_pathway", text, regions="given", text_strength=0.3)


def full_body() -> Graph:
    """Two people from head to shoes, out of photos of their heads."""
    text = (
        "Full body photograph from head to shoes. A woman@1 on the left in a green raincoat and yellow boots and a man@2 on the right "
        "in a gray suit and brown shoes cross a bridge"
    )
    return _portrait("full_body", text, size=(832, 1216), preset="full_body")


def other_age() -> Graph:
    """Two people older and younger than on their photos."""
    text = "An old man@1 of eighty on the left in a gray coat and a girl@2 of six on the right in a red dress feed ducks at a pond"
    return _portrait("other_age", text, preset="other_age")


def other_expression() -> Graph:
    """Two people with another expression than on their photos."""
    text = (
        "A woman@1 on the left laughing with closed eyes and a man@2 on the right looking surprised, in a sunny garden"
    )
    return _portrait("other_expression", text, preset="other_expression")


def old_photo_to_reality() -> Graph:
    """Two people on old photos, as a photo of today shows them."""
    text = (
        "Color photograph of today, soft daylight. A woman@1 on the left in a blue shirt and a man@2 on the right in a green sweater "
        "in a modern living room"
    )
    return _portrait("old_photo_to_reality", text, old=True, preset="old_photo")


def _portrait(
    name: str, text: str, preset: str = "", size: tuple[int, int] = (SIDE, SIDE), old: bool = False, **settings: Any
) -> Graph:
    """Two people, each with a place. `preset`: one of `PRESETS`, whose numbers the widgets show too. `old`: from worn photos."""
    graph = start(name)
    use = models(graph)
    pair = couple(graph, use, OLD_PHOTOS, normalise_light=True) if old else couple(graph, use)
    graph.band()
    graph.group("2 Sentence")
    said = sentence(graph, use, pair, text, f"{OLD_LOOKS}, {NEGATIVE}" if old else NEGATIVE)
    graph.group("3 Size and places")
    latent = empty(graph, *size)
    graph.column()
    masks = layout(graph, latent, "side by side", *size)
    graph.band()
    graph.group("Both people")
    given: dict[str, Any] = {**people(pair), **masks, **settings}
    if preset:
        of_use = PRESETS[preset].settings
        shown = ("regions", "identity_strength", "text_strength", "feather", "face_share", "start")
        given |= {"preset": PRESETS[preset].title.lower()} | {field: getattr(of_use, field) for field in shown}
    model = graph.add("DHDApplyDualPathway", model=use.model, adapter=use.adapter, **given)["model"]
    result(graph, _drawn(graph, use, model, said, latent), name)
    return graph


def _drawn(graph: Graph, use: SimpleNamespace, model: Output, said: SimpleNamespace, latent: Output) -> Output:
    """By the stock sampler: the method has strengths of its own, and needs no cascade."""
    graph.band()
    graph.group("4 Draw")
    given = {"positive": said.positive, "negative": said.negative, "latent_image": latent}
    sampled = graph.add("KSampler", model=model, **given, seed=1, steps=30, cfg=5.0)["LATENT"]
    graph.column()
    return decoded(graph, use, sampled)
