"""Which tokens stand for whom, under the rules of any host's tokenizer."""

import json
import random
import re
import subprocess
import sys

import pytest
from support.comfyui import COMFYUI, REPOSITORY, why_not
from support.refused import refused
from support.sentences import CAPTION

from dhumandiff.prompts import Prompt, describe_tokens, locate_tokens, parse_prompt, split_weights

TOKENIZERS = (REPOSITORY / "dhumandiff" / "tokenizer", COMFYUI / "comfy" / "sd1_tokenizer")


class Vector:
    """Stands for an embedding's tensor: comparing it is a mistake, as it is with tensors."""

    __hash__ = None

    def __eq__(self, other):
        raise AssertionError("embedding vectors must not be compared")


def word_tokens(text):
    """Plain words and signs; ids from their letters, so that equal words have equal ids."""
    return [int.from_bytes(word.encode(), "big") for word in re.findall(r"\w+|[^\w\s]+", text.lower())]


def host_tokens(tokenize_plain, embeddings):
    """ComfyUI's rules around a tokenizer: weights parsed first, then embeddings by name, read anew at each call."""

    def tokenize(text):
        tokens = []
        for segment, _ in split_weights(text):
            for part in re.split(r"(?:^|(?<=\s))(embedding:\S+)", segment):
                if not part.startswith("embedding:"):
                    tokens += tokenize_plain(part)
                    continue
                name = part.removeprefix("embedding:")
                tokens += [Vector() for _ in range(embeddings.get(name.rstrip(","), 0))]
                tokens += tokenize_plain(name[len(name.rstrip(",")) :])
        return tokens

    return tokenize


@pytest.fixture(scope="session")
def clip_tokenizer():
    transformers = pytest.importorskip("transformers")
    folder = next((folder for folder in TOKENIZERS if (folder / "vocab.json").is_file()), None)
    if folder is None:
        pytest.skip(f"no CLIP vocabulary in {' or '.join(map(str, TOKENIZERS))}")
    return transformers.CLIPTokenizer.from_pretrained(folder)


@pytest.fixture(params=["words", "clip"])
def tokenize(request):
    if request.param == "words":
        return host_tokens(word_tokens, {"two": 2, "one": 1})
    tokenizer = request.getfixturevalue("clip_tokenizer")
    return host_tokens(lambda text: tokenizer(text, add_special_tokens=False)["input_ids"], {"two": 2, "one": 1})


def indices(marked, tokenize, mentions="first"):
    return [(token.person, token.index) for token in locate_tokens(parse_prompt(marked, 2, mentions), tokenize)]


def test_positions_are_those_of_the_released_script(tokenize):
    assert indices("A man and a woman on a bench", tokenize) == [(1, 1), (2, 4)]  # 2 and 5 with the start token


@pytest.mark.parametrize(
    ("marked", "expected"),
    [
        ("(A man@1:1.2) and ((a woman@2))", [(1, 1), (2, 4)]),
        ("(A (young:0.5) man@1:1.3) and\n\na woman@2's hat", [(1, 2), (2, 5)]),
        ("man@1 woman@2", [(1, 0), (2, 1)]),
        ("man@1/woman@2", [(1, 0), (2, 2)]),
        (r"\(man@1\) woman@2", [(1, 1), (2, 3)]),
        ("A embedding:two@1 and (embedding:one@2:1.1), here", [(1, 1), (1, 2), (2, 4)]),
        ("A embedding:one, then a embedding:two man@1", [(1, 7)]),
        ("bride-to-be@1 and woman@2", [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (2, 6)]),
    ],
)
def test_tokens_are_found_among_weights_embeddings_and_signs(marked, expected, tokenize):
    assert indices(marked, tokenize) == expected


def test_the_same_word_twice_is_told_apart(tokenize):
    assert indices("a woman and a woman", tokenize) == [(1, 1), (2, 4)]
    assert indices("a woman, a woman@2 and a woman@1", tokenize) == [(2, 4), (1, 7)]


def test_captions_longer_than_one_chunk(clip_tokenizer):
    def tokens(text):
        return clip_tokenizer(text, add_special_tokens=False)["input_ids"]

    prompt = parse_prompt(CAPTION, mentions="all")
    ids = tokens(prompt.text)
    located = locate_tokens(prompt, tokens)
    assert [clip_tokenizer.decode([ids[token.index]]).strip() for token in located] == [m.word for m in prompt.mentions]
    assert located[-1].index > 77


def test_a_word_of_several_tokens_gives_one_for_each(clip_tokenizer):
    def tokens(text):
        return clip_tokenizer(text, add_special_tokens=False)["input_ids"]

    ids = tokens("a bridegroomish fellow and a woman")
    located = locate_tokens(parse_prompt("a bridegroomish@1 fellow and a woman@2"), tokens)
    first = [token.index for token in located if token.person == 1]
    assert len(first) > 1
    assert clip_tokenizer.decode([ids[index] for index in first]).strip() == "bridegroomish"
    assert [token.mention_index for token in located] == [0] * len(first) + [1]


def test_random_prompts_give_each_word_its_own_tokens(tokenize):
    chance = random.Random(2)
    fillers = ["a", "the", "red", "hat,", "(bench:1.2)", "((stone))", "café", "\n", "...", "qzxv", "zjqk xqwj", "☃"]
    fillers += ["embedding:two", r"\(x\)", "8k", "don't", "—", "old-fashioned", "grandmotherly", "@", "花"]
    names = [
        "man",
        "woman",
        "Grandmother",
        "bride-to-be",
        "señora",
        "embedding:one",
        "embedding:two",
        "Xyzzyqwert",
        "47",
    ]
    wrappers = ["{}", "({})", "({}:1.3)", '"{}"', "{},", "({}.)"]
    for _ in range(60):
        parts, wanted, length = [], [], 0
        for _ in range(chance.randrange(1, 40)):
            person = chance.choice((0, 0, 1, 2))
            word = chance.choice(names if person else fillers)
            wrapper = chance.choice(wrappers) if person and not word.startswith("embedding") else "{}"
            opening = len(tokenize('"')) if wrapper == '"{}"' else 0
            width = len(tokenize(word))
            if person:
                wanted += [(person, length + opening + i) for i in range(width)]
            parts.append(wrapper.format(word + (f"@{person}" if person else "")))
            length += len(tokenize(wrapper.format(word)))
        if wanted:
            assert indices(" ".join(parts), tokenize, "all") == wanted, parts


def test_a_sentinel_in_the_prompt_is_not_used(tokenize):
    assert indices("qzxv zjqk xqwj man@1 qzxv vvqxx woman@2 kzjwq", tokenize)[0][0] == 1


class Tokenizer:
    """Counts what it is asked."""

    def __init__(self):
        self.asked = []

    def __call__(self, text):
        self.asked.append(text)
        return word_tokens(text)


def test_a_tokenizer_is_asked_for_sentinels_once():
    tokenizer = Tokenizer()
    first = locate_tokens(parse_prompt("a man@1 and a woman@2"), tokenizer, tokenizer)
    assert len(tokenizer.asked) == 3  # the text, a sentinel, and the text with it around all words
    assert locate_tokens(parse_prompt("a man@1 and a woman@2"), tokenizer, tokenizer) == first
    assert len(tokenizer.asked) == 5


@pytest.mark.parametrize("times", [10, 700])
def test_time_grows_with_the_text_not_with_its_mentions(times):
    prompt = parse_prompt("a man@1 and a woman@2. " * times, mentions="all")
    tokenizer = Tokenizer()
    located = locate_tokens(prompt, tokenizer, tokenizer)
    assert len(tokenizer.asked) == 3
    assert [token.index for token in located] == [6 * i + at for i in range(times) for at in (1, 4)]
    assert len(describe_tokens(prompt, located).splitlines()) == 2 * times


class Glued(Tokenizer):
    """Parts words at blanks alone."""

    def __call__(self, text):
        self.asked.append(text)
        return [hash(run) for run in text.split()]


def test_one_word_among_many_that_cannot_be_located_is_named():
    tokenizer = Glued()
    with refused("word-not-located", '"clerk" (person 1, character '):
        locate_tokens(parse_prompt("a man@1 " * 300 + "a clerk@1\u0301 " + "a man@1 " * 300, mentions="all"), tokenizer)
    assert len(tokenizer.asked) < 300


def test_mentions_in_any_order_are_located(tokenize):
    prompt = parse_prompt("a man@1 and a woman@2 and a boy@1", mentions="all")
    turned = Prompt(prompt.text, prompt.mentions[::-1])
    assert [(token.word, token.index) for token in locate_tokens(turned, tokenize)] == [
        ("boy", 7),
        ("woman", 4),
        ("man", 1),
    ]


def test_a_tokenizer_of_single_letters_is_served():
    def letters(text):
        return [ord(letter) for letter in text if not letter.isspace()]

    text = "a man@1 quizzes xavier, joking, with a woman@2 by the quick brown vjkwz"
    located = locate_tokens(parse_prompt(text), letters)
    assert [token.index for token in located] == [1, 2, 3, *range(30, 35)]


@pytest.mark.parametrize("marked", ["男人@1和女人@2", "a man@1\u0301"])
def test_a_word_glued_to_its_neighbors_is_refused(marked):
    def glued(text):
        return [hash(run) for run in text.split()]

    word = parse_prompt(marked).mentions[0].word
    with refused("word-not-located", f'"{word}" (person 1, character '):
        locate_tokens(parse_prompt(marked), glued)


def test_an_embedding_that_is_not_there_is_refused(tokenize):
    with refused("word-without-token", '"embedding:none" (person 1', "check that its file"):
        locate_tokens(parse_prompt("a embedding:none@1 sits"), tokenize)


def test_a_prompt_without_mentions_has_no_tokens(tokenize):
    assert locate_tokens(Prompt("a bench", ()), tokenize) == ()


def test_subject_tokens_are_described_for_people():
    prompt = parse_prompt("A bride-to-be@2 and a man@1 on a long wooden bench in a garden")
    located = locate_tokens(prompt, word_tokens)
    words = re.findall(r"\w+|[^\w\s]+", prompt.text)
    lines = describe_tokens(prompt, located, words.__getitem__).splitlines()
    assert lines == [
        "Person 1: A bride-to-be and a [man] on a long wooden be..., token 9 'man'",
        "Person 2: A [bride-to-be] and a man on a long..., tokens 2 'bride', 3 '-', 4 'to', 5 '-', 6 'be'",
    ]
    assert describe_tokens(prompt, located).splitlines()[0].endswith("token 9")
    assert describe_tokens(Prompt("a bench", ()), ()) == "No word is bound to a person."


# --- beside ComfyUI


HOST = r"""
import json, sys
from types import SimpleNamespace
repository, comfyui, folder = sys.argv[1:]
sys.path[:0] = [repository, comfyui]
sys.argv = sys.argv[:1]
import comfy.cli_args
comfy.cli_args.args.cpu = True
from comfy.sd1_clip import SDTokenizer, escape_important, token_weights, unescape_important
from dhumandiff.prompts import locate_tokens, parse_prompt
given = json.load(sys.stdin)
weights = [[[unescape_important(s), w] for s, w in token_weights(escape_important(t), 1.0)] for t in given["weights"]]
tokenizer = SDTokenizer(embedding_directory=folder)
def flat(text):
    rows = tokenizer.tokenize_with_weights(text, return_word_ids=True)
    return [token for row in rows for token, _, word in row if word != 0]
located = []
for marked in given["prompts"]:
    prompt = parse_prompt(marked, mentions="all")
    tokens = flat(prompt.text)
    names = [tokenizer.inv_vocab[t].replace("</w>", "") if isinstance(t, int) else "vector" for t in tokens]
    located.append([[b.person, b.index, names[b.index]] for b in locate_tokens(prompt, flat)])
print(json.dumps({"weights": weights, "located": located}))
"""


@pytest.mark.host
@pytest.mark.skipif(why_not() is not None, reason=str(why_not()))
def test_weights_and_tokens_agree_with_comfyui(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    save_file({"clip_l": torch.ones(2, 768)}, tmp_path / "us.safetensors")
    chance = random.Random(4)
    atoms = ["(", ")", "(", ")", ":", "1.2", ":0.5)", "man", " ", "\\(", "\\)", "\\", ",", "\n", "nan", "1_0", ": 3 )"]
    texts = ["".join(chance.choices(atoms, k=chance.randrange(1, 14))) for _ in range(2000)]
    prompts = [
        "A man and a woman on a bench",
        "(A man@1:1.2), embedding:us@2, and (embedding:us@1:0.8)",
        CAPTION,
        r"\(man@1\) bride-to-be@2's",
    ]
    answer = subprocess.run(
        [sys.executable, "-c", HOST, str(REPOSITORY), str(COMFYUI), str(tmp_path)],
        input=json.dumps({"weights": texts, "prompts": prompts}),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    answer = json.loads(answer.stdout.splitlines()[-1])
    for text, theirs in zip(texts, answer["weights"], strict=True):
        assert repr(split_weights(text)) == repr([tuple(segment) for segment in theirs]), text
    short, embedded, long, hyphens = answer["located"]
    assert short == [[1, 1, "man"], [2, 4, "woman"]]
    assert [(person, name) for person, _, name in embedded] == [(1, "man")] + [(2, "vector")] * 2 + [(1, "vector")] * 2
    assert [name for _, _, name in long] == ["man", "woman", "man", "groom", "bride", "woman"]
    assert [name for _, _, name in hyphens] == ["man", "bride", "-", "to", "-", "be"]
