"""Show on one picture, within a minute, what the method does: two people of a drawn world in portraits by sentence.

python -m dhumandiff demo --out demo.png

Draws people whom nothing was trained on, makes portraits of them for four sentences (other clothes, other scenes, sides
exchanged, two of one gender) with the miniature that ships, and writes one sheet: the references, the portraits, the focus
mask of the cascade, the same noise without the adapter, and the same noise with one K/V for both people. Below each
portrait stands who a recogniser that took no part in drawing takes each face for. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import HostError, ImageError
from ..io import write_png
from ..miniature.defaults import MINI
from ..miniature.design import DESIGN
from ..optional import require
from .files import check_writable
from .people import DRAWN_SIZE

if TYPE_CHECKING:
    from ..methods.paired.adapter import Adapter
    from ..miniature.faces import MiniFaces
    from ..miniature.world import Identity, Script
    from ..references.reference import FaceReference
    from .demo_sheet import Seen

STRANGERS = 40
"""Other people whom the judge compares with the references: who is no nearer than they are is a stranger."""

APART = 2.0
"""The least `world.distance` between two people of one portrait, so that a reader tells them apart too."""

VERSIONS = ("portrait", "plain", "shared")
"""How each sentence is drawn: with the adapter, without it, with one K/V for both people."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add `demo` to the commands."""
    form = {"description": __doc__, "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = subparsers.add_parser("demo", help="show what the method does, on drawn people", **form)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="PNG", help="where the sheet goes; overwritten")
    add("--seed", type=int, default=0, help="other people, clothes, scenes and noise (default: 0)")
    add("--photos", type=Path, metavar="FOLDER", help="also write the references there, for generate --base mini")
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class Shot:
    """One sentence of the sheet: what it says, the sentence with its marks, and the seed of the noise."""

    script: Script
    marked: str
    seed: int


def run(args: argparse.Namespace) -> None:
    """Write the sheet to `args.out`. What can be refused is refused before anything is computed."""
    check_writable(args.out, "picture", ".png")
    if args.photos and not args.photos.is_dir():
        raise ImageError(
            f"The references cannot be written to {args.photos}: there is no such folder. Make it.",
            code="folder-missing",
        )
    if not 0 <= args.seed < 2**32:
        raise HostError(f"The seed is {args.seed}; it lies between 0 and {2**32 - 1}.", code="seed-out-of-range")
    started = time.monotonic()

    for name in ("transformers", "diffusers"):
        require(name)
    from tqdm import tqdm

    from ..hosts.diffusers.pipeline import PortraitPipeline
    from ..methods.paired.settings import CascadeSettings, SamplingSettings
    from ..miniature import mini_adapter
    from ..miniature.faces import mini_judge
    from .demo_sheet import Row, draw_sheet

    shots = plan(args.seed)
    photos = {who: photo_of(who, args.seed) for shot in shots for who in shot.script.people}
    references = encode(photos)
    judge = mini_judge()
    known = {who: identify(judge, photo) for who, photo in photos.items()}
    same, stranger = measure(judge, known, args.seed)

    adapter = mini_adapter()
    base = PortraitPipeline.from_base("mini", "cpu")
    steps, cfg = MINI["steps"], MINI["cfg"]
    sampling = SamplingSettings(steps, cfg, MINI["sampler"], size=DESIGN.size)
    weights = {"portrait": adapter, "plain": without_people(adapter), "shared": with_one_for_both(adapter)}
    rows = []
    with tqdm(desc="drawing", unit="step", total=len(shots) * len(VERSIONS) * steps) as bar:

        def step(done: int, total: int) -> None:
            bar.update()

        for shot in shots:
            people = shot.script.people
            drawn = {}
            for name in VERSIONS:
                cascade = CascadeSettings("none", strength=0.0) if name == "plain" else CascadeSettings("one_pass")
                drawn[name] = base(
                    weights[name],
                    [references[who] for who in people],
                    shot.marked,
                    MINI["negative"],
                    cascade=cascade,
                    sampling=replace(sampling, seed=shot.seed),
                    progress=step,
                )
            pictures = {name: picture for name, (picture, _) in drawn.items()}
            embeddings = [known[who] for who in people]
            seen = {name: look(judge, picture, shot, embeddings, stranger) for name, picture in pictures.items()}
            focus = None if drawn["portrait"][1] is None else drawn["portrait"][1].numpy()
            rows.append(Row(shot.marked, tuple(photos[who] for who in people), pictures, focus, seen))

    # As numbers, and in words on the sheet: how the judge's similarities are to be read.
    how = f"Seed {args.seed} (--seed draws others). {MINI['sampler']}, {steps} steps, guidance {cfg:g}"
    sheet = draw_sheet(rows, same=same, stranger=stranger, how=how)
    write_png(sheet, args.out, {"dhumandiff": json.dumps(_record(args.seed, shots, rows), ensure_ascii=False)})
    _tell(args, shots, rows, photos, time.monotonic() - started)


def plan(seed: int) -> list[Shot]:
    """Four sentences by the seed: three about a woman and a man, one about two people of one gender."""
    from ..miniature.world import COLORS, GARMENTS, SCENES, Outfit, Script, distance, people, write_caption
    from ..miniature.world.dice import Dice

    dice = Dice("demo", seed)
    pool = [who for who in people("test", 120) if who.age != "child"]
    women, men = ([who for who in pool if who.gender == gender] for gender in ("woman", "man"))
    woman = dice.pick(women)
    man = dice.pick([who for who in men if distance(who, woman) >= APART])
    others = [who for who in (women if dice.chance(0.5) else men) if who not in (woman, man)]
    friend = dice.pick(others)
    friends = (friend, dice.pick([who for who in others if distance(who, friend) >= APART]))

    scenes = _several(dice, SCENES, 4)
    shots = []
    for number, scene in enumerate(scenes):
        couple = friends if number == 3 else (woman, man)
        colors = _several(dice, tuple(COLORS), 2)
        first, second = (Outfit(dice.pick(GARMENTS[who.gender]), c) for who, c in zip(couple, colors, strict=True))
        actions = ("holding flowers", "arms down") if number == 2 else ("arms down", "arms down")
        script = Script(couple, (first, second), actions, scene, first_is_left=number != 1)
        shots.append(Shot(script, write_caption(script, dice.number(1_000_000))[0], seed * 100 + number))
    return shots


def _several(dice: Any, choices: Sequence[Any], count: int) -> list[Any]:
    """Different ones, in chance's order."""
    left = list(choices)
    return [left.pop(dice.number(len(left))) for _ in range(count)]


def photo_of(who: Identity, seed: int) -> Any:
    """The reference of a person, uint8 [96, 96, 3]."""
    from ..miniature.world import draw_reference

    return draw_reference(who, seed).picture


def encode(photos: dict[Identity, Any]) -> dict[Identity, FaceReference]:
    """References of the people in photos, as `generate --base mini` makes them."""
    from ..miniature.base import mini_vision
    from ..miniature.faces import mini_faces
    from ..references.encode import encode_reference

    vision, faces = mini_vision(), mini_faces()
    return {
        who: encode_reference(photo, vision, faces, name=who.name, min_size=DRAWN_SIZE)[0]
        for who, photo in photos.items()
    }


def without_people(adapter: Adapter) -> Adapter:
    """The same weights without the subject path: at strength 0 the base alone draws, and no word is mapped."""
    tensors = {
        name: tensor
        for name, tensor in adapter.state_dict().items()
        if not name.startswith(("identity_projection.", "mapping."))
    }
    return type(adapter).from_tensors(tensors, adapter.info.metadata)


def with_one_for_both(adapter: Adapter) -> Adapter:
    """The same weights, but in every layer the people's K/V averaged to one, which then serves both."""
    import torch

    tensors = {name: tensor for name, tensor in adapter.state_dict().items() if not name.startswith("attention.")}
    for number, layer in enumerate(adapter.layers):
        for kind in ("to_k_ip", "to_v_ip"):
            own = torch.stack([getattr(layer, f"{kind}{suffix}").weight for suffix in layer.suffixes])
            tensors[f"attention.{number}.{kind}.weight"] = own.mean(dim=0)
    return type(adapter).from_tensors(tensors, adapter.info.metadata)


def identify(judge: MiniFaces, photo: Any) -> Any:
    """The judge's embedding [512] of the surest face in a picture; None when it finds none."""
    faces = judge.detect(photo)
    return judge.identity(photo, faces[0]) if faces else None


def measure(judge: MiniFaces, known: dict[Identity, Any], seed: int) -> tuple[float, float]:
    """How similar the judge finds (another drawing of the same person on average, 19 of 20 strangers at most)."""
    import numpy as np

    from ..miniature.world import people

    there = {who: embedding for who, embedding in known.items() if embedding is not None}
    again = [
        (identify(judge, photo_of(who, seed + 1 + n)), embedding) for who, embedding in there.items() for n in range(2)
    ]
    same = [float(new @ old) for new, old in again if new is not None]
    others = [who for who in people("test", STRANGERS + len(known)) if who not in known][:STRANGERS]
    apart = [
        float(new @ old)
        for new in (identify(judge, photo_of(who, seed)) for who in others)
        if new is not None
        for old in there.values()
    ]
    return float(np.mean(same or [1.0])), float(np.quantile(apart or [0.0], 0.95))


def look(judge: MiniFaces, picture: Any, shot: Shot, known: Sequence[Any], stranger: float) -> tuple[Seen, Seen]:
    """Whom the judge sees on the left and on the right, and whom the sentence wants there."""
    import numpy as np

    from .demo_sheet import Seen

    pixels = np.asarray(picture)
    asked = (1, 2) if shot.script.first_is_left else (2, 1)
    faces = sorted(judge.detect(pixels)[:2], key=lambda face: face.center[0])
    if len(faces) == 1:  # which of the two it is, its half of the picture says
        faces = [faces[0], None] if faces[0].center[0] < pixels.shape[1] / 2 else [None, faces[0]]
    seen = []
    for person, face in zip(asked, faces or [None, None], strict=True):
        similarity = None
        if face is not None and all(embedding is not None for embedding in known):
            new = judge.identity(pixels, face)
            similarity = float(new @ known[0]), float(new @ known[1])
        seen.append(Seen(person, similarity, stranger))
    return seen[0], seen[1]


def _record(seed: int, shots: Sequence[Shot], rows: Sequence[Any]) -> dict[str, Any]:
    """What the PNG says about how it was made."""
    from .. import __version__

    told = [
        {
            "prompt": shot.marked,
            "seed": shot.seed,
            "persons": [who.name for who in shot.script.people],
            "faces": {
                name: [{"asked": one.asked, "similarity": one.similarity, "taken_for": one.taken} for one in faces]
                for name, faces in row.seen.items()
            },
        }
        for shot, row in zip(shots, rows, strict=True)
    ]
    return {"version": __version__, "demo": seed, **MINI, "rows": told}


def _tell(args: argparse.Namespace, shots: Sequence[Shot], rows: Sequence[Any], photos: dict, seconds: float) -> None:
    """The sheet in a few lines, and what to do next."""
    from PIL import Image

    names = {"portrait": "with the adapter", "plain": "without it", "shared": "one K/V for both"}
    for version, name in names.items():
        faces = [one for row in rows for one in row.seen[version]]
        print(f"{name + ':':18} {sum(one.right for one in faces)} of {len(faces)} faces are who the sentence says")
    print(f"{args.out}: {len(rows)} sentences, seed {args.seed}, {seconds:.0f} s")
    first = shots[0]
    files = [f"{who.name}.png" for who in first.script.people]
    if args.photos:
        for who, photo in photos.items():
            write_png(Image.fromarray(photo), args.photos / f"{who.name}.png", {})
        files = [str(args.photos / file) for file in files]
    where = "" if args.photos else "  (--photos FOLDER writes the two references)"
    print(f"A sentence of your own:{where}")
    print(f"    python -m dhumandiff generate --base mini --person-1 {files[0]} --person-2 {files[1]} \\")
    print(f'        --prompt "{first.marked}" --out mine.png')
