"""How a sentence is cut into spans for showing who is who in it, and what in it is worth a note."""

import pytest

from dhumandiff.prompts import Mention, Prompt, Span, parse_prompt


def cut(marked, mentions="first", persons=2):
    """The spans that name somebody, once the rest is known to be the sentence."""
    prompt = parse_prompt(marked, persons, mentions)
    spans = prompt.spans(parse_prompt(marked, persons, "all").mentions)
    assert "".join(span.text for span in spans) == prompt.text
    assert all(span.text and not (span.is_subject and not span.person) for span in spans)
    return [(span.text, span.person, span.is_subject) for span in spans if span.person]


def test_first_mentions_carry_a_face_and_later_only_name():
    marked = "A man@1 and a woman@2. The man@1 wears black, the woman@2 white"
    words = [("man", 1), ("woman", 2), ("man", 1), ("woman", 2)]
    assert cut(marked) == [(*word, subject) for word, subject in zip(words, (True, True, False, False), strict=True)]
    assert cut(marked, "all") == [(*word, True) for word in words]


def test_the_spans_of_a_sentence_in_order():
    assert parse_prompt("A man@1, asleep", persons=1).spans() == (
        Span("A "),
        Span("man", 1, True),
        Span(", asleep"),
    )
    assert parse_prompt("man@1 woman@2").spans() == (Span("man", 1, True), Span(" "), Span("woman", 2, True))


@pytest.mark.parametrize(
    ("marked", "words"),
    [
        ("une homme@1 et une femme@2", ["homme", "femme"]),
        ("新郎@1 和 新娘@2 在海边", ["新郎", "新娘"]),
        ("رجل@1 و امرأة@2", ["رجل", "امرأة"]),
        ("<b>man</b> <i>groom@1 & <script>alert(1)</script> bride@2", ["groom", "bride"]),
        ("(man@1:1.2) and embedding:anna@2", ["man", "embedding:anna"]),
    ],
)
def test_scripts_markup_and_weights_stay_as_they_stand(marked, words):
    assert cut(marked) == [(word, number, True) for number, word in enumerate(words, 1)]


def test_a_sentence_that_names_nobody_is_one_span():
    assert Prompt("a garden", ()).spans() == (Span("a garden"),)


def test_a_word_counted_inside_another_one_is_left_out():
    """Two readings of a sentence may differ in where a word ends."""
    prompt = Prompt("bride-to-be here", (Mention(1, 0, 11, "bride-to-be"),))
    assert prompt.spans([Mention(1, 6, 8, "to")]) == (Span("bride-to-be", 1, True), Span(" here"))


# --- notes


def test_a_person_without_a_tag_is_noted():
    prompt = parse_prompt("a man@1 and a woman")
    assert prompt.unnamed_persons(2) == (2,)
    assert prompt.unnamed_persons(1) == ()
    (note,) = prompt.notes(2)
    assert note.startswith("No word names person 2")
    assert "Write word@2" in note


@pytest.mark.parametrize("mentions", ["first", "all"])
def test_naming_person_2_first_is_noted(mentions):
    (note,) = parse_prompt("a man@2 and a woman@1, the man@2 in black", mentions=mentions).notes(2)
    assert note.startswith("Person 2 is named before person 1")
    assert "exchange the two photos" in note
    assert not parse_prompt("a man@1 and a woman@2, the man@1 in black", mentions=mentions).notes(2)
    assert not parse_prompt("a man and a woman", mentions=mentions).notes(2)
    assert not parse_prompt("a man@2", persons=2).notes(2)[1:]
