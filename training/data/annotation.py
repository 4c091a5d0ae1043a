"""PairHuman's annotation of one picture, read as tolerantly as can be (docs/method.md#pairhumans-annotation).

The real files could not be seen when this was written: field names are the published ones, and what they leave open is
tried in turn. Nothing that is odd is lost without a word; `Annotation.notes` says what was made of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dhumandiff.errors import PromptError
from dhumandiff.io import printable
from dhumandiff.prompts import parse_prompt
from dhumandiff.prompts.typed import AT, without_hidden

from .. import TrainingError

__all__ = ["Annotation", "Box", "CaptionWord", "Person", "read_annotation"]

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in px."""

_PRONOUNS = frozenset(re.findall(r"\w+", "he him his she her hers it its they them their who one other both"))
_LEAST_INSIDE = 0.25  # of a box's area that has to lie in the picture for the box to mean anything


@dataclass(frozen=True)
class Person:
    """One of the annotated people; "" and None stand for what is not known.

    Attributes:
        object_id: of the annotation.
        gender: "male", "female" or "".
        age_group: in words.
        box: of the whole person, px of the picture.
        face_box: px of the picture.
        keypoints: (x, y, confidence), px of the picture; taken for COCO's when there are 17.
        identity: a name for who it is.
    """

    object_id: str
    gender: str = ""
    age_group: str = ""
    box: Box | None = None
    face_box: Box | None = None
    keypoints: tuple[tuple[float, float, float], ...] = ()
    identity: str = ""


@dataclass(frozen=True)
class CaptionWord:
    """A word of the caption that names a person: `caption[start:end] == word`.

    Attributes:
        start, end: positions in the caption.
        word: itself.
        person: an index into `Annotation.people` if the annotation says it outright.
        sentence: counts in `match_info`.
    """

    start: int
    end: int
    word: str
    person: int | None
    sentence: int


@dataclass(frozen=True)
class Annotation:
    """What is known of one picture; `people` in the order of their object_id."""

    caption: str = ""
    people: tuple[Person, ...] = ()
    words: tuple[CaptionWord, ...] = ()
    category: str = ""
    notes: tuple[str, ...] = ()


def read_annotation(data: Any, size: tuple[int, int]) -> Annotation:
    """Read one picture's JSON.

    Args:
        data: the parsed JSON.
        size: (width, height) px of the picture. Boxes are scaled when the annotation was made at another size, or holds
            shares of the picture; and clipped to it.

    Raises:
        TrainingError: it is no annotation at all.
    """
    if not isinstance(data, Mapping):
        raise TrainingError(
            f"the annotation is a {type(data).__name__} where a JSON object {{...}} belongs",
            code="annotation-no-object",
        )
    notes: list[str] = []
    information = _mapping(_field(data, "information"))
    scale = _scale(information, size, notes)
    people = _people(_field(data, "people"), scale, size, notes)
    caption, words = _caption(_field(data, "image_caption", "caption"), people, notes)
    category = _text(_field(information, "image_category"))
    return Annotation(caption, tuple(people), tuple(words), category, tuple(notes))


def _people(entries: Any, scale: tuple[float, float], size: tuple[int, int], notes: list[str]) -> list[Person]:
    found = []
    for number, entry in enumerate(_list(entries)):
        if not isinstance(entry, Mapping):
            notes.append(f"people[{number}] is no object and is left out")
            continue
        name = _text(_field(entry, "object_id", "id")) or str(number)
        box = _box(_field(entry, "unique_coordinate", "bbox", "box"), scale, size, f"the box of person {name}", notes)
        face = _box(
            _field(entry, "face_box", "face_bbox", "face_coordinate"), scale, size, f"the face box of {name}", notes
        )
        found.append(
            Person(
                name,
                _gender(_text(_field(entry, "gender"))),
                printable(_text(_field(entry, "age_group", "age"))).lower(),
                box,
                face,
                _keypoints(_field(entry, "keypoints"), scale, size),
                printable(_text(_field(entry, "identity", "identity_id"))),
            )
        )
    numbers = [re.findall(r"\d+", person.object_id) for person in found]
    if all(numbers):  # "2" before "10"; names without a number stay as they come
        found = [person for _, person in sorted(zip(numbers, found, strict=True), key=lambda item: int(item[0][-1]))]
    return found


def _caption(entry: Any, people: Sequence[Person], notes: list[str]) -> tuple[str, list[CaptionWord]]:
    """The caption and the words of `match_info`, located in it."""
    if isinstance(entry, str):
        return _text(entry), []
    entry = _mapping(entry)
    sentences = [_mapping(one) for one in _list(_field(entry, "match_info"))]
    caption = _text(_field(entry, "text", "caption"))
    if not caption:
        caption = " ".join(filter(None, (_text(_field(one, "sentence")) for one in sentences)))
    words: list[CaptionWord] = []
    floor = 0
    for number, one in enumerate(sentences):
        sentence = _text(_field(one, "sentence"))
        start = caption.find(sentence, floor) if sentence else floor
        if start < 0:
            start = caption.find(sentence)
        if start < 0:  # reworded or other blanks: the whole caption has to do
            notes.append(f"sentence {number + 1} of match_info does not stand in the caption like that")
            start, sentence = 0, caption
        else:
            sentence = sentence or caption[start:]
            floor = start + len(sentence)
        for group in _list(_field(one, "person_info")):
            where = (start, start + len(sentence))
            named = _words(_mapping(group), caption, where, number, people, words, notes)
            if named is not None:
                words.append(named)
    return caption, words


def _words(
    group: Mapping,
    caption: str,
    sentence: tuple[int, int],
    number: int,
    people: Sequence[Person],
    taken: Sequence[CaptionWord],
    notes: list[str],
) -> CaptionWord | None:
    """One entry of `person_info`, located; None, with a note, if it names nobody that can be found."""
    phrase = _field(group, "words", "word")
    phrase = _text(" ".join(map(str, phrase)) if isinstance(phrase, list) else phrase)
    start, end = _index(_field(group, "start_idx", "start")), _index(_field(group, "end_idx", "end"))
    span = _span(phrase, start, end, caption, sentence, taken)
    if span is None:
        what = repr(phrase) if phrase else "an entry without words"
        notes.append(f"match_info names {what} at {start}..{end}, which does not occur in the caption; it is left out")
        return None
    head = _head(caption[span[0] : span[1]])
    if head is None:
        return None
    first, last = span[0] + head[0], span[0] + head[1]
    owner = _text(_field(group, "object_id", "person_id", "id"))
    person = next((i for i, one in enumerate(people) if owner and one.object_id == owner), None)
    return CaptionWord(first, last, caption[first:last], person, number)


def _span(
    phrase: str,
    start: int | None,
    end: int | None,
    caption: str,
    sentence: tuple[int, int],
    taken: Sequence[CaptionWord],
) -> tuple[int, int] | None:
    """Where a phrase stands. Its indices may count characters or words, of the sentence or of the caption, with or
    without the last one; whichever reading gives the phrase is taken. Else the words are searched for."""
    places = (sentence, (0, len(caption)))
    if start is not None and end is not None:
        readings = [(low + start, low + end + extra) for low, _ in places for extra in (0, 1)]
        for low, high in places:
            blanks = [(low + match.start(), low + match.end()) for match in re.finditer(r"\S+", caption[low:high])]
            readings += [
                (blanks[start][0], blanks[end + extra - 1][1])
                for extra in (0, 1)
                if 0 <= start < end + extra <= len(blanks)
            ]
        for first, last in readings:
            if phrase and 0 <= first < last <= len(caption) and _plain(caption[first:last]) == _plain(phrase):
                return first, last
        if not phrase and 0 <= start < end <= sentence[1] - sentence[0]:
            return sentence[0] + start, sentence[0] + end
    if not phrase:
        return None
    used = {one.start for one in taken}
    pattern = re.compile(rf"(?<!\w){re.escape(phrase)}(?!\w)" if phrase.isascii() else re.escape(phrase), re.IGNORECASE)
    for low, high in places:
        spans = [(match.start(), match.end()) for match in pattern.finditer(caption, low, high)]
        free = [span for span in spans if not any(span[0] <= at < span[1] for at in used)] or spans
        if free:
            return min(free, key=lambda span: abs(span[0] - low - start)) if start is not None else free[0]
    return None


def _head(phrase: str) -> tuple[int, int] | None:
    """The noun of a phrase that names one person, as the prompt rules read it; None for pronouns and groups."""
    try:
        prompt = parse_prompt(re.sub(f"[{AT}]", " ", phrase), persons=1)
    except PromptError:  # "the couple", "both"
        return None
    if prompt.mentions:
        return prompt.mentions[0].start, prompt.mentions[0].end
    last = re.search(r"[^\W_](?:[\w'’\-]*[^\W_])?(?=[\W_]*$)", phrase)  # a noun not on the list, or another script
    if last is None or last[0].lower() in _PRONOUNS:
        return None
    return last.start(), last.end()


def _scale(information: Mapping, size: tuple[int, int], notes: list[str]) -> tuple[float, float]:
    """From the annotation's pixels to the picture's."""
    width, height = _number(_field(information, "width")), _number(_field(information, "height"))
    if not width or not height or width <= 0 or height <= 0 or (width, height) == size:
        return 1.0, 1.0
    across, down = size[0] / width, size[1] / height
    notes.append(f"annotated at {width:g} x {height:g} px, the picture has {size[0]} x {size[1]}: boxes were scaled")
    return across, down


def _box(values: Any, scale: tuple[float, float], size: tuple[int, int], what: str, notes: list[str]) -> Box | None:
    numbers = [_number(value) for value in _list(values)]
    if not numbers:
        return None
    if len(numbers) != 4 or None in numbers:
        notes.append(f"{what} is not four numbers and is left out")
        return None
    if max(map(abs, numbers)) <= 1.0:  # shares of the picture
        scale = (float(size[0]), float(size[1]))
    x0, y0, x1, y1 = (number * scale[i % 2] for i, number in enumerate(numbers))
    area = (x1 - x0) * (y1 - y0)
    clipped = (max(x0, 0.0), max(y0, 0.0), min(x1, float(size[0])), min(y1, float(size[1])))
    inside = max(clipped[2] - clipped[0], 0.0) * max(clipped[3] - clipped[1], 0.0)
    if x1 <= x0 or y1 <= y0 or inside < _LEAST_INSIDE * area:
        notes.append(f"{what} lies outside the picture or has no area, and is left out")
        return None
    if area - inside > 0.01 * area:
        notes.append(f"{what} reaches beyond the picture and was clipped")
    return clipped


def _keypoints(
    values: Any, scale: tuple[float, float], size: tuple[int, int]
) -> tuple[tuple[float, float, float], ...]:
    rows = [[_number(value) for value in _list(row)] for row in _list(values)]
    if not rows or any(len(row) < 2 or None in row for row in rows):
        return ()
    if max(abs(value) for row in rows for value in row[:2]) <= 1.0:
        scale = (float(size[0]), float(size[1]))
    return tuple((row[0] * scale[0], row[1] * scale[1], row[2] if len(row) > 2 else 1.0) for row in rows)


def _gender(text: str) -> str:
    text = text.lower()
    if text in ("female", "f", "woman", "girl", "lady"):
        return "female"
    return "male" if text in ("male", "m", "man", "boy", "gentleman") else ""


def _field(mapping: Mapping, *names: str) -> Any:
    """The first of the fields that is there, whatever its capitals and blanks ("Image category")."""
    plain = {str(key).strip().lower().replace(" ", "_"): value for key, value in mapping.items()}
    return next((plain[name] for name in names if plain.get(name) is not None), None)


def _mapping(value: Any) -> Mapping:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple)) else []


def _text(value: Any) -> str:
    return without_hidden(str(value)).strip() if isinstance(value, (str, int)) and not isinstance(value, bool) else ""


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if abs(number) < 1e9 else None  # NaN and infinity too


def _index(value: Any) -> int | None:
    number = _number(value)
    return int(number) if number is not None and number == int(number) else None


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))
