"""Who is who in a sentence without @-tags."""

import pytest
from support.refused import refused
from support.sentences import CAPTION, named

from dhumandiff.errors import PromptError
from dhumandiff.prompts import parse_prompt


def test_a_sentence_about_nobody_names_nobody():
    prompt = parse_prompt("a bench in a garden")
    assert prompt.mentions == ()
    assert prompt.unnamed_persons(2) == (1, 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A man and a woman on a bench", ["man", "woman"]),
        ("A WOMAN and her Husband", ["WOMAN", "Husband"]),
        ("a mother with her daughter", ["mother", "daughter"]),
        ("The bride hugs the mother", ["bride", "mother"]),
        ("The bride is kissed by the woman", ["bride", "woman"]),
        ("a bride-to-be and the best man", ["bride-to-be", "man"]),
        ("a mother-in-law and her son", ["mother-in-law", "son"]),
        ("a woman and a woman", ["woman", "woman"]),
        ("A woman sits by a wall, another woman stands", ["woman", "woman"]),
        ("two women: one woman in red, one woman in blue", ["woman", "woman"]),
        ("The first woman wears red, the second woman blue", ["woman", "woman"]),
        ("A girl sits. The other girl stands.", ["girl", "girl"]),
        ("A man sits. The man smiles. A woman stands.", ["man", "woman"]),
        ("1girl, 1boy, bench", ["girl", "boy"]),
        ("man, woman, garden", ["man", "woman"]),
        ("a woman's hand in a man’s hand", ["woman", "man"]),
        ("(a young (man:1.2):0.9) and [a (lady)]", ["man", "lady"]),
        ("a\nman and\n\na woman", ["man", "woman"]),
        ("a couple, a man and a woman", ["man", "woman"]),
        ("a boy with his parents' dog and a girl", ["boy", "girl"]),
    ],
)
def test_the_first_two_person_nouns_in_order(text, words):
    assert named(text) == list(enumerate(words, 1))


NOT_PEOPLE = """a snowman|a superman logo|mankind|a man-made lake|baby's breath|a baby blue wall|a king size bed|
a princess dress|a man statue|a half-man|embedding:man|a ſon, a kİd|a womanly charm|a man bun|a fiance\u0301e"""


@pytest.mark.parametrize("before", NOT_PEOPLE.split("|"))
def test_nouns_that_are_no_people_are_passed_over(before):
    assert named(f"{before}, a girl and a boy") == [(1, "girl"), (2, "boy")]


def test_a_noun_that_describes_the_next_is_nobody():
    assert named("a baby girl and her twin brother") == [(1, "girl"), (2, "brother")]
    assert named("an old lady friend and a boy king") == [(1, "friend"), (2, "king")]


def test_what_somebody_is_dressed_as_is_nobody_else():
    assert named("A man dressed as a king and a woman dressed like a queen") == [(1, "man"), (2, "woman")]


def test_a_caption_is_followed_through_on_request():
    assert named(CAPTION) == [(1, "man"), (2, "woman")]
    followed = [(1, "man"), (2, "woman"), (1, "man"), (1, "groom"), (2, "bride"), (2, "woman")]
    assert named(CAPTION, mentions="all") == followed


@pytest.mark.parametrize(
    ("text", "later"),
    [
        ("A man and a woman. The groom kisses the bride.", [(1, "groom"), (2, "bride")]),
        ("A man and a woman. The lady and the gentleman.", [(2, "lady"), (1, "gentleman")]),
        ("A mother and her daughter. The woman hugs the girl.", [(1, "woman"), (2, "girl")]),
        ("An old man and a young man. The young man waves to the old man.", [(2, "man"), (1, "man")]),
        ("A woman and another woman. The first woman sings, the second woman dances.", [(1, "woman"), (2, "woman")]),
        ("A man and woman; man in black, woman in white", [(1, "man"), (2, "woman")]),
        ("A mother and her son. Her son smiles.", [(2, "son")]),
        # Not certain, so left alone:
        ("A woman and another woman. The woman smiles.", []),
        ("A woman and her friend. The lady smiles.", []),  # the friend may be a lady
        ("A man and a boy. The bride waves.", []),
        ("A man and a woman. His mother watches.", []),
        ("A man and a woman. A man in the background. The groom smiles.", []),
        ("A man and a woman, three women far behind. The bride smiles.", []),
        ("A man and a woman. The other woman waves.", []),
        ("A man and a woman. The husbands wave.", []),
    ],
)
def test_later_nouns_follow_only_where_it_is_certain(text, later):
    assert named(text, mentions="all")[2:] == later


def test_one_person_needs_one_noun():
    assert named("a woman, the bride", persons=1) == [(1, "woman")]
    assert named("a woman, the bride", persons=1, mentions="all") == [(1, "woman"), (1, "bride")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a mother, a father and their child", ["mother", "father", "child"]),
        ("A man, a woman and a girl on a bench", ["man", "woman", "girl"]),
        ("Mother, father and son in a garden", ["Mother", "father", "son"]),
        ("a woman, another woman and a man", ["woman", "woman", "man"]),
        ("Three women: one woman in red, one woman in blue, one woman in white", ["woman"] * 3),
        ("The first woman wears red, the second woman blue, the third woman white", ["woman"] * 3),
        ("A woman sits, the second woman stands, the 3rd woman waves", ["woman"] * 3),
        ("The groom, his bride and the second bridesmaid", ["groom", "bride", "bridesmaid"]),
        ("a family: a grandmother, a mother, a daughter and a baby", ["grandmother", "mother", "daughter", "baby"]),
        ("1girl, 1boy, a dog and a man with a woman", ["girl", "boy", "man", "woman"]),
    ],
)
def test_as_many_people_as_are_asked_for(text, words):
    assert named(text, persons=len(words)) == list(enumerate(words, 1))


@pytest.mark.parametrize(
    ("text", "later"),
    [
        (
            "A woman, another woman and a third woman. The third woman sings, the first woman waves, the second woman too.",
            [(3, "woman"), (1, "woman"), (2, "woman")],
        ),
        (
            "A man, a woman and a boy. The bride kisses the groom, the son smiles.",
            [(2, "bride"), (1, "groom"), (3, "son")],
        ),
        ("A man, a woman and a girl. The fourth woman waves. The other girl sings.", []),
    ],
)
def test_later_nouns_of_three_follow_where_it_is_certain(text, later):
    assert named(text, persons=3, mentions="all")[3:] == later


@pytest.mark.parametrize(
    ("text", "code", "named_in_it"),
    [
        ("three friends in a park", "one-word-for-several", ['write "a friend@1 and a friend@2 and a friend@3"']),
        ("two women and a man", "too-few-people-named", ["3 people", 'only "man"', '"women" names several']),
        (
            "a man and a woman",
            "too-few-people-named",
            ['3 people, but only "man", "woman"', "man@1 and woman@2, and @3"],
        ),
        ("A man. A woman. The lady.", "unclear-person", ["woman@2", "lady@3"]),
        ("A man. A woman. The third woman.", "unclear-person", ['"woman" is the "woman"', "woman@2", "woman@3"]),
    ],
)
def test_of_three_those_not_told_apart_are_refused(text, code, named_in_it):
    with refused(code, *named_in_it, error=PromptError):
        parse_prompt(text, 3)


@pytest.mark.parametrize(
    ("text", "code", "named_in_it"),
    [
        ("two women on a bench", "one-word-for-several", ['"women"', 'write "a woman@1 and a woman@2"']),
        ("three little babies", "one-word-for-several", ['write "a baby@1 and a baby@2"']),
        ("two wives", "one-word-for-several", ['write "a wife@1 and a wife@2"']),
        ("two uncles", "one-word-for-several", ['write "an uncle@1 and an uncle@2"']),
        ("a couple", "one-word-for-several", ['"couple"', 'write "a man@1 and a woman@2"']),
        ("a man in a hat", "too-few-people-named", ['2 people, but only "man"', "man@1, and @2 behind"]),
        ("a man and two women", "too-few-people-named", ['only "man"', '"women" names several people at once']),
        ("The man sits. The man smiles.", "too-few-people-named", ['only "man"']),
        ("woman, woman", "unclear-person", ['whether "woman" is the "woman"', "woman@1", "woman@2"]),
        (
            "The woman on the left, the woman on the right, a child",
            "unclear-person",
            ['whether "woman" is the "woman"'],
        ),
        ("A young woman. The old woman. A man.", "unclear-person", ['whether "woman" is the "woman"']),
        (
            "A man in a garden. The groom smiles. A woman.",
            "unclear-person",
            ['whether "groom" is the "man"', "man@1", "groom@2"],
        ),
        ("Here is a woman, there is a lady, and a man", "unclear-person", ['whether "lady" is the "woman"']),
        ("Two women and a man and a boy", "unnamed-group", ['"women" names several people at once', "man@1 and boy@2"]),
    ],
)
def test_people_not_told_apart_are_refused(text, code, named_in_it):
    for mentions in ("first", "all"):
        with refused(code, *named_in_it, error=PromptError):
            parse_prompt(text, 2, mentions)
