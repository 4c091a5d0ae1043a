"""What pictures should show: cases out of a .jsonl, beside a folder of finished pictures, or in MultiID-Bench's folders.

One JSON object a line; paths are relative to the file:

    {"id": "0001", "prompt": "A man@1 on the left and a woman@2 on the right.", "references": ["a.jpg", ["b1.jpg", "b2.jpg"]]}

and, where known: "picture" (the finished one), "seed", "truth" (a real picture of these people), "boxes" (of each person in
the picture to come, x0 y0 x1 y1 px) or "masks" (a grayscale file a person), "clothes" (a few words a person), "topic", and
"people" (an object each with gender, age_group, skin_tone), or "annotation": PairHuman's JSON, for the last three. Boxes,
masks and clothes say who should be where, as words such as left and right in the prompt do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dhumandiff.errors import DHumanDiffError, short_error
from dhumandiff.io import expand_user, read_text

from .. import TrainingError
from ..data.sources import PICTURES

__all__ = ["GROUPS", "Case", "read_bench", "read_cases", "with_pictures"]

GROUPS = ("gender", "age_group", "skin_tone")
"""Of a person; a picture has a topic."""


@dataclass(frozen=True)
class Case:
    """One picture: what it should show, and where it is or what is missing.

    Attributes:
        name: its id.
        sentence: with or without tags such as @1.
        references: the photos of each person.
        picture: the finished one, None where it is still to be drawn.
        truth: a real picture of these people.
        boxes: where each person should be, x0 y0 x1 y1 px.
        masks: where each person should be, a grayscale file each.
        clothes: a few words on each person's.
        seed: to draw it with.
        strength: that it was drawn with, where a run compares several.
        topic: for the tables.
        groups: of each person, by the names of `GROUPS`.
        problem: why it cannot be scored, "" if it can.
    """

    name: str
    sentence: str
    references: tuple[tuple[Path, ...], ...]
    picture: Path | None = None
    truth: Path | None = None
    boxes: tuple[tuple[float, ...], ...] | None = None
    masks: tuple[Path, ...] | None = None
    clothes: tuple[str, ...] | None = None
    seed: int = 0
    strength: float | None = None
    topic: str = ""
    groups: tuple[Mapping[str, str], ...] = field(default=())
    problem: str = ""


def read_cases(path: str | Path) -> list[Case]:
    """The cases of a .jsonl file. What is wrong with a line is wrong with the file; a file that a line names and that is not
    there is that case's `problem`.

    Raises:
        TrainingError: no such file, or a line that is no case; the message names it.
    """
    path = expand_user(path)
    try:
        lines = read_text(path).split("\n")
    except (OSError, DHumanDiffError) as error:
        raise TrainingError(
            f"The cases {path} cannot be read: {short_error(error)}. Give a .jsonl file, one JSON object a line.",
            code="unreadable-cases",
        ) from error
    cases, seen = [], set()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
            if not isinstance(data, dict):
                raise TrainingError(
                    f"it is a {type(data).__name__} where a JSON object {{...}} belongs", code="case-no-object"
                )
            case = _case(data, path.parent, f"{len(cases):04d}")
        except (ValueError, TrainingError) as error:
            code = error.code if isinstance(error, TrainingError) else "bad-case"
            raise TrainingError(f"Line {number} of {path} is no case: {error}.", code=code) from error
        if case.name in seen:
            raise TrainingError(
                f'Line {number} of {path} has the id "{case.name}" of an earlier one. Ids are unique.',
                code="case-id-twice",
            )
        seen.add(case.name)
        cases.append(case)
    if not cases:
        raise TrainingError(f"{path} holds no case. Write one JSON object a line.", code="no-cases")
    return cases


def read_bench(folder: str | Path) -> list[Case]:
    """MultiID-Bench's folders: <id>/out.jpg, ori.jpg, ref_1.jpg to ref_4.jpg, meta.json with "prompt".

    The references are in the order of their numbers. Any ending of a picture will do.

    Raises:
        TrainingError: no such folder, or none of its folders is a case.
    """
    folder = expand_user(folder)
    if not folder.is_dir():
        raise TrainingError(
            f"There is no folder {folder}. Give the one that holds <id>/out.jpg and the rest.", code="no-such-folder"
        )
    cases = [
        _bench_case(each) for each in sorted(folder.iterdir(), key=lambda path: _natural(path.name)) if each.is_dir()
    ]
    cases = [case for case in cases if case is not None]
    if not cases:
        raise TrainingError(
            f"{folder} has no folder with a meta.json or ref_1.jpg in it. MultiID-Bench's layout is <id>/out.jpg, ori.jpg, "
            "ref_1.jpg ..., meta.json.",
            code="no-cases",
        )
    return cases


def with_pictures(cases: Sequence[Case], folder: str | Path) -> tuple[list[Case], list[Path]]:
    """Cases with their finished pictures out of a folder, named <id>.png or <id>_<seed>.png (or .jpg, .webp ...).

    Of several seeds each becomes a case. A case without a picture has that for its `problem`.

    Returns:
        The cases, and pictures in the folder that belong to none.

    Raises:
        TrainingError: no such folder.
    """
    folder = expand_user(folder)
    if not folder.is_dir():
        raise TrainingError(f"There is no folder {folder} with finished pictures.", code="no-such-folder")
    waiting: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir(), key=lambda path: _natural(path.name)):
        if path.suffix.lower() in PICTURES:
            waiting.setdefault(path.stem, []).append(path)
    names = {case.name for case in cases}
    found: dict[str, list[tuple[str, Path]]] = {}
    strange = []
    for stem, paths in waiting.items():
        owner, _, seed = stem.rpartition("_")
        name = stem if stem in names else owner if owner in names and seed.isdecimal() else None
        if name is None:
            strange += paths
        else:
            found.setdefault(name, []).append((stem, paths[0]))
            strange += paths[1:]
    made = []
    for case in cases:
        if case.name not in found:
            made.append(replace(case, picture=None, problem=case.problem or f"no picture {case.name}.png in {folder}"))
        made += [replace(case, name=stem, picture=path) for stem, path in found.get(case.name, [])]
    return made, strange


def _case(data: Mapping[str, Any], folder: Path, number: str) -> Case:
    sentence = data.get("prompt")
    if not isinstance(sentence, str) or not sentence.strip():
        raise TrainingError('"prompt" is missing: the sentence of the picture', code="case-without-prompt")
    if re.search("[\ud800-\udfff]", json.dumps(data, ensure_ascii=False)):
        raise TrainingError("a text in it was cut within a letter; write that text anew", code="case-with-lost-letters")
    name = str(data.get("id", number))
    if not re.fullmatch(r"[^/\\:*?\"<>|\x00-\x1f]+", name) or name.startswith("."):
        raise TrainingError(f'the id "{name}" cannot be the name of a file', code="bad-case-id")
    problems: list[str] = []

    def file(value: Any, what: str) -> Path:
        if not isinstance(value, str) or not value:
            raise TrainingError(f"{what} is {value!r} where the name of a file belongs", code="bad-case-file")
        path = folder / expand_user(value)
        if not path.is_file():
            problems.append(f"{what} is not there: {path}")
        return path

    people = data.get("references")
    if not isinstance(people, list) or not people:
        raise TrainingError(
            '"references" is missing: a list with the photo, or a list of photos, of each person',
            code="case-without-references",
        )
    references = tuple(
        tuple(file(photo, f"a photo of person {k}") for photo in (each if isinstance(each, list) else [each]))
        for k, each in enumerate(people, 1)
    )
    if not all(references):
        raise TrainingError('"references" has a person without a photo', code="case-without-references")

    def each(name: str) -> list[Any] | None:
        value = data.get(name)
        if value is not None and (not isinstance(value, list) or len(value) != len(references)):
            raise TrainingError(
                f'"{name}" needs one entry for each of {len(references)} people', code="case-entries-not-people"
            )
        return value

    annotated = _annotated(file(data["annotation"], "the annotation"), len(references)) if "annotation" in data else {}
    boxes, masks, clothes = each("boxes"), each("masks"), each("clothes") or annotated.get("clothes")
    groups = each("people") or annotated.get("people") or ()
    seed = data.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise TrainingError(f'"seed" is {seed!r}; it is a whole number from 0 on', code="bad-case-seed")
    return Case(
        name=name,
        sentence=sentence,
        references=references,
        picture=file(data["picture"], "the picture") if "picture" in data else None,
        truth=file(data["truth"], "the truth") if "truth" in data else None,
        boxes=tuple(map(_box, boxes)) if boxes else None,
        masks=tuple(file(mask, f"the mask of person {k}") for k, mask in enumerate(masks, 1)) if masks else None,
        clothes=tuple(map(str, clothes)) if clothes else None,
        seed=seed,
        topic=str(data.get("topic") or annotated.get("topic") or ""),
        groups=tuple(_groups(person) for person in groups),
        problem="; ".join(problems),
    )


def _bench_case(folder: Path) -> Case | None:
    files = {path.stem.lower(): path for path in sorted(folder.iterdir()) if path.suffix.lower() in PICTURES}
    meta = folder / "meta.json"
    numbers = sorted(int(stem[4:]) for stem in files if re.fullmatch(r"ref_\d+", stem))
    if not meta.is_file() and not numbers:
        return None
    problems, sentence = [], ""
    try:
        metadata = json.loads(read_text(meta))
        sentence = next(
            (metadata[key] for key in ("prompt", "caption_en", "caption") if isinstance(metadata.get(key), str)), ""
        )
        if not sentence:
            problems.append(f"{meta} has no prompt")
    except (OSError, ValueError, AttributeError) as error:
        problems.append(f"{meta} cannot be read ({error})")
    if not numbers:
        problems.append("no reference: ref_1.jpg is missing")
    elif numbers != list(range(1, len(numbers) + 1)):
        problems.append(f"the references are numbered {', '.join(map(str, numbers))}")
    if "out" not in files:
        problems.append("no picture: out.jpg is missing")
    return Case(
        name=folder.name,
        sentence=sentence,
        references=tuple((files[f"ref_{number}"],) for number in numbers),
        picture=files.get("out"),
        truth=files.get("ori"),
        problem="; ".join(problems),
    )


def _annotated(path: Path, persons: int) -> dict[str, Any]:
    """Topic, and clothes and groups of each person, out of PairHuman's annotation; people by their object_id."""
    if not path.is_file():
        return {}  # told already
    try:
        data = json.loads(read_text(path))
        people = sorted(data["people"], key=lambda person: _natural(str(person.get("object_id", ""))))
        topic = (data.get("Information") or {}).get("Image category", "")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(
            f"the annotation {path} cannot be read ({error!r})", code="unreadable-annotation"
        ) from error
    if len(people) != persons:
        raise TrainingError(
            f"the annotation {path} has {len(people)} people for {persons} references",
            code="annotation-of-other-people",
        )
    clothes = [str(person.get("details_of_clothes_and_shoes") or "") for person in people]
    return {"topic": topic, "people": people, "clothes": clothes if all(clothes) else None}


def _groups(person: Any) -> dict[str, str]:
    if not isinstance(person, Mapping):
        raise TrainingError(
            f'"people" holds {person!r} where an object with {", ".join(GROUPS)} belongs', code="bad-case-people"
        )
    return {name: str(person[name]).strip().lower() for name in GROUPS if str(person.get(name) or "").strip()}


def _box(values: Any) -> tuple[float, ...]:
    try:
        x0, y0, x1, y1 = map(float, values)
    except (TypeError, ValueError):
        x0 = x1 = 0.0
        y0 = y1 = 0.0
    if not (x1 > x0 and y1 > y0):
        raise TrainingError(f"the box {values!r} is not x0 y0 x1 y1 with x0 < x1 and y0 < y1", code="bad-case-box")
    return x0, y0, x1, y1


def _natural(name: str) -> tuple[tuple[int, str], ...]:
    """For sorting: "9" before "10"."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in _parts(name))


def _parts(name: str) -> Iterator[str]:
    return (part for part in re.split(r"(\d+)", name) if part)
