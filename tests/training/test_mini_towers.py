"""The text towers of the miniature: what their heads ask, and that they learn it."""

import pytest
import torch

from dhumandiff.hosts.diffusers.parts import sdxl_tokenizer
from dhumandiff.miniature.world import COLORS, SCENES
from dhumandiff.miniature.world.looks import LOOKS
from training.miniature.towers import NOTHING, Sentences, TextEncoders, train_text_encoders

TOLD = [
    {
        "caption": "A man on the right and a woman on the left, in a green field. The man wears a red suit, the woman a green dress.",
        "scene": next(iter(SCENES)),
        "colours": ["red", "green"],
        "sides": ["right", "left"],
        "genders": ["man", "woman"],
        "looks": [{}, {}],
    },
    {
        "caption": "On the left a pale boy with a ginger bob wears a blue hoodie, on the right a lady wears a white shirt. They are at home.",
        "scene": list(SCENES)[1],
        "colours": ["blue", "white"],
        "sides": ["left", "right"],
        "genders": ["man", "woman"],
        "looks": [{"skin": "pale", "style": "bob", "hair": "ginger"}, {}],
    },
]


@pytest.fixture(scope="module")
def said():
    return Sentences.of(TOLD)


def words_with(said, answers, row):
    """The words at which something is asked, with the answers."""
    tokenizer = sdxl_tokenizer()
    places = (answers[row] != NOTHING).nonzero()[:, 0].tolist()
    return [(tokenizer.decode([said.low[row, place]]).strip(), int(answers[row, place])) for place in places]


def test_garments_ask_for_their_wearers_side(said):
    """Garments ask for their wearer's side and a green field for nothing."""
    assert words_with(said, said.side, 0) == [("suit", 1), ("dress", 0)]
    assert words_with(said, said.side, 1) == [("hoodie", 0), ("shirt", 1)]


def test_sides_and_garments_ask_who_that_is(said):
    red, green, blue, white = (list(COLORS).index(name) for name in ("red", "green", "blue", "white"))
    worn, gender, order, *looks = said.there
    looks = dict(zip(LOOKS, looks, strict=True))
    assert words_with(said, worn, 0) == [("right", red), ("left", green), ("suit", red), ("dress", green)]
    assert words_with(said, worn, 1) == [("left", blue), ("hoodie", blue), ("right", white), ("shirt", white)]
    assert all(words_with(said, asked, 0) == [] for asked in looks.values())
    for name, word in (("skin", "pale"), ("style", "bob"), ("hair", "ginger")):
        number = LOOKS[name].index(word)
        assert words_with(said, looks.pop(name), 1) == [("left", number), ("hoodie", number)]
    assert all(words_with(said, asked, 1) == [] for asked in looks.values())
    assert words_with(said, gender, 0) == [("right", 1), ("left", 0), ("suit", 1), ("dress", 0)]
    assert words_with(said, order, 0) == [("right", 0), ("left", 1), ("suit", 0), ("dress", 1)]


def test_sides_garments_and_their_colours_have_a_place(said):
    assert words_with(said, said.placed, 0) == [
        ("right", 1), ("left", 0), ("red", 1), ("suit", 1), ("green", 0), ("dress", 0),
    ]  # fmt: skip
    assert (said.placed[2] == NOTHING).all()


def test_garments_of_one_color_ask_nothing():
    """A garment is nobody's where both wear one color."""
    told = {**TOLD[0], "caption": TOLD[0]["caption"].replace("green dress", "red suit"), "colours": ["red", "red"]}
    said = Sentences.of([told])
    assert words_with(said, said.side, 0) == []
    assert words_with(said, said.placed, 0) == [("right", 1), ("left", 0)]


def test_the_end_asks_for_scene_and_colors(said):
    """A sentence's end asks for scene and both colors and the empty sentence for nothing."""
    colors = list(COLORS)
    assert said.answers[:2].tolist() == [
        [0, colors.index("green"), colors.index("red")],
        [1, colors.index("blue"), colors.index("white")],
    ]
    assert (said.answers[2] == NOTHING).all()
    assert said.ends[2] == 1
    assert said.low[torch.arange(3), said.ends].tolist() == [49407] * 3


def test_a_batch_that_asks_nothing_costs_nothing(said):
    rows, last = torch.tensor([2, 2]), torch.zeros(2, dtype=torch.bool)
    assert TextEncoders(said.vocabulary())(said, rows, last)[2] == 0


def test_hidden_words_read_as_the_row_for_unknown_ones(said):
    torch.manual_seed(0)
    towers = TextEncoders(said.vocabulary()).eval()
    hidden = torch.zeros(2, 77, dtype=torch.bool)
    hidden[0, 3] = True
    rows, last = torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool)
    with torch.no_grad():
        plain, unknown = towers(said, rows, last)[0], towers(said, rows, last, hidden)[0]
    assert torch.equal(plain[0, :3], unknown[0, :3])
    assert not torch.allclose(plain[0, 3:], unknown[0, 3:])
    assert torch.equal(plain[1], unknown[1])


@pytest.mark.slow
def test_training_makes_the_heads_answer(said, tmp_path):
    """Training makes the heads answer and a finished run is only loaded."""
    rows, last = torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool)
    torch.manual_seed(6)
    with torch.no_grad():
        before = TextEncoders(said.vocabulary())(said, rows, last)[2]
    trained = train_text_encoders(tmp_path, said, 12)
    with torch.no_grad():
        after = trained(said, rows, last)[2]
    assert after < 0.7 * before
    again = train_text_encoders(tmp_path, said, 12)
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), again.parameters(), strict=True))
