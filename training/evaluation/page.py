"""One HTML page with every picture, its faces boxed, named and scored; it sorts, and works from disk without a network.

Pictures are linked where they lie, so the page weighs little however many there are; the browser loads them as they are
scrolled to. It moves together with the folder of the pictures.
"""

from __future__ import annotations

import html
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from dhumandiff.layout.person_style import PERSON_DASHES, person_color

from .tables import measures_of, value_of

__all__ = ["page"]

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>$title</title><style>
:root { color-scheme: light dark; font: 14px/1.4 system-ui, sans-serif }
body { margin: 0; padding: 1rem }
header { position: sticky; top: 0; padding: .6rem 0; background: Canvas; z-index: 1; display: flex; gap: 1rem; flex-wrap: wrap }
main { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(22rem, 1fr)) }
figure { margin: 0; border: 1px solid #8886; border-radius: 6px; overflow: hidden }
figure.wrong { border-color: #e03131; box-shadow: 0 0 0 1px #e03131 }
.made { position: relative }
.made > img { width: 100%; display: block }
svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible }
rect { fill: none; stroke-width: 2; vector-effect: non-scaling-stroke }
figcaption { padding: .5rem .7rem }
.who { display: flex; gap: .5rem; align-items: center; margin: .3rem 0 }
.who img { width: 3.2rem; height: 3.2rem; object-fit: cover; border-radius: 4px; border: 2px solid }
.name { font-weight: 600 } .bad { color: #e03131; font-weight: 600 } .quiet { opacity: .7 }
p { margin: .3rem 0 } dl { display: flex; flex-wrap: wrap; gap: .1rem .9rem; margin: .3rem 0 } dl div { white-space: nowrap }
dt, dd { display: inline; margin: 0 } dt { opacity: .7 } table { border-collapse: collapse } td, th { padding: .1rem .6rem; text-align: left }
</style></head><body>
<h1>$title</h1>
<details><summary>Figures</summary><pre>$table</pre></details>
<header><label>Sort by <select id="by">$options</select></label>
<label>Order <select id="order"><option value="1">worst first</option><option value="-1">best first</option></select></label>
<label>Show <select id="show"><option value="">all</option><option value="wrong">wrong person</option>
<option value="absent">too few or too many faces</option><option value="undecided">not decidable</option></select></label>
<span id="count"></span></header>
<main>$figures</main>
<script>
const better = $better;
const main = document.querySelector("main"), all = [...main.children];
const by = document.getElementById("by"), order = document.getElementById("order"), show = document.getElementById("show");
function arrange() {
  const sign = Number(order.value) * (better[by.value] || 1);
  const key = figure => figure.dataset[by.value] === undefined ? NaN : Number(figure.dataset[by.value]);
  const rank = by.value === "number" ? (a, b) => Number(a.dataset.number) - Number(b.dataset.number)
    : (a, b) => (isNaN(key(a)) - isNaN(key(b))) || sign * (key(a) - key(b)) || Number(a.dataset.number) - Number(b.dataset.number);
  const shown = all.filter(figure => !show.value || figure.classList.contains(show.value));
  main.replaceChildren(...shown.sort(rank));
  document.getElementById("count").textContent = shown.length + " of " + all.length;
}
for (const choice of [by, order, show]) choice.addEventListener("change", arrange);
arrange();
</script></body></html>
""")


def page(records: Sequence[Mapping[str, Any]], folder: Path, title: str, table: str) -> str:
    """The page as text.

    Args:
        records: those of `measure_all`; what was set aside is shown with its problem.
        folder: that it is written to, for the links.
        title: at its top. table: the figures in Markdown, shown as they are.
    """
    measures = measures_of(records)
    options = ['<option value="number">number</option>']
    options += [
        f'<option value="{_key(name)}">{html.escape(measure.title)}</option>' for name, measure in measures.items()
    ]
    return _PAGE.substitute(
        title=html.escape(title),
        table=html.escape(table),
        options="".join(options),
        better=json.dumps({_key(name): measure.better or 1 for name, measure in measures.items()}),
        figures="\n".join(_figure(number, record, measures, folder) for number, record in enumerate(records)),
    )


def _figure(number: int, record: Mapping[str, Any], measures: Mapping[str, Any], folder: Path) -> str:
    name, sentence = html.escape(record["id"]), html.escape(record["prompt"])
    if "problem" in record:
        text = f'<p class="name">{name}</p><p class="bad">{html.escape(record["problem"])}</p><p>{sentence}</p>'
        return f'<figure data-number="{number}" class="absent"><figcaption>{text}</figcaption></figure>'
    values = {key: value_of(record, key) for key in measures}
    data = "".join(f' data-{_key(key)}="{value:.6g}"' for key, value in values.items() if value is not None)
    persons, width, height = record["persons"], *record["size"]
    owner = {person["face"]: k for k, person in enumerate(persons) if person["face"] is not None}
    boxes = "".join(
        _box(box, owner.get(face), alike, bool(record["said_by"]), height)
        for face, (box, alike) in enumerate(zip(record["boxes"], record["likeness"], strict=True))
    )
    kinds = {
        "wrong": any(person["right"] is False for person in persons),
        "absent": record["found"] != record["asked"],
        "undecided": record["asked"] > 1 and values.get("right") is None,
    }
    whole = {measure.title: values[key] for key, measure in measures.items() if measure.of == "picture"}
    figures = "".join(
        f"<div><dt>{html.escape(title)}</dt> <dd>{value:.3g}</dd></div>"
        for title, value in whole.items()
        if value is not None
    )
    people = "".join(_person(k, person, record["references"][k], measures, folder) for k, person in enumerate(persons))
    said = f"decided by {record['said_by']}" if record["said_by"] else "nothing says who should be where"
    return (
        f'<figure data-number="{number}"{data} class="{" ".join(kind for kind, holds in kinds.items() if holds)}">'
        f'<div class="made"><img loading="lazy" src="{_link(record["picture"], folder)}" alt="{name}">'
        f'<svg viewBox="0 0 {width} {height}" preserveAspectRatio="none">{boxes}</svg></div>'
        f'<figcaption><p class="name">{name}</p><p>{sentence}</p>{people}<dl>{figures}</dl>'
        f'<p class="quiet">{record["found"]} faces for {record["asked"]} people; {said}</p></figcaption></figure>'
    )


def _box(box: Sequence[float], owner: int | None, alike: Sequence[float], said: bool, height: float) -> str:
    """A face with its own similarity to each person, in the color of whom it is most like; gray when it is one too many."""
    x0, y0, x1, y1 = box
    person = None if owner is None else max(range(len(alike)), key=alike.__getitem__)
    color = "#888" if person is None else person_color(person)
    text = " ".join(f"{k}: {value:.2f}" for k, value in enumerate(alike, 1))
    if said and person != owner and owner is not None:
        text += f" should be {owner + 1}"
    dash = None if person is None else PERSON_DASHES[person % len(PERSON_DASHES)]
    dashes = f' stroke-dasharray="{2 * dash[0]:g} {2 * dash[1]:g}"' if dash else ""  # the line is 2 px wide
    size = height / 18
    y = y0 - size / 4 if y0 > 1.5 * size else y0 + size  # inside of the box where the picture ends above it
    return (
        f'<rect x="{x0}" y="{y0}" width="{x1 - x0:.1f}" height="{y1 - y0:.1f}" stroke="{color}"{dashes}/>'
        f'<text x="{x0}" y="{y:.1f}" font-size="{size:.1f}" fill="{color}" stroke="white" '
        f'stroke-width="{size / 6:.2f}" paint-order="stroke">{text}</text>'
    )


def _person(k: int, person: Mapping[str, Any], photos: Sequence[str], measures: Mapping[str, Any], folder: Path) -> str:
    color = person_color(k)
    verdicts = {
        True: "right",
        False: '<span class="bad">wrong</span>',
        None: '<span class="quiet">not decidable</span>',
    }
    figures = "".join(
        f"<div><dt>{html.escape(measure.title)}</dt> <dd>{person[name]:.3g}</dd></div>"
        for name, measure in measures.items()
        if measure.of == "person" and name != "right" and person.get(name) is not None
    )
    photo = f'<img loading="lazy" src="{_link(photos[0], folder)}" alt="" style="border-color:{color}">'
    return f'<div class="who">{photo}<div>person {k + 1}: {verdicts[person["right"]]}<dl>{figures}</dl></div></div>'


def _key(name: str) -> str:
    """A name for data-..., of letters only: the browser turns hyphens into capitals."""
    return "m" + "".join(letter for letter in name.lower() if letter.isalnum())


def _link(path: str, folder: Path) -> str:
    try:
        near = os.path.relpath(Path(path).absolute(), folder.absolute())
    except ValueError:  # another drive
        return Path(path).absolute().as_uri()
    return html.escape(quote(Path(near).as_posix()))
