"""What prepare tells: report.json and report.md, histograms in report.png, contact_sheet.png to look at."""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dhumandiff.layout.person_style import draw_box, person_color

from .. import TrainingError
from .encode import EncodedSample
from .shards import read_plan, to_json, write_file

__all__ = ["REASONS", "sample_facts", "write_report"]

REASONS = {
    "corrupt": "the file is damaged or no picture",
    "tiny": "the picture is smaller than min_side",
    "annotation": "the annotation cannot be read",
    "caption": "the caption cannot be read: save it as UTF-8",
    "no face": "no face was found",
    "one person": "fewer than two people",
    "three people": "more than two people",
    "small face": "a face is smaller than faces.min_size",
    "not matched": "faces and annotated people do not fit together",
    "same person": "both faces are one person",
    "words": "the caption does not say who is who",
    "crop": "the two faces do not fit into any bucket",
    "face": "a face could not be recognised",
    "failed": "something else",
}
_SHEET = 24  # pictures on it
_COLUMNS, _WIDTH, _TEXT = 4, 360, 200  # pictures a row; px of a tile and, at most, of its caption


def sample_facts(sample: EncodedSample, notes: Sequence[str]) -> dict[str, Any]:
    """What the report wants to know of one sample; it is kept in the journal."""
    metadata = sample.metadata
    return {
        "key": sample.key,
        "picture": metadata["picture"],
        "source": metadata["source"],
        "bucket": metadata["bucket"],
        "named_by": metadata["named_by"],
        "people": [
            {
                "gender": person["gender"],
                "age_group": person["age_group"],
                "face_size": person["references"][0]["quality"]["face_size"],
                "brightness": person["references"][0]["quality"]["brightness"],
                "light_imbalance": person["references"][0]["quality"]["light_imbalance"],
                "paired": sum(one["origin"] == "paired" and not one["augmented"] for one in person["references"]),
            }
            for person in metadata["persons"]
        ],
        "notes": list(notes),
    }


def write_report(out: Path, entries: Sequence[dict[str, Any]]) -> str:
    """Write all four from the journal's entries; gives the words for the person at the terminal."""
    plan = read_plan(out)
    every = [fact for entry in entries for fact in entry["facts"]]
    skipped = [one for entry in entries for one in entry["set_aside"]]
    people = [person for fact in every for person in fact["people"]]
    report = {
        "pictures": plan["pictures"],
        "samples": len(every),
        "set_aside": dict(sorted(Counter(one["reason"] for one in skipped).items())),
        "named_by": dict(sorted(Counter(fact["named_by"] for fact in every).items())),
        "buckets": dict(sorted(Counter("{} x {}".format(*fact["bucket"]) for fact in every).items())),
        "sources": {
            name: {
                "weight": weight,
                "samples": sum(fact["source"] == name for fact in every),
                "set_aside": sum(one["source"] == name for one in skipped),
            }
            for name, weight in plan["sources"].items()
        },
        "people_with_paired_photos": sum(person["paired"] > 0 for person in people),
        "histograms": _histograms(people),
        "notes": plan["notes"],
        "set_aside_pictures": skipped,
        "noted_pictures": [
            {"key": fact["key"], "picture": fact["picture"], "notes": fact["notes"]} for fact in every if fact["notes"]
        ],
    }
    write_file(out / "report.json", to_json(report))
    write_file(out / "report.md", _markdown(report))
    _plot(report["histograms"], out / "report.png")
    sheet = _contact_sheet(out, entries)
    return _ending(out, report, sum(entry["bytes"] for entry in entries), sheet)


def _histograms(people: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    edges = {
        "face_size": [0, 32, 64, 96, 135, 192, 256, 384, 512, 100_000],  # px; 135 is where CLIP's view has its detail
        "brightness": [round(0.1 * i, 1) for i in range(11)],
        "light_imbalance": [-100, -2, -1, -0.5, -0.25, 0.25, 0.5, 1, 2, 100],  # stops
    }
    found: dict[str, dict[str, Any]] = {}
    for name, limits in edges.items():
        counts, _ = np.histogram([person[name] for person in people], limits)
        labels = [f"{low:g} to {high:g}" for low, high in pairwise(limits)]
        if name != "brightness":
            labels[-1] = f"{limits[-2]:g} and more"
        if name == "light_imbalance":
            labels[0] = f"{limits[1]:g} and less"
        found[name] = dict(zip(labels, counts.tolist(), strict=True))
    for name in ("gender", "age_group"):
        counted = Counter(person[name] or "not known" for person in people)
        found[name] = dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))
    return found


_TITLES = {
    "face_size": "face size, px in the original",
    "brightness": "brightness of the face, 0 to 1",
    "light_imbalance": "light, left over right half, stops",
    "gender": "gender",
    "age_group": "age group",
}


def _markdown(report: dict[str, Any]) -> str:
    lines = [
        "# What prepare made",
        "",
        f"{report['pictures']} pictures: {report['samples']} samples, {len(report['set_aside_pictures'])} set aside.",
        "",
        *(f"- note: {note}" for note in report["notes"]),
        "",
        "| source | weight | samples | set aside |",
        "| --- | --- | --- | --- |",
        *(
            f"| {name} | {one['weight']:g} | {one['samples']} | {one['set_aside']} |"
            for name, one in report["sources"].items()
        ),
        "",
        "## Set aside",
        "",
        "| reason | pictures | |",
        "| --- | --- | --- |",
        *(f"| {reason} | {count} | {REASONS.get(reason, '')} |" for reason, count in report["set_aside"].items()),
        "",
        *(f"- `{one['name']}` ({one['source']}): {one['message']}" for one in report["set_aside_pictures"][:200]),
    ]
    if len(report["set_aside_pictures"]) > 200:
        lines.append(f"- and {len(report['set_aside_pictures']) - 200} more, all in report.json")
    lines += [
        "",
        "## Who is who",
        "",
        "By what the two people were told apart: "
        + (", ".join(f"{name} {count}" for name, count in report["named_by"].items()) or "nothing")
        + ". With `order` and `left_to_right` it is a convention: nothing in the caption says it; look at contact_sheet.png.",
        "",
        f"{report['people_with_paired_photos']} people have a photo beside the picture (paired references).",
        "",
        "## People",
        "",
    ]
    for name, bins in report["histograms"].items():
        lines += [
            f"| {_TITLES[name]} | people |",
            "| --- | --- |",
            *(f"| {label} | {n} |" for label, n in bins.items()),
            "",
        ]
    lines += [
        "## Buckets (height x width)",
        "",
        *(f"- {name}: {count}" for name, count in report["buckets"].items()),
        "",
    ]
    return "\n".join(lines)


def _plot(histograms: dict[str, dict[str, int]], path: Path) -> None:
    try:
        from matplotlib.figure import Figure  # without pyplot, which would look for a display
    except ImportError as error:
        raise TrainingError(
            "The report's plots need matplotlib. Install it with: pip install matplotlib", code="no-matplotlib"
        ) from error
    figure = Figure(figsize=(12, 7), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    for axis, (name, bins) in zip(axes, histograms.items(), strict=False):
        axis.barh(list(bins), list(bins.values()), color="#4477aa")
        axis.invert_yaxis()
        axis.set_title(_TITLES[name], fontsize=10)
        axis.tick_params(labelsize=8)
        axis.set_xlabel("people", fontsize=8)
    for axis in axes[len(histograms) :]:
        axis.set_axis_off()
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=100)
    write_file(path, stream.getvalue())


def _contact_sheet(out: Path, entries: Sequence[dict[str, Any]]) -> bool:
    """Up to 24 samples, evenly over the data; False when the shards hold no pictures."""
    keys = [(entry["shard"], fact["key"]) for entry in entries for fact in entry["facts"]]
    step = max(1, math.ceil(len(keys) / _SHEET))
    tiles = [tile for tile in (_tile(*found) for found in _read(out, keys[::step])) if tile is not None]
    if not tiles:
        return False
    columns = min(_COLUMNS, len(tiles))
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) for row in rows]
    sheet = Image.new("RGB", (columns * _WIDTH, sum(heights)), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            sheet.paste(tile, (column * _WIDTH, top))
        top += height
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    write_file(out / "contact_sheet.png", stream.getvalue())
    return True


def _read(out: Path, keys: Iterable[tuple[str, str]]) -> Iterable[tuple[dict[str, Any], bytes]]:
    """The JSON and the JPEG of samples."""
    wanted: dict[str, list[str]] = {}
    for shard, key in keys:
        wanted.setdefault(shard, []).append(key)
    for shard, mine in wanted.items():
        with tarfile.open(out / shard) as tar:
            names = set(tar.getnames())
            for key in mine:
                if f"{key}.jpg" in names:
                    metadata = json.loads(tar.extractfile(f"{key}.json").read())
                    yield metadata, tar.extractfile(f"{key}.jpg").read()


def _tile(metadata: dict[str, Any], jpeg: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(jpeg)).convert("RGB")
    scale = (_WIDTH - 8) / picture.width
    picture = picture.resize((_WIDTH - 8, round(picture.height * scale)), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for number, person in enumerate(metadata["persons"]):
        for name, width in (("person_box", 1), ("face_box", 3)):
            box = [edge * scale for edge in person[name]]
            if box[2] > box[0] and box[3] > box[1]:
                draw_box(draw, box, number, width)
    tile = Image.new("RGB", (_WIDTH, picture.height + _TEXT + 8), "white")
    tile.paste(picture, (4, 4))
    return tile.crop((0, 0, _WIDTH, _write_caption(tile, metadata, picture.height + 8)))


def _write_caption(tile: Image.Image, metadata: dict[str, Any], top: int) -> int:
    """The caption, its bound words in their person's color; gives the place below it."""
    draw, font, caption = ImageDraw.Draw(tile), _font(), metadata["caption"]
    colors: dict[int, str] = {}
    for number, person in enumerate(metadata["persons"]):
        for words in person["words"]:
            colors |= dict.fromkeys(range(words["start"], words["end"]), person_color(number))
    x, y, line = 6.0, float(top), font.size * 1.3
    for start, word in _split(caption):
        width = draw.textlength(word, font=font)
        if x + width > tile.width - 6 and x > 6:
            x, y = 6.0, y + line
        if y + 2 * line > tile.height:
            break
        for place, letter in enumerate(word):
            draw.text((x, y), letter, font=font, fill=colors.get(start + place, (40, 40, 40)))
            x += draw.textlength(letter, font=font)
    return round(y + line) + 6


def _split(text: str) -> list[tuple[int, str]]:
    """Words with the blanks behind them, and where each starts; what has no blanks is cut every 30 letters."""
    words, start = [], 0
    for place, letter in enumerate(text):
        if letter.isspace() or place - start >= 30:
            words.append((start, text[start : place + 1].replace("\n", " ")))
            start = place + 1
    return [*words, (start, text[start:])]


def _font() -> Any:
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 13)


def _ending(out: Path, report: dict[str, Any], size: int, sheet: bool) -> str:
    reasons = ", ".join(f"{count} {reason}" for reason, count in report["set_aside"].items())
    lines = [
        f"{out}: {report['samples']} samples from {report['pictures']} pictures, {size / 1e6:.1f} MB of shards.",
        f"Set aside: {reasons or 'none'}. The reasons for each picture are in {out / 'report.md'}.",
    ]
    if sheet:
        lines.append(f"Look at {out / 'contact_sheet.png'}: is each coloured word the person in the box of its colour?")
    if report["samples"]:
        lines.append(f"Next: {training_command(out)}")
    else:
        lines.append("There is nothing to train on. Correct what the report says, and prepare into another folder.")
    return "\n".join(lines)


def training_command(out: Path) -> str:
    """A command line that trains on what was prepared, on the base that it was prepared with."""
    base = str(json.loads((out / "dataset.json").read_text(encoding="utf-8"))["base"].get("name", "sdxl"))
    own = base in ("mini", "tiny")
    config = Path(__file__).parents[1] / "configs" / f"{base if own else 'sdxl'}.yaml"
    with suppress(ValueError):  # somewhere else, where a relative path would lead nowhere
        config = config.relative_to(Path.cwd())
    words = [
        "python -m training train --config",
        str(config),
        f"--data.folders+ '{{path: {out}}}'",
        f"--run runs/{out.name}",
    ]
    return " ".join([*words, *([] if own else [f"--base.path {base}"])])
