"""Who is who in a sentence with @-tags, and many sentences in one text."""

import time

import pytest
from support.refused import refused
from support.sentences import named

from dhumandiff.errors import PromptError
from dhumandiff.prompts import Mention, parse_prompt, split_sentences, try_parse_prompt


def test_tags_are_taken_out_and_first_mentions_kept():
    prompt = parse_prompt("A man@1 and a woman@2. The man@1 wears black.")
    assert prompt.text == "A man and a woman. The man wears black."
    assert prompt.mentions == (Mention(1, 2, 5, "man"), Mention(2, 12, 17, "woman"))


def test_all_tagged_mentions_are_kept_on_request():
    assert named("A man@1, a woman@2, the man@1, the woman.", mentions="all") == [(1, "man"), (2, "woman"), (1, "man")]


def test_tags_may_name_person_two_first():
    assert named("A woman@2 and a man@1") == [(2, "woman"), (1, "man")]


@pytest.mark.parametrize(
    ("marked", "text", "words"),
    [
        ("an old man@1, a bride-to-be@2.", "an old man, a bride-to-be.", ["man", "bride-to-be"]),
        ("(man@1:1.2) and ((woman@2))", "(man:1.2) and ((woman))", ["man", "woman"]),
        ("\"man@1\" 'woman@2'", "\"man\" 'woman'", ["man", "woman"]),
        ("man@1's hand, the woman's@2 hat", "man's hand, the woman's hat", ["man", "woman"]),
        ("a man@1\n\nand\na woman@2\n", "a man\n\nand\na woman\n", ["man", "woman"]),
        ("男人@1和 女人@2", "男人和 女人", ["男人", "女人"]),
        ("una señora@1 y sen\u0303or@2", "una señora y sen\u0303or", ["señora", "sen\u0303or"]),
        ("आदमी@1 और औरत@2", "आदमी और औरत", ["आदमी", "औरत"]),
        ("l'homme@1 et la femme@2", "l'homme et la femme", ["homme", "femme"]),
        (
            "embedding:me@1 (embedding:x/you_1.5@2:1.1)",
            "embedding:me (embedding:x/you_1.5:1.1)",
            ["embedding:me", "embedding:x/you_1.5"],
        ),
        ("man@1.", "man.", ["man"]),
        ("Anna_2@1, agent 47@2", "Anna_2, agent 47", ["Anna_2", "47"]),
        ("two friends@1 and robots@2", "two friends and robots", ["friends", "robots"]),
    ],
)
def test_the_tagged_word_stands_directly_before_the_tag(marked, text, words):
    prompt = parse_prompt(marked)
    assert prompt.text == text
    assert [m.word for m in prompt.mentions] == words


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        (r"me\@1 man@1", "me@1 man"),
        ("me@example.com man@1", "me@example.com man"),
        ("at @ home man@1", "at @ home man"),
        ("@studio man@1 @", "@studio man @"),
    ],
)
def test_an_at_escaped_or_without_number_is_text(typed, text):
    prompt = parse_prompt(typed)
    assert prompt.text == text
    assert [m.word for m in prompt.mentions] == ["man"]


@pytest.mark.parametrize(
    ("marked", "persons", "code", "named_in_it"),
    [
        ("man@1 woman@3", 2, "tag-of-nobody", ['"woman@3" names person 3', "2 people, @1 to @2"]),
        ("man@1 woman@2", 1, "tag-of-nobody", ['"woman@2" names person 2', "1 person, @1"]),
        ("man@0", 2, "tag-of-nobody", ["person 0"]),
        ("@1 sits", 2, "tag-without-word", ['"@1 sits"', "directly before @1"]),
        ("man @1", 2, "tag-without-word", ["@1"]),
        ("(man)@1", 2, "tag-without-word", ["@1"]),
        ("man@1@2", 2, "tag-without-word", ["directly before @2"]),
        ("man@1and a woman@2", 2, "unclear-tag", ["behind @1", "\\@"]),
        ("shot at f@1.8", 2, "unclear-tag", ["f@1.8", "\\@ for a plain @"]),
        ("", 2, "empty-prompt", ["Write a sentence"]),
        (" \n ", 2, "empty-prompt", []),
        ("a man", 0, "no-person-to-name", ["0"]),
    ],
)
def test_unclear_tags_are_refused(marked, persons, code, named_in_it):
    with refused(code, *named_in_it, error=PromptError):
        parse_prompt(marked, persons)


def test_an_unknown_choice_of_mentions_is_refused():
    with refused("unknown-mentions", "'some'", '"first" or "all"'):
        parse_prompt("a man@1", 2, "some")


def test_a_sentence_that_is_not_clear_decides_nothing():
    assert try_parse_prompt("A man and a woman. The man sits.", 2) == parse_prompt(
        "A man and a woman. The man sits.", 2, "all"
    )
    assert try_parse_prompt("two women on a bench", 2) is None


# --- many sentences in one text


def test_each_line_is_a_sentence_in_its_order():
    assert split_sentences("a man@1 on a beach\na man@1 in a forest\n") == ["a man@1 on a beach", "a man@1 in a forest"]


def test_empty_lines_and_comments_are_left_out():
    text = "\n  a man@1 on a beach  \r\n\n# a man@1 at night\n   # and this\n\t\na man@1 in the snow"
    assert split_sentences(text) == ["a man@1 on a beach", "a man@1 in the snow"]


def test_a_number_sign_within_a_sentence():
    assert split_sentences("house #7") == ["house #7"]


def test_what_all_share_stands_before_and_behind():
    assert split_sentences("a\nb", " Photo of ", "in white. ") == ["Photo of a in white.", "Photo of b in white."]
    assert split_sentences("a", after="  ") == ["a"]


def test_letters_of_all_scripts_and_tags_stay():
    line = r"花嫁@1 と 花婿@2 (red dress:1.2) \@home"
    assert split_sentences(line) == [line]


@pytest.mark.parametrize(
    ("text", "said"),
    [("", "the text is empty"), (" \n\t\n", "the text is empty"), ("# one\n\n # two", "begins with #")],
)
def test_no_sentence_is_refused(text, said):
    with refused("no-sentence", said, "one sentence a line"):
        split_sentences(text, before="shared words alone are no sentence")


@pytest.mark.parametrize(
    "typed",
    [
        "A man＠2 and a woman＠1 on a bench",
        "A man@２ and a woman@１ on a bench",
        "A man＠２ and a woman﹫1 on a bench",
        "Ａ　ｍａｎ＠２　ａｎｄ　ａ　ｗｏｍａｎ＠１",
        "（A man＠2：1.2） and （a woman＠１）",
        "A man@② and a woman@①",
        "A man@⑵ and a woman@㈠",
        "A man@Ⅱ and a woman@Ⅰ",
        "A man@二 and a woman＠一",
        "A man@二和 a woman@壹、",
        "（A man＠二：1.2） and （a woman＠一）",
        "A man@٢ and a woman@١",
        "A man\u200b@2 and a woman@\u200b1",
        "\ufeffA man\u200d@2 and a wo\u00adman@\u200e1\u200f",
    ],
)
def test_full_width_and_hidden_signs_are_read_as_people_type_them(typed):
    prompt = parse_prompt(typed)
    said = {
        mention.person: mention.word.translate({c: c - 0xFEE0 for c in range(0xFF01, 0xFF5F)})
        for mention in prompt.mentions
    }
    assert said == {2: "man", 1: "woman"}
    assert all(prompt.text[m.start : m.end] == m.word for m in prompt.mentions)
    assert not set(prompt.text) & set("@＠﹫\u200b\ufeff\u00ad\u200e\u200f")


def test_full_width_weights_and_embeddings_are_those_of_the_keyboard():
    assert parse_prompt("（man＠1：1．２） (woman@2：0.9）").text == "(man:1.2) (woman:0.9)"
    assert parse_prompt("embedding：me＠1 and a woman@2").mentions[0].word == "embedding:me"


@pytest.mark.parametrize("text", ["man@1（left）", "man@1 （at 10：30）", "man@1：1", r"man@1 \（a：1.2）"])
def test_full_width_signs_without_a_weight_are_text(text):
    assert parse_prompt(text, persons=1).text == text.replace("@1", "")


def test_people_without_marks_are_found_among_full_width_letters():
    prompt = parse_prompt("Ａ　ｍａｎ。Ａ　ｗｏｍａｎ（left）", mentions="all")
    assert [(m.person, m.word) for m in prompt.mentions] == [(1, "ｍａｎ"), (2, "ｗｏｍａｎ")]


@pytest.mark.parametrize("text", ["A man@ 2 and a woman@ 1", "A man＠　２ and a woman＠　１"])
def test_a_number_behind_a_blank_is_not_passed_over(text):
    with refused("unclear-tag", "man@2"):
        parse_prompt(text)


@pytest.mark.parametrize(
    "text", ["男人@一个 女人@二", "女人@二 男人@一起", "男性@一つ 女性@二", "男人@一二 女人@二", "男人@一0 女人@二"]
)
def test_a_numeral_that_begins_a_word_is_not_passed_over(text):
    with refused("unclear-tag", "@一"):
        parse_prompt(text)


@pytest.mark.parametrize(
    "text", ["女人@二和男人@一在公园里", "男性＠一は左、女性＠二", "男人@一，女人@二。", "남자@一와 여자@二"]
)
def test_numerals_of_chinese_and_japanese_name_people(text):
    assert sorted(mention.person for mention in parse_prompt(text).mentions) == [1, 2]


@pytest.mark.parametrize("text", ["男人@三 女人@一", "男人@十 女人@一", "男人@〇 女人@一", "man@Ⅻ"])
def test_numerals_of_nobody_are_refused(text):
    with refused("tag-of-nobody", "names person"):
        parse_prompt(text)


@pytest.mark.parametrize("text", ["man@1, dinner at cafe@ 8", r"＼＠1 man@1", "＠studio man@1", "man@1 meet @ 1"])
def test_other_signs_that_look_like_marks_are_text(text):
    assert parse_prompt(text, persons=1).text == text.replace("＼", "").replace("n@1", "n")


def test_a_prompt_out_of_another_encoding_is_refused():
    with refused("prompt-of-another-encoding", "Character 6"):
        parse_prompt("a caf\udce9 man@1")


def test_a_number_of_thousands_of_digits_names_nobody():
    with refused("tag-of-nobody"):
        parse_prompt("man@" + "1" * 5000)


def test_full_width_number_signs_leave_lines_out():
    assert split_sentences("\ufeff＃ no\r＃no\r\na man") == ["a man"]


@pytest.mark.parametrize("text", ["a man@1 " * 2001, "a man " * 2001, "a man@1 and a woman@2. " * 50000])
def test_more_mentions_than_any_encoder_reads_are_refused(text):
    with refused("too-many-mentions", "2000"):
        parse_prompt(text)
    assert len(parse_prompt("a man@1 " * 2000, mentions="all").mentions) == 2000


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("embedding:" * 20000 + ", man@1", "man"),
        ("\u200d" * 100000 + "a man\u200d@1", "man"),
        ("@ " * 100000 + "a man@1", "man"),
        ("（man：1.2）" * 50000 + " man＠1", "man"),
    ],
    ids=["embeddings", "joiners", "signs", "weights"],
)
def test_long_texts_take_no_more_than_their_length(text, word):
    start = time.process_time()
    assert parse_prompt(text, persons=1, mentions="all").mentions[0].word == word
    assert time.process_time() - start < 3  # 28 s and more where time grows with the square
