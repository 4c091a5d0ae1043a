"""What sentences say of sides and clothes, as people's keyboards write it."""

import pytest

from dhumandiff.evaluation.sentence_cues import garment_color, garment_colors_of, mentions_sides, sides_of
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


def test_full_width_signs_part_what_is_said_of_clothes():
    prompt = parse_prompt("a man in a black　suit、a woman in a ｗｈｉｔｅ　dress", mentions="all")
    assert garment_colors_of(prompt, 2) == ("black", "white")
    assert garment_color("ａ　ｒｅｄ　coat") == "red"
