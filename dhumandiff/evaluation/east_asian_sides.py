"""Sides in Chinese, Japanese and Korean sentences whose people are tagged: 左边的男人@1, 男性@1は左側に, 왼쪽의 남자@1.

Only phrases that can mean nothing else are read, and a sentence counts only when every side in it was read: "to the left of",
"looks left", "a lamp on the left" are no such phrases, and leave the whole sentence unread.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence

from ..prompts import Mention

__all__ = ["read_east_asian_sides"]

_SIGN = re.compile(r"[左右](?![脚腿臂眼耳肩]|手(?![边邊侧側]))|왼쪽|오른쪽")  # not somebody's left hand
_NAMES = {"左": "left", "왼쪽": "left", "右": "right", "오른쪽": "right"}
_PART = re.compile(r"[,:;.!?\n]")  # parts clauses; full-width signs have become plain ones
_FRAME = r"(?:[在于於]?(?:画面|畫面|图片|圖片|照片|图|圖|写真|画像|화면|사진)[中里裡内內的の의]*\s*)?"
_SIDE = r"最?(左|右|왼쪽|오른쪽)(?:半?[边邊侧側方辺])?"

# From the beginning of the clause, or the person before, to the tagged word's end: "and the tall one on the left".
_BEFORE = re.compile(
    rf"(?:\s|和|与|與|跟|及|以及|还有|還有|而|と|그리고|와|과)*{_FRAME}{_SIDE}"
    r"(?:的|是|为|為|站[着著]的?|坐[着著]的?|には?|にいる|に立つ|に座る|の|에는?|에\s?있는|에\s?선|에\s?앉은|의)?"
    r"([^左右왼오]{0,16})"
)
# What could make it the side of something else, or of a look: and, has, in, looks, faces, beside, behind, holds ...
_ELSE = re.compile(r"[和与與跟及と와과有在看望朝向对對面旁后後前上下靠离離拿を見隣横보향옆뒤앞들]")
# From the tagged word's end to that of the clause, or to the person behind: "stands on the left".
_AFTER = re.compile(
    rf"\s*(?:正?(?:站|坐|立)|位|处|處)?[在于於]{_FRAME}{_SIDE}"
    rf"|\s*[はが]{_FRAME}{_SIDE}(?:に(?:い|いる|います|立つ|立っている|立っています|座る|座っている|座っています)?|です)?"
    rf"|\s*(?:는|은|이|가)\s*{_FRAME}{_SIDE}에(?:\s?(?:있다|있고|서\s?있다|서\s?있고|앉아\s?있다|앉아\s?있고))?"
)
_ACROSS = re.compile(
    r"[从從由](?P<first>[左右])(?:边|邊|侧|側)?(?:到|至|往|向)[左右](?:边|邊|侧|側)?|(?P<from>[左右])から[左右]"
    r"|(?P<side>왼쪽|오른쪽)에서\s?(?:왼쪽|오른쪽)(?:으로)?"
)


def read_east_asian_sides(text: str, mentions: Sequence[Mention], said: list[set[str]]) -> bool:
    """Add to `said` on which sides people are; whether every side that the text names was read.

    Args:
        text: with full-width signs as plain ones.
        mentions: in the order of the text.
        said: for each person, "left" and "right".
    """
    signs = {one.start() for one in _SIGN.finditer(text)}
    if not signs:
        return True
    order = [mention.person for mention in mentions]
    for found in _ACROSS.finditer(text):
        if len(order) != 2 or len(said) != 2 or found.start() > mentions[0].end:
            return False
        first = _NAMES[found["first"] or found["from"] or found["side"]]
        for person, side in zip(order, (first, "right" if first == "left" else "left"), strict=True):
            said[person - 1].add(side)
        signs -= set(range(*found.span()))
    read = _phrases(text, mentions)
    for number, (side, place, behind) in read.items():
        # "A and B on the right" may be both of them; so may "on the left A and B".
        other = number - 1 if behind else number + 1
        if 0 <= other < len(mentions) and other not in read and _in_one_clause(text, mentions, number, other):
            return False
        said[mentions[number].person - 1].add(side)
        signs.discard(place)
    return not signs


def _phrases(text: str, mentions: Sequence[Mention]) -> dict[int, tuple[str, int, bool]]:
    """By the number of a mention: its side, where that stands, and whether behind it."""
    read: dict[int, tuple[str, int, bool]] = {}
    parts = [one.start() for one in _PART.finditer(text)]
    for number, mention in enumerate(mentions):
        clause = bisect_left(parts, mention.end)  # of the sign that ends it
        start = max(mentions[number - 1].end if number else 0, parts[clause - 1] + 1 if clause else 0)
        follower = mentions[number + 1].start if number + 1 < len(mentions) else len(text)
        end = min(follower, parts[clause] if clause < len(parts) else len(text))
        before = _BEFORE.fullmatch(text, start, mention.end)
        after = _AFTER.fullmatch(text, mention.end, mention.end + len(text[mention.end : end].rstrip()))
        if before is not None and not _ELSE.search(before[2]):
            read[number] = (_NAMES[before[1]], before.start(1), False)
        if after is not None:
            place = next(group for group in (1, 2, 3) if after[group])
            if number in read and read[number][0] != _NAMES[after[place]]:
                return {}  # two sides at once
            read[number] = (_NAMES[after[place]], after.start(place), True)
    return read


def _in_one_clause(text: str, mentions: Sequence[Mention], one: int, other: int) -> bool:
    first, last = sorted((one, other))
    return _PART.search(text, mentions[first].end, mentions[last].end) is None
