"""A portrait of `generate` while it is drawn, and what its PNG says."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .people import Person, each

if TYPE_CHECKING:
    from ..hosts.diffusers.pipeline import PortraitPipeline
    from ..methods.paired.adapter import Adapter
    from ..methods.paired.settings import CascadeSettings, SamplingSettings
    from .dual import Dual

__all__ = ["CASCADE", "focus_picture", "record_of", "with_progress"]

CASCADE = {
    "mode": "one_pass",
    "scene_strength": 0.7,
    "face_strength": 1.0,
    "focus_share": 0.1,
    "strength": 1.0,
    "start": 0.0,
    "end": 1.0,
}
"""Of the cascade and its share of sampling; where another method shares an option, it looks whether it was given."""


def with_progress(draw: Callable[..., Any], *inputs: Any, **settings: Any) -> tuple[Any, Any]:
    """A `PortraitPipeline`, or what draws as it does, with a bar."""
    from tqdm import tqdm

    with tqdm(desc="sampling", unit="step", total=settings["sampling"].steps) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return draw(*inputs, progress=progress, **settings)


def record_of(
    args: argparse.Namespace,
    people: list[Person],
    cascade: CascadeSettings,
    sampling: SamplingSettings,
    negative: str,
    adapter: Adapter,
    portrait: PortraitPipeline,
    dual: Dual | None,
) -> dict[str, str]:
    """What the PNG says about how it was made. Names of files, not where they lay: pictures are passed on."""
    from .. import __version__

    made = {
        "version": __version__,
        "prompt": args.prompt,
        "mentions": args.mentions,
        "size": sampling.size,
        "seed": sampling.seed,
        "steps": sampling.steps,
        "cfg": sampling.cfg,
        "mode": cascade.mode,
        "scene_strength": cascade.scene_strength,
        "face_strength": cascade.face_strength,
        "focus_share": cascade.focus_fraction,
        "strength": cascade.strength,
        "start": sampling.start,
        "end": sampling.end,
        "person_strengths": sampling.person_strengths,
        "negative": negative,
        "persons": [[Path(source).name for source in person.sources] for person in people],
        "which_face": [person.which for person in people],
        "focus": args.focus and args.focus.name,
        "masks": [path and path.name for path in each(args, "mask")[: len(people)]],
        "normalise_light": args.normalise_light,
        "base": Path(args.base).name,
        "adapter": Path(args.adapter).name if args.adapter else adapter.info.source,
        "sampler": args.sampler,
        "device": portrait.device.type,
        "dtype": str(portrait.dtype).removeprefix("torch."),
    }
    cascade_words = f"{args.mode} {args.scene_strength} {args.face_strength} {args.focus_share}"
    if dual is not None:
        made = {name: value for name, value in made.items() if name not in CASCADE} | dual.record()
        cascade_words = dual.in_a_word
    readable = {
        "Steps": args.steps,
        "Sampler": args.sampler,
        "CFG scale": args.cfg,
        "Seed": args.seed,
        "Size": "x".join(map(str, sampling.size)),
        "Model": made["base"],
        "DHumanDiff": cascade_words,
    }
    line = ", ".join(f"{name}: {value}" for name, value in readable.items())
    return {
        "dhumandiff": json.dumps(made, ensure_ascii=False),
        "parameters": f"{args.prompt}\nNegative prompt: {negative}\n{line}",
    }


def focus_picture(focus: Any, size: tuple[int, int]) -> Any:
    """The focus mask at the picture's size, white where faces are; black where nothing was in focus."""
    from PIL import Image

    if focus is None:  # every person at strength 0
        return Image.new("L", size)
    return Image.fromarray((focus.float().numpy() * 255).round().astype("uint8")).resize(size, Image.Resampling.NEAREST)
