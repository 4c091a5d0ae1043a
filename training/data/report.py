"""What prepare tells: report.json and report.md, histograms in report.png, contact_sheet.png to look at."""

from __future__ import annotations

import io
import json
import shlex
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from .. import TrainingError
from ..wording import counted, note_lines
from .encode import EncodedSample
from .extract import ExtractedSample
from .people import People, face_facts
from .settings import PrepareSettings
from .shards import read_plan, to_json, write_file
from .sheets import contact_sheet, people_sheet

__all__ = ["REASONS", "sample_facts", "write_report"]

_LISTED = 50  # names that report.md has of each kind

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


def sample_facts(sample: EncodedSample, extracted: ExtractedSample) -> dict[str, Any]:
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
                "identity": person["identity"],
                "paired": sum(one["origin"] == "paired" and not one["augmented"] for one in person["references"]),
            }
            for person in metadata["persons"]
        ],
        "notes": list(extracted.notes),
        "captioned": extracted.captioned,
        **face_facts([person[0] for person in extracted.identity], extracted.looks),
    }


def write_report(
    out: Path, entries: Sequence[dict[str, Any]], people: People, held: Sequence[int], settings: PrepareSettings
) -> str:
    """Write all of it.

    Args:
        out: the folder.
        entries: the journal's, of all shards.
        people: who is on which pictures.
        held: numbers of the samples that are held out.
        settings: of this command.

    Returns:
        The words for the person at the terminal.
    """
    plan = read_plan(out)
    every = [fact for entry in entries for fact in entry["facts"]]
    skipped = [one for entry in entries for one in entry["set_aside"]]
    persons = [person for fact in every for person in fact["people"]]
    names = [fact["picture"] for fact in every]
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
        "people_with_paired_photos": sum(person["paired"] > 0 for person in persons),
        "histograms": _histograms(persons),
        "without_caption": [fact["picture"] for fact in every if not fact.get("captioned", True)],
        "near_duplicates": [[names[one], names[other]] for one, other in people.duplicates],
        "people_on_several_pictures": {
            name: [names[sample] for sample, _ in places] for name, places in sorted(people.proposed.items())
        },
        "held_out": [names[number] for number in held],
        "notes": plan["notes"],
        "set_aside_pictures": skipped,
        "noted_pictures": [
            {"key": fact["key"], "picture": fact["picture"], "notes": fact["notes"]} for fact in every if fact["notes"]
        ],
    }
    write_file(out / "report.json", to_json(report))
    write_file(out / "report.md", _markdown(report))
    _plot(report["histograms"], out / "report.png")
    sheets = contact_sheet(out, entries), people_sheet(out, entries, people)
    return _ending(out, report, sum(entry["bytes"] for entry in entries), sheets, settings)


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
        f"{counted(report['pictures'], 'picture')}: {counted(report['samples'], 'sample')}, {len(report['set_aside_pictures'])} set aside.",
        "",
        *note_lines(report["notes"], "- note: ", "report.json has all"),
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
        f"{counted(report['people_with_paired_photos'], 'person has', 'people have')} a photo beside the picture (paired references).",
        "",
        f"Without a caption of its own: {counted(len(report['without_caption']), 'picture')}, which got one such as 'A man and a woman'.",
        *_listed(report["without_caption"]),
        "",
        *_alike(report),
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


def _alike(report: dict[str, Any]) -> list[str]:
    """What looks alike, and what is held out."""
    lines = ["## The same people, the same pictures", ""]
    several = report["people_on_several_pictures"]
    if several:
        lines += [
            f"{counted(len(several), 'person seems', 'people seem')} to be on several pictures, by their faces: in people.csv, and in people.png to look "
            "at. Correct it, and prepare into another folder with `--identities people.csv`: their photos become paired references.",
            "",
            *_listed([f"{name}: {', '.join(names[:8])}" for name, names in several.items()]),
            "",
        ]
    if report["near_duplicates"]:
        lines += [
            f"Copies, or nearly: {counted(len(report['near_duplicates']), 'pair')} of pictures. All of them are used.",
            "",
            *_listed([" and ".join(pair) for pair in report["near_duplicates"]]),
            "",
        ]
    if report["held_out"]:
        lines += [
            f"{len(report['held_out'])} samples are held out for validation:",
            "",
            *_listed(report["held_out"]),
            "",
        ]
    return lines if len(lines) > 2 else []


def _listed(names: Sequence[str]) -> list[str]:
    more = [f"- and {len(names) - _LISTED} more, all in report.json"] if len(names) > _LISTED else []
    return [*(f"- {name}" for name in names[:_LISTED]), *more]


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


def _ending(out: Path, report: dict[str, Any], size: int, sheets: tuple[int, bool], settings: PrepareSettings) -> str:
    reasons = ", ".join(
        f"{count} {reason} ({REASONS.get(reason, '')})" for reason, count in report["set_aside"].items()
    )
    lines = [
        f"{out}: {counted(report['samples'], 'sample')} from {counted(report['pictures'], 'picture')}, {size / 1e6:.1f} MB of shards.",
        f"Set aside: {reasons or 'none'}. The reasons for each picture are in {out / 'report.md'}.",
    ]
    if report["without_caption"]:
        lines.append(
            f"Without a caption: {len(report['without_caption'])} of the {report['samples']}. They got one such as 'A man and a woman', "
            "which teaches little; write some, or have some written (`python -m training caption --help`)."
        )
    if report["near_duplicates"]:
        lines.append(
            f"Near duplicates: {counted(len(report['near_duplicates']), 'pair')} of pictures, named in report.md."
        )
    if report["people_on_several_pictures"]:
        lines.append(
            f"The same people: {len(report['people_on_several_pictures'])} seem to be on several pictures and have no identity. "
            f"{'Look at people.png; ' if sheets[1] else ''}--identities {out / 'people.csv'} would make photos of each other of them."
        )
    if settings.validation or report["held_out"]:
        lines.append(
            f"Held out for validation: {len(report['held_out'])} of the {report['samples']} samples. Nobody on them is trained on."
            if report["held_out"]
            else "Held out for validation: nothing, because all pictures show people who are on the others, too. Bring other people."
        )
    if sheets[0]:
        shown = f" ({sheets[0]} of the {report['samples']})" if sheets[0] < report["samples"] else ""
        lines.append(
            f"Look at {out / 'contact_sheet.png'}{shown}: is each colored word the person in the box of its color?"
        )
    if report["samples"]:
        lines.append(f"Next: {training_command(out, settings.base, bool(report['held_out']))}")
    else:
        lines.append("There is nothing to train on. Correct what the report says, and prepare into another folder.")
    return "\n".join(lines)


def training_command(out: Path, path: str = "", held_out: bool = False) -> str:
    """A command line that trains on what was prepared, on the base that it was prepared with.

    Args:
        out: the folder.
        path: of the base, as this command was told; taken where it is the one that the folder names.
        held_out: whether there are samples for a validation.
    """
    base = str(json.loads((out / "dataset.json").read_text(encoding="utf-8"))["base"].get("name", "sdxl"))
    own = base in ("mini", "tiny")
    config = Path(__file__).parents[1] / "configs" / f"{base if own else 'sdxl'}.yaml"
    with suppress(ValueError):  # somewhere else, where a relative path would lead nowhere
        config = config.relative_to(Path.cwd())
    folder = shlex.quote(f"{{path: {out}}}")
    words = ["python -m training train --config", shlex.quote(str(config)), f"--data.folders+ {folder}"]
    words += [f"--data.validation+ {folder}"] if held_out else []
    words += [f"--run {shlex.quote(f'runs/{out.name}')}"]
    return " ".join(
        [*words, *([] if own else [f"--base.path {shlex.quote(path if Path(path).name == base else base)}"])]
    )
