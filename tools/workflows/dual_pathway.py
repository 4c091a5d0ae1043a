"""Portraits by the dual pathway: faces where they count, words where they count."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from .graph import Graph, Output
from .parts import couple, decoded, empty, layout, models, people, result, sentence, start


def dual_pathway() -> Graph:
    """Two people, a region each, and all else as written."""
    text = "A woman@1 on the left in a long green coat and a man@2 on the right in a yellow raincoat walk through a market in the rain"
    return _portrait("dual_pathway", text, regions="given", text_strength=0.3)


def other_expression() -> Graph:
    """Two people with another expression than on their photos."""
    text = (
        "A woman@1 on the left laughing with closed eyes and a man@2 on the right looking surprised, in a sunny garden"
    )
    return _portrait("other_expression", text, preset="another expression")


def _portrait(name: str, text: str, **settings: Any) -> Graph:
    graph = start(name)
    use = models(graph)
    pair = couple(graph, use)
    graph.band()
    graph.group("2 Sentence")
    said = sentence(graph, use, pair, text)
    graph.group("3 Size and places")
    latent = empty(graph)
    graph.column()
    masks = layout(graph, latent, "side by side")
    graph.band()
    graph.group("Both people")
    given: dict[str, Any] = {**people(pair), **masks, **settings}
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
