"""PairHuman's JSON, read tolerantly, and which words mean which of the two people."""

import pytest
from support.refused import refused

from dhumandiff.errors import PromptError
from training import TrainingError
from training.data.annotation import read_annotation
from training.data.naming import PersonAttributes, default_caption, name_people

SIZE = (200, 100)  # width, height
MAN, WOMAN = PersonAttributes("male", "adult", 50), PersonAttributes("female", "adult", 150)
NOBODY = PersonAttributes(x=50), PersonAttributes(x=150)


def told(caption="A man and a woman hug.", words=(), people=None, **fields):
    """words: (phrase, start, end) or mappings, of one sentence that is the caption."""
    entries = [
        one if isinstance(one, dict) else {"words": one[0], "start_idx": one[1], "end_idx": one[2]} for one in words
    ]
    info = [{"sentence_ID": 0, "sentence": caption, "person_info": entries}]
    return {"image_caption": {"text": caption, "match_info": info}, "people": people or [], **fields}


def found(data, size=SIZE):
    return [(word.word, word.start) for word in read_annotation(data, size).words]


@pytest.mark.parametrize(
    "entry",
    [
        ("a woman", 10, 17),  # characters, the end not counted
        ("a woman", 10, 16),  # characters, the end counted
        ("a woman", 3, 5),  # words, the end not counted
        ("a woman", 3, 4),  # words, the end counted
        ("a woman", 900, 907),  # beyond the sentence
        ("A Woman", "x", None),  # no numbers
        {"words": ["a", "woman"]},
        {"words": "a woman", "start_idx": -5, "end_idx": -1},
        {"start_idx": 10, "end_idx": 17},
    ],
)
def test_words_are_found_whatever_their_indices_count(entry):
    assert found(told(words=[entry])) == [("woman", 12)]


def test_equal_words_without_usable_indices_are_different_places():
    caption = "A woman hugs a woman."
    assert found(told(caption, [("woman", 0, 0), ("woman", 0, 0)])) == [("woman", 2), ("woman", 15)]


def test_unknown_words_are_left_out():
    """Words that do not occur are left out with a note."""
    annotation = read_annotation(told(words=[("a unicorn", 0, 9), ("A man", 0, 5)]), SIZE)
    assert [word.word for word in annotation.words] == ["man"]
    assert any("'a unicorn' at 0..9, which does not occur" in note for note in annotation.notes)


def test_words_are_not_found_inside_other_words():
    assert found(told("A woman and a man.", [("man", None, None)])) == [("man", 14)]


@pytest.mark.parametrize("phrase", ["They", "The couple", "he"])
def test_pronouns_and_groups_name_nobody(phrase):
    assert found(told(f"{phrase} hug.", [(phrase, 0, len(phrase))])) == []


def test_the_noun_of_a_phrase_carries_the_face():
    caption = "A tall young man in black, and somebody."
    assert found(told(caption, [("A tall young man in black", 0, 25)])) == [("man", 13)]


def test_words_of_later_sentences_lie_in_the_caption():
    data = told("A man waits. The man smiles.")
    data["image_caption"]["match_info"] = [
        {"sentence": "A man waits.", "person_info": [{"words": "A man", "start_idx": 0, "end_idx": 5}]},
        {"sentence": "The man smiles.", "person_info": [{"words": "The man", "start_idx": 0, "end_idx": 7}]},
    ]
    assert found(data) == [("man", 2), ("man", 17)]


def test_a_reworded_sentence_searches_the_caption():
    """A sentence that is worded otherwise is searched in the whole caption."""
    data = told("A man and a woman hug.", [("a woman", 8, 15)])
    data["image_caption"]["match_info"][0]["sentence"] = "A man & a woman hug."
    annotation = read_annotation(data, SIZE)
    assert [(word.word, word.start) for word in annotation.words] == [("woman", 12)]
    assert any("does not stand in the caption" in note for note in annotation.notes)


def test_a_missing_caption_is_put_together_from_the_sentences():
    data = told("A man waits.", [("A man", 0, 5)])
    del data["image_caption"]["text"]
    assert read_annotation(data, SIZE).caption == "A man waits."


@pytest.mark.parametrize(
    "data",
    [{}, {"people": None, "image_caption": None}, {"people": 3, "image_caption": {"match_info": [3, {"x": 1}]}}],
)
def test_missing_fields_are_read_as_unknown(data):
    annotation = read_annotation(data, SIZE)
    assert (annotation.caption, annotation.people, annotation.words) == ("", (), ())


def test_something_else_than_an_object_is_refused():
    with refused("annotation-no-object", "list", error=TrainingError):
        read_annotation([1], SIZE)


def boxes(*values, **fields):
    people = [{"object_id": number, "unique_coordinate": value} for number, value in enumerate(values)]
    annotation = read_annotation({"people": people, **fields}, SIZE)
    return [person.box for person in annotation.people], " ".join(annotation.notes)


def test_boxes_are_clipped_to_the_picture_with_a_note():
    found, notes = boxes([-20, 10, 100, 120])
    assert found == [(0, 10, 100, 100)]
    assert "reaches beyond the picture and was clipped" in notes


@pytest.mark.parametrize("box", [[300, 10, 400, 90], [50, 10, 50, 90], [90, 10, 40, 90], [-1000, 0, 10, 100]])
def test_useless_boxes_are_left_out(box):
    """Boxes outside or without area are left out with a note."""
    found, notes = boxes(box)
    assert found == [None]
    assert "lies outside the picture or has no area" in notes


@pytest.mark.parametrize("box", [[1, 2, 3], "abc", [1, 2, 3, None], [1, 2, 3, float("nan")]])
def test_broken_boxes_are_left_out(box):
    assert boxes(box)[0] == [None]


def test_boxes_scale_with_the_picture():
    """Boxes of a picture that was scaled are scaled too."""
    found, notes = boxes([100, 20, 200, 180], Information={"width": 400, "height": 200})
    assert found == [(50, 10, 100, 90)]
    assert "boxes were scaled" in notes


def test_boxes_may_be_shares_of_the_picture():
    assert boxes([0.25, 0.1, 0.5, 1.0])[0] == [(50, 10, 100, 100)]


def test_people_come_in_the_order_of_their_ids():
    people = [{"object_id": "person_10", "gender": "Male"}, {"object_id": "person_2", "gender": "girl"}]
    read = read_annotation({"people": people}, SIZE).people
    assert [(person.object_id, person.gender) for person in read] == [("person_2", "female"), ("person_10", "male")]


def naming(data, people, unknown_gender="set_aside"):
    annotation = read_annotation(data, SIZE)
    named = name_people(annotation.caption, annotation.words, people, unknown_gender)
    return named, [[mention.word for mention in named.mentions if mention.person == number] for number in (1, 2)]


def test_nouns_tell_gender_in_any_order():
    """Nouns tell a man from a woman whatever their order."""
    caption = "A woman and a man hug. The groom smiles."
    data = told(caption, [("A woman", 0, 7), ("a man", 12, 17), ("The groom", 23, 32)])
    named, words = naming(data, (MAN, WOMAN))
    assert (named.order, words, named.how) == ((1, 0), [["woman"], ["man", "groom"]], "noun")


def test_an_object_id_beside_the_words_decides():
    entries = [
        {"words": "A woman", "start_idx": 0, "end_idx": 7, "object_id": 2},
        {"words": "a woman", "start_idx": 13, "end_idx": 20, "object_id": 1},
    ]
    people = [{"object_id": 1, "gender": "female"}, {"object_id": 2, "gender": "female"}]
    named, words = naming(told("A woman hugs a woman.", entries, people), (WOMAN, WOMAN))
    assert (named.order, words, named.how) == ((1, 0), [["woman"], ["woman"]], "object_id")


def test_undecided_entries_follow_the_order():
    """Two entries that fit both are the people in their order."""
    named, words = naming(told("A woman hugs a friend.", [("A woman", 0, 7), ("a friend", 13, 21)]), (WOMAN, WOMAN))
    assert (named.order, words, named.how) == ((0, 1), [["woman"], ["friend"]], "order")


def test_a_noun_keeps_its_person():
    """A noun that meant one of them means the same one later."""
    caption = "A bride hugs a friend. The friend smiles."
    data = told(caption)
    sentences = (
        ("A bride hugs a friend.", [("A bride", 0, 7), ("a friend", 13, 21)]),
        ("The friend smiles.", [("The friend", 0, 10)]),
    )
    data["image_caption"]["match_info"] = [
        {"sentence": text, "person_info": [{"words": w, "start_idx": s, "end_idx": e} for w, s, e in entries]}
        for text, entries in sentences
    ]
    assert naming(data, (WOMAN, WOMAN))[1] == [["bride"], ["friend", "friend"]]


def test_a_child_is_told_from_a_woman_by_age():
    people = (PersonAttributes("female", "child", 50), PersonAttributes("female", "adult", 150))
    named, words = naming(told("A woman lifts a girl.", [("A woman", 0, 7), ("a girl", 14, 20)]), people)
    assert (named.order, words) == ((1, 0), [["woman"], ["girl"]])


def test_without_match_info_the_prompt_rules_find_the_words():
    named, words = naming({"caption": "A woman and a man. The bride laughs."}, (MAN, WOMAN))
    assert (named.order, words, named.how) == ((1, 0), [["woman", "bride"], ["man"]], "noun")


def test_marks_in_a_caption_are_read_and_taken_out():
    named, words = naming({"caption": "The president@1 greets the minister@2."}, NOBODY)
    assert named.caption == "The president greets the minister."
    assert words == [["president"], ["minister"]]


def test_alike_people_are_named_left_to_right():
    """People whom the caption does not tell apart are named from left to right."""
    right_first = PersonAttributes(x=150), PersonAttributes(x=50)
    named, _ = naming({"caption": "A woman hugs another woman."}, right_first)
    assert (named.order, named.how) == ((1, 0), "left_to_right")


@pytest.mark.parametrize(
    "caption",
    [
        "On the right a man in a navy jacket, on the left a man in a blue tie.",
        "A man@1 on the right and a man@2 on the left.",
        "On the right a woman in a hat, on the left a man.",
        "右边的男人＠1和左边的女人＠2",
        "男性@1は右側に、女性@2は左側に",
        "오른쪽에 남자@1, 왼쪽에 여자@2",
    ],
)
def test_a_caption_that_names_the_right_one_first_means_the_right_one(caption):
    named, _ = naming({"caption": caption}, NOBODY)
    assert (named.order, named.how) == ((1, 0), "sides")


def test_sides_are_asked_before_the_order_of_ids():
    caption = "A woman on the right hugs a friend."
    named, _ = naming(told(caption, [("A woman", 0, 7), ("a friend", 26, 34)]), (WOMAN, PersonAttributes(x=300)))
    assert (named.order, named.how) == ((1, 0), "sides")


def test_clothes_are_asked_before_the_order():
    asked = []
    caption = "A woman in a red coat hugs a woman in a blue coat."
    named = name_people(caption, (), NOBODY, by_clothes=lambda colors: asked.append(colors) or (1, 0))
    assert (named.order, named.how, asked) == ((1, 0), "clothes", [("red", "blue")])
    with refused("clothes-not-clear", "'woman'", error=PromptError):
        name_people(caption, (), NOBODY, by_clothes=lambda colors: None)


def test_sides_that_contradict_the_faces_are_set_aside():
    with refused("sides-contradict", "contradict", error=PromptError):
        naming({"caption": "A man on the right and a woman on the left."}, (MAN, WOMAN))


@pytest.mark.parametrize("caption", ["A woman with a woman to her left.", "A man@1 on the left, a man@2 on the left."])
def test_sides_that_cannot_be_read_are_set_aside(caption):
    with refused("sides-not-clear", "left or right", error=PromptError):
        naming({"caption": caption}, NOBODY)


def test_unknown_genders_are_not_guessed():
    """A man and a woman of whom nothing is known are not guessed."""
    with refused("people-not-told-apart", "'man'", "'woman'", error=PromptError):
        naming({"caption": "A man and a woman."}, NOBODY)
    named, _ = naming({"caption": "A man and a woman."}, NOBODY, "left_to_right")
    assert named.order == (0, 1)


def test_a_caption_about_other_people_is_refused():
    with refused("caption-contradicts-picture", "'man' and 'woman'", "adult male and adult male", error=PromptError):
        naming({"caption": "A man and a woman."}, (MAN, MAN))


def test_a_caption_naming_one_person_is_refused():
    """A caption that names one of them only is refused."""
    with refused("too-few-people-named", "2 people", error=PromptError):
        naming({"caption": "A man on a bench."}, (MAN, WOMAN))


def test_scripts_without_blanks_get_blanks():
    """Words of scripts without blanks are parted from their neighbors."""
    caption = "一个男人和一个女人在公园"
    named, words = naming(told(caption, [("男人", 2, 4), ("女人", 7, 9)]), (WOMAN, MAN))
    assert named.caption == "一个 男人 和一个 女人 在公园"
    assert words == [["男人"], ["女人"]]
    assert all(named.caption[m.start : m.end] == m.word for m in named.mentions)


@pytest.mark.parametrize(
    ("people", "caption"),
    [
        ((WOMAN, MAN), "A man and a woman"),
        ((WOMAN, WOMAN), "A woman and another woman"),
        ((PersonAttributes("male", "child", 10), WOMAN), "A boy and a woman"),
        (NOBODY, "A person and another person"),
    ],
)
def test_a_picture_without_caption_gets_one_that_names_both(people, caption):
    assert default_caption(people) == caption
    assert naming({"caption": caption}, people)[0].mentions


def test_hidden_and_full_width_signs_in_a_caption_are_read():
    """Hidden and full width signs in captions are read as people type them."""
    data = told("A \ufeffman\u200b＠2 hugs a wo\u00adman＠1.", [("a woman", 99, 106)])
    annotation = read_annotation(data, SIZE)
    assert annotation.caption == "A man＠2 hugs a woman＠1."
    assert [word.word for word in annotation.words] == ["woman"]
    naming = name_people(annotation.caption, (), NOBODY, "left_to_right")
    assert (naming.caption, naming.mentions[0].word) == ("A man hugs a woman.", "man")
