"""Many sentences in one text: one a line."""

import pytest

from dhumandiff.errors import PromptError
from dhumandiff.prompts import split_sentences


def test_each_line_is_a_sentence_in_its_order():
    assert split_sentences("a man@1 on a beach\na man@1 in a forest\n") == ["a man@1 on a beach", "a man@1 in a forest"]


def test_empty_lines_comments_and_spaces_around_are_left_out():
    text = "\n  a man@1 on a beach  \r\n\n# a man@1 at night\n   # and this\n\t\na man@1 in the snow"
    assert split_sentences(text) == ["a man@1 on a beach", "a man@1 in the snow"]


def test_a_number_sign_within_a_sentence_is_part_of_it():
    assert split_sentences("house #7") == ["house #7"]


def test_what_all_share_stands_before_and_behind_with_one_space_between():
    assert split_sentences("a\nb", " Photo of ", "in white. ") == ["Photo of a in white.", "Photo of b in white."]
    assert split_sentences("a", after="  ") == ["a"]


def test_letters_of_all_scripts_and_marks_stay_as_they_are():
    line = r"花嫁@1 と 花婿@2 (red dress:1.2) \@home"
    assert split_sentences(line) == [line]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "the text is empty"), (" \n\t\n", "the text is empty"), ("# one\n\n # two", "begins with #")],
)
def test_no_sentence_is_refused_with_what_to_do(text, said):
    with pytest.raises(PromptError, match=said) as refused:
        split_sentences(text, before="shared words alone are no sentence")
    assert "one sentence a line" in str(refused.value)
