"""Portraits with diffusers, with settings by name."""

from __future__ import annotations

from typing import Any

from dhumandiff.methods.paired.settings import split_settings


def draw(portrait: Any, adapter: Any, people: Any, prompt: Any, *negative: str, **named: Any) -> tuple[Any, Any]:
    """A `PortraitPipeline`'s picture and focus; fields of `CascadeSettings` and `SamplingSettings` among its arguments."""
    rest = {name: named.pop(name) for name in ("masks", "focus", "progress") if name in named}
    cascade, sampling = split_settings(**named)
    return portrait(adapter, people, prompt, *negative, cascade=cascade, sampling=sampling, **rest)
