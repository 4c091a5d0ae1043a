"""What sentences say of sides and clothes, as people's keyboards write it."""

import re
import time

import pytest

from dhumandiff.evaluation.sentence_cues import garment_color, garment_colors_of, mentions_sides, parts_of, sides_of
from dhumandiff.prompts import parse_prompt


@pytest.mark.parametrize(
    ("typed", "sides"),
    [
        ("a man＠1 on the right，a woman＠2 on the left", ("right", "left")),
        ("On the right，a man；on the left，a woman。", ("right", "left")),
        ("a man@1 on the right。a woman@2 on the left", ("right", "left")),
        ("a man@1（left） and a woman@2（right）", ("left", "right")),
        ("a man@1 on　the　ｒｉｇｈｔ and a woman@2", ("right", "left")),
    ],
)
def test_full_width_signs_part_what_is_said_of_sides(typed, sides):
    assert sides_of(parse_prompt(typed, mentions="all"), 2) == sides
    assert mentions_sides(typed)


@pytest.mark.parametrize(
    "typed",
    [
        "左边的男人@1和右边的女人@2",
        "左边是男人@1，右边是女人@2。",
        "左邊的男人＠1與右邊的女人＠2",
        "男人@1在左边，女人@2在右边",
        "女人@2在右边，男人@1站在画面的左侧",
        "男人@1坐在左侧，女人@2笑。",
        "一对情侣。在画面左边的男人@1，女人@2",
        "左边的男人@1，右边的女人@2左手拿着花",
        "从左到右：男人@1和女人@2",
        "从右到左是女人@2和男人@1",
        "左側の男性@1と右側の女性@2",
        "左に男性@1、右に女性@2",
        "男性@1は左側に、女性@2は右側に立っています。",
        "写真の左にいる男性@1、女性@2",
        "左から右へ、男性@1と女性@2",
        "왼쪽의 남자@1와 오른쪽의 여자@2",
        "왼쪽에 남자@1, 오른쪽에 여자@2",
        "남자@1는 왼쪽에 서 있고 여자@2는 오른쪽에 있다",
        "왼쪽에서 오른쪽으로 남자@1, 여자@2",
    ],
)
def test_sides_in_chinese_japanese_and_korean_are_read(typed):
    prompt = parse_prompt(typed, mentions="all")
    assert sides_of(prompt, 2) == ("left", "right")
    mirrored = {"左": "右", "右": "左", "왼쪽": "오른쪽", "오른쪽": "왼쪽"}
    text = re.sub("[左右]|왼쪽|오른쪽", lambda sign: mirrored[sign[0]], typed)
    assert sides_of(parse_prompt(text, mentions="all"), 2) == ("right", "left")


@pytest.mark.parametrize(
    "typed",
    [
        "男人@1在女人@2左边",  # to the left of somebody
        "男人@1的左边是女人@2",
        "男性@1の左に女性@2",
        "男人@1看着左边，女人@2笑",  # a look
        "男人@1朝左看，女人@2在右边",
        "左を見る男性@1と女性@2",
        "왼쪽을 보는 남자@1와 여자@2",
        "左边有一盏灯，男人@1和女人@2",  # something else
        "左边的灯和男人@1，女人@2",
        "左边有一盏灯的男人@1和女人@2",
        "男人@1和女人@2在右边",  # both of them, it may be
        "左边的男人@1和女人@2",
        "男人@1旁边的左边女人@2",
        "左边的男人@1，左边的女人@2",  # contradictions
        "左边的男人@1在右边，女人@2",
        "从左到右：男人@1、女人@2和男人@1",
        "右边 男人@1 和 左",
    ],
)
def test_sides_in_other_words_are_left_unread(typed):
    assert sides_of(parse_prompt(typed, mentions="all"), 2) is None
    assert mentions_sides(typed)


def test_full_width_signs_part_what_is_said_of_clothes():
    prompt = parse_prompt("a man in a black　suit、a woman in a ｗｈｉｔｅ　dress", mentions="all")
    assert garment_colors_of(prompt, 2) == ("black", "white")
    assert garment_color("ａ　ｒｅｄ　coat") == "red"


@pytest.mark.parametrize(
    "typed",
    [
        "a man@1 on the left, a woman@2 on the right, " * 1000,
        "(left) " * 30_000 + "a man@1 and a woman@2",
        "a man@1 and a woman@2 " + "(left) " * 1400,
        "a man@1 in a red suit, a woman@2 in a blue dress. " * 999,
        "a man@1. a woman@2. " * 900 + "a. " * 30_000,
        "左边的男人@1，右边的女人@2，" * 900,
        "a man@1 from left to right a woman@2 " * 250,
    ],
    ids=lambda typed: typed[:24],
)
def test_long_texts_are_read_in_a_moment_or_not_at_all(typed):
    prompt, began = parse_prompt(typed, mentions="all"), time.monotonic()
    sides_of(prompt, 2)
    garment_colors_of(prompt, 2)
    mentions_sides(typed)
    assert time.monotonic() - began < 5


PEOPLE = "a man@1, a woman@2, a boy@3 and a girl@4"


def places(text, persons):
    """Of each person the place from the left, counted from 0; None where the sentence does not say so."""
    found = sides_of(parse_prompt(text, persons, mentions="all"), persons)
    return None if found is None else tuple(parts_of(persons).index(side) for side in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"From left to right: {PEOPLE}", (0, 1, 2, 3)),
        (f"From right to left: {PEOPLE}", (3, 2, 1, 0)),
        ("Four friends, left to right a girl@4, a man@1, a woman@2 and a boy@3, in a park.", (1, 2, 3, 0)),
        ("From left to right: a man@1 in black; a woman@2; a boy@3; a girl@4.", (0, 1, 2, 3)),
        ("From left to right:\na woman@2\na man@1\na boy@3\na girl@4", (1, 0, 2, 3)),
        (
            "A man@1 on the far left, a woman@2 on the left, a boy@3 on the right, a girl@4 on the far right.",
            (0, 1, 2, 3),
        ),
        (
            "A man@1 on the far right, a woman@2 on the right, a boy@3 on the left and a girl@4 on the far left",
            (3, 2, 1, 0),
        ),
        (
            "The leftmost man@1, a woman@2 second from the left, a boy@3 second from the right, a girl@4 at the far right",
            (0, 1, 2, 3),
        ),
        (
            "A man@1 third from the left, a woman@2 first from the left, a boy@3 on the far right, a girl@4 second from left",
            (2, 0, 3, 1),
        ),
        (
            "A man@1 left of center, a woman@2 on the left, a boy@3 to the right of the middle, a girl@4 on the right.",
            (1, 0, 2, 3),
        ),
        (
            "A man@1 in the middle left, a woman@2 on the far left, a boy@3 in the center-right, a girl@4 on the far right.",
            (1, 0, 2, 3),
        ),
        ("A boy@3 on the far left, a girl@4 on the far right, a man@1 to the left of a woman@2.", (1, 2, 0, 3)),
        # What leaves a place open is set aside.
        (f"{PEOPLE} in a park", None),
        ("A man@1 on the left, a woman@2 on the left, a boy@3 on the right and a girl@4 on the right.", None),
        ("A man@1 on the left, a woman@2 in the middle, a boy@3 in the middle, a girl@4 on the right.", None),
        ("A man@1 on the far left, a woman@2 on the left, a boy@3 on the right and a girl@4.", None),
        ("A man@1 on the far left, a woman@2 on the left, a boy@3 on the right and a girl@4 on the right.", None),
        (f"From left to right: {PEOPLE}. The boy@3 is on the far left.", None),
        ("A man@1 and a woman@2 sit, behind them from left to right a boy@3 and a girl@4.", None),
        (f"{PEOPLE} from left to right", (0, 1, 2, 3)),
        (f"{PEOPLE}. From left to right they smile, wave, look away and laugh.", None),
    ],
)
def test_four_people_have_four_places(text, expected):
    assert places(text, 4) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("From left to right: a woman@2, a man@1 and a boy@3.", (1, 0, 2)),
        ("From right to left a woman@2, a man@1, a boy@3", (1, 2, 0)),
        ("A man@1 second from the left, a woman@2 on the far left, a boy@3 on the right", (1, 0, 2)),
        ("A man@1 in the centre, a woman@2 third from the left, a boy@3 on the left", (1, 2, 0)),
        ("A man@1 fourth from the left, a woman@2 on the left, a boy@3 on the right", None),
        ("From left to right: a woman@2, a man@1. A boy@3 sits in front.", None),
        ("A man@1 to the left of a woman@2, a boy@3 to the left of the man@1.", None),
        ("A man@1 on the left, a woman@2 on the right, a boy@3 on the right.", None),
    ],
)
def test_three_people_have_three_places(text, expected):
    assert places(text, 3) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man@1 second from the left and a woman@2", (1, 0)),
        ("A man@1 left of centre, a woman@2 right of centre", (0, 1)),
        ("A man@1 on the far left, a woman@2 on the left", None),
        ("A man@1 third from the left and a woman@2", None),
    ],
)
def test_of_two_people_far_and_near_are_one_side(text, expected):
    assert places(text, 2) == expected


def test_clothes_of_four_people_are_told_apart():
    text = "A man@1 in a red coat, a woman@2 in a blue dress, a boy@3 in a green shirt and a girl@4 in a yellow sweater"
    assert garment_colors_of(parse_prompt(text, 4, mentions="all"), 4) == ("red", "blue", "green", "yellow")
    assert garment_colors_of(parse_prompt(text.replace("yellow", "red"), 4, mentions="all"), 4) is None
    assert garment_colors_of(parse_prompt(text.replace(" in a yellow sweater", ""), 4, mentions="all"), 4) is None
