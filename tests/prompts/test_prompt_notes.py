"""What a sentence is worth noting for: people named in another order than weights count on."""

import pytest

from dhumandiff.prompts import parse_prompt


@pytest.mark.parametrize("mentions", ["first", "all"])
def test_naming_person_2_first_is_noted_since_weights_go_by_who_is_named_first(mentions):
    (note,) = parse_prompt("a man@2 and a woman@1, the man@2 in black", mentions=mentions).notes(2)
    assert note.startswith("Person 2 is named before person 1")
    assert "exchange the two photos" in note
    assert not parse_prompt("a man@1 and a woman@2, the man@1 in black", mentions=mentions).notes(2)
    assert not parse_prompt("a man and a woman", mentions=mentions).notes(2)
    assert not parse_prompt("a man@2", persons=2).notes(2)[1:]
