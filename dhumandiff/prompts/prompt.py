"""From a sentence to the tokens that stand for each person.

    prompt = parse_prompt("A man@1 and a woman@2 on a bench. The man@1 wears a tuxedo.")
    bound = locate_tokens(prompt, tokenize)        # tokenize: the host's own, text -> flat list of tokens
    print(describe_tokens(prompt, bound))

Pure text: no torch, no tokenizer of its own. `word@1` marks the word for person 1; `\\@` is a plain @, and so is an @
without a number behind it. Without any mark, person nouns are looked for (person_nouns.py). That words are mapped is
the method (METHOD.md section 1, "subject-augmented conditioning"); how they are found is this project's choice.
"""

import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Literal

from ..errors import PromptError
from .person_nouns import find_people

__all__ = [
    "Mention",
    "Piece",
    "Prompt",
    "SubjectToken",
    "describe_tokens",
    "locate_tokens",
    "parse_prompt",
    "split_sentences",
    "split_weights",
]

# Words that hardly anybody types; several, because none may share a token with the prompt. The last are for tokenizers
# that know single letters only.
_FENCES = ("qzxv", "zjqk", "xqwj", "vvqxx", "kzjwq", "※", "☃", "§", "¶", "◊")


@dataclass(frozen=True)
class Mention:
    """A word that names a person: `text[start:end] == word` of its Prompt; persons count from 1."""

    person: int
    start: int
    end: int
    word: str


@dataclass(frozen=True)
class Piece:
    """A stretch of a sentence, to be shown: whom it names, from 1 on and 0 for nobody, and whether it carries their face."""

    text: str
    person: int = 0
    bound: bool = False


@dataclass(frozen=True)
class Prompt:
    """A sentence without its marks (weights and embeddings are still in it), and who is named where, in order."""

    text: str
    mentions: tuple[Mention, ...]

    def unnamed_persons(self, persons: int) -> tuple[int, ...]:
        """Those of persons 1..`persons` whom no word names: legal when others are marked, and worth a note."""
        named = {mention.person for mention in self.mentions}
        return tuple(person for person in range(1, persons + 1) if person not in named)

    def pieces(self, named: Iterable[Mention] = ()) -> tuple[Piece, ...]:
        """The sentence cut at its mentions; together the texts are `text` again.

        `named` are mentions of the same text that may carry no face, such as those that "all" finds beside "first".
        """
        found: list[Piece] = []
        done = 0
        bound = {mention.start: mention for mention in self.mentions}
        for start, mention in sorted(({m.start: m for m in named} | bound).items()):
            if start < done:
                continue
            found += [Piece(self.text[done:start]), Piece(mention.word, mention.person, start in bound)]
            done = mention.end
        return tuple(piece for piece in (*found, Piece(self.text[done:])) if piece.text)

    def notes(self, persons: int) -> tuple[str, ...]:
        """What a user should know of this sentence about persons 1..`persons`: who is not named, and who is named too early.

        The order matters since every person has key/value projections of their own, and what tells the picture which of
        them belong where is the order in which the sentence names people (METHOD section 1: "person 1 is index 2, person 2
        is index 5"); in weights trained with `augment.swap_order` it does not.
        """
        notes = [
            f"No word names person {person}: the face counts, but no word carries it. Write word@{person}."
            for person in self.unnamed_persons(persons)
        ]
        order = list(dict.fromkeys(m.person for m in sorted(self.mentions, key=lambda mention: mention.start)))
        for early, late in itertools.pairwise(order):
            if early > late:
                notes.append(
                    f"Person {early} is named before person {late}, and weights tell people apart by who is named first. If the "
                    "faces come out on the wrong people, exchange the two photos and the marks."
                )
                break
        return tuple(notes)


@dataclass(frozen=True)
class SubjectToken:
    """One token of a mention: `index` in the host's flat token list (no start, end or padding), `mention_index` in
    `Prompt.mentions`.
    """

    person: int
    index: int
    word: str
    mention_index: int


def parse_prompt(marked: str, persons: int = 2, mentions: Literal["first", "all"] = "first") -> Prompt:
    """Read who is who in a sentence.

    With marks, only marked words are mentions, and a person without one is legal (`Prompt.unnamed_persons`). The word
    is what stands directly before the mark: letters of any script, digits, inner hyphens ("bride-to-be@2"), the whole
    "embedding:name@1"; of "old man@1" it is "man", of "man's@1" and "man@1's" too. Marks stay inside weights:
    "(man@1:1.2)". Without marks, the rules of `person_nouns.find_people` hold.

    Args:
        marked: the sentence as typed.
        persons: how many people there are (references), 1 or more.
        mentions: "first": the first mention of each person, as released; "all": every one.

    Raises:
        PromptError: empty sentence, a mark that is unclear or names nobody, or people who cannot be told apart.
    """
    if persons < 1:
        raise PromptError(f"A prompt needs at least 1 person to name, not {persons}.")
    if mentions not in ("first", "all"):
        raise PromptError(f'mentions is "first" or "all", not {mentions!r}.')
    if not marked.strip():
        raise PromptError(
            'The prompt is empty. Write a sentence that names the people: "a man@1 and a woman@2 in a park".'
        )
    text, found = _read_marks(marked, persons)
    if not found:
        people = find_people(text, persons, every_mention=mentions == "all")
        found = [Mention(person, start, end, text[start:end]) for person, start, end in people]
    if mentions == "first":
        first: dict[int, Mention] = {}
        for mention in found:
            first.setdefault(mention.person, mention)
        found = list(first.values())
    return Prompt(text, tuple(found))


def split_sentences(text: str, before: str = "", after: str = "") -> list[str]:
    """One sentence a line, each with what all of them share before and behind it.

    Empty lines and lines that begin with # are left out.

    Raises:
        PromptError: no sentence is left.
    """
    lines = [line.strip() for line in text.splitlines()]
    kept = [line for line in lines if line and not line.startswith("#")]
    if not kept:
        said = "every line begins with #, which leaves it out" if any(lines) else "the text is empty"
        raise PromptError(
            f"There is no sentence: {said}. Write one sentence a line, such as: a man@1 and a woman@2 in a park"
        )
    return [" ".join(filter(None, (before.strip(), line, after.strip()))) for line in kept]


def _read_marks(marked: str, persons: int) -> tuple[str, list[Mention]]:
    """The text without its marks, and the marked words."""
    text, done, floor = "", 0, 0  # floor: where the last mark stood; a word never reaches behind it
    found: list[Mention] = []
    for match in re.finditer(r"\\@|@([0-9]+)([A-Za-z_]|\.[0-9A-Za-z])?", marked):
        text += marked[done : match.start()]
        done = match.end()
        if match[1] is None:
            text += "@"
            continue
        mark = "@" + match[1]
        near = " ".join(marked[max(0, match.start() - 20) : match.end() + 10].split())
        if match[2]:
            raise PromptError(
                f'"{near}" is not clear: put a space behind {mark} if it marks a person, or write \\@ for a plain @.'
            )
        start, end = _word_before(text, floor)
        if start == end:
            raise PromptError(
                f'In "{near}" no word stands directly before {mark}. Put the mark behind the word itself, inside '
                f"brackets and quotes: man{mark}, (man{mark}:1.2). For a plain @ write \\@."
            )
        number = int(match[1])
        if not 1 <= number <= persons:
            there = "there is 1 person, @1" if persons == 1 else f"there are {persons} people, @1 to @{persons}"
            raise PromptError(f'"{text[start:end]}{mark}" names person {number}, but {there}. Write \\@ for a plain @.')
        found.append(Mention(number, start, end, text[start:end]))
        floor = len(text)
    return text + marked[done:], found


def _word_before(text: str, floor: int) -> tuple[int, int]:
    """Start and end of the word that ends the text; equal when there is none. An apostrophe parts words ("l'homme")."""
    embedding = re.search(r"(?<!\w)embedding:[^\s()<>\[\],]+$", text[floor:])
    if embedding:
        return floor + embedding.start(), len(text)
    start, end = _run_before(text, floor, len(text))
    if text[start:end] in ("s", "S") and start > floor and text[start - 1] in "'’":
        owner = _run_before(text, floor, start - 1)  # "man's": the man
        if owner[0] < owner[1]:
            return owner
    return start, end


def _run_before(text: str, floor: int, end: int) -> tuple[int, int]:
    def in_word(i: int) -> bool:
        if i < floor:
            return False
        # Combining accents, vowel signs and joiners belong to words, which \w does not know.
        return text[i].isalnum() or text[i] in "_\u200c\u200d" or unicodedata.category(text[i]).startswith("M")

    start = end
    while in_word(start - 1) or (start < end and start > floor and text[start - 1] in "-‐‑" and in_word(start - 2)):
        start -= 1
    return start, end


def locate_tokens(prompt: Prompt, tokenize: Callable[[str], Sequence[Any]]) -> tuple[SubjectToken, ...]:
    """Find the tokens of every mention, whatever the host's tokenizer is.

    Each word is fenced by two rare words, the text tokenised again, and the fences found in the result: what stands
    between them are the word's tokens. Taking the fences out must give the plain text's tokens, else the word was glued
    to its neighbours. A word of several tokens gives one SubjectToken for each.

    Args:
        prompt: from `parse_prompt`.
        tokenize: text -> its tokens in one flat list without start, end and padding, under the host's rules (weights,
            embeddings). A token is an int, or any other object for an embedding's vector.

    Returns:
        The tokens in order of `prompt.mentions`, `index` counting from 0.

    Raises:
        PromptError: a word could not be located, or has no token.
    """
    plain = list(tokenize(prompt.text))
    fences = _usable_fences(plain, tokenize) if prompt.mentions else []
    bound: list[SubjectToken] = []
    for number, mention in enumerate(prompt.mentions):
        spans = (_locate(prompt.text, mention, plain, *fence, tokenize) for fence in fences)
        span = next((span for span in spans if span is not None), None)
        word = f'"{mention.word}" (person {mention.person}, character {mention.start + 1} of the prompt)'
        if span is None:
            raise PromptError(
                f"The word {word} could not be located among the text encoder's tokens. Put a space before and "
                f"behind it, or choose another word for this person."
            )
        if not span:
            raise PromptError(
                f"The word {word} has no token, so no face can be bound to it. If it is an embedding, check that its "
                f"file is there and fits the text encoder; else choose another word."
            )
        bound += [SubjectToken(mention.person, index, mention.word, number) for index in span]
    return tuple(bound)


def _usable_fences(plain: Sequence[Any], tokenize: Callable[[str], Sequence[Any]]) -> list[tuple[str, list[Any]]]:
    """Fence words that share no token with the text, each with its tokens."""
    taken = {int(token) for token in plain if isinstance(token, Integral)}
    fences = [(fence, list(tokenize(fence))) for fence in _FENCES]
    return [
        (fence, tokens)
        for fence, tokens in fences
        if tokens and all(isinstance(token, Integral) and int(token) not in taken for token in tokens)
    ]


def _locate(
    text: str,
    mention: Mention,
    plain: Sequence[Any],
    fence: str,
    fence_tokens: Sequence[Any],
    tokenize: Callable[[str], Sequence[Any]],
) -> range | None:
    """The mention's indices in `plain`; None when this fence does not show them."""
    before, word, behind = text[: mention.start], text[mention.start : mention.end], text[mention.end :]
    fenced = list(tokenize(f"{before} {fence} {word} {fence} {behind}"))
    width = len(fence_tokens)
    if len(fenced) != len(plain) + 2 * width:
        return None
    starts = [i for i in range(len(fenced) - width + 1) if _same(fenced[i : i + width], fence_tokens)]
    if len(starts) != 2 or starts[1] < starts[0] + width:
        return None
    opening, closing = starts
    if not _same(fenced[:opening] + fenced[opening + width : closing] + fenced[closing + width :], plain):
        return None
    return range(opening, closing - width)


def _same(ours: Sequence[Any], theirs: Sequence[Any]) -> bool:
    """Equal ids at equal places; two embedding vectors count as equal (hosts may read them anew each time)."""

    def equal(a: Any, b: Any) -> bool:
        ids = isinstance(a, Integral), isinstance(b, Integral)
        return int(a) == int(b) if all(ids) else not any(ids)

    return len(ours) == len(theirs) and all(map(equal, ours, theirs))


def describe_tokens(
    prompt: Prompt, bound: Sequence[SubjectToken], token_text: Callable[[int], str] | None = None
) -> str:
    """Say for people which words, and which tokens, stand for whom: one line a mention, by person.

    Tokens are numbered from 1, which is the position that the released script wants (it counts the start token as 0).
    `token_text` turns a SubjectToken's `index` into the token's text.
    """
    if not prompt.mentions:
        return "No word is bound to a person."
    lines = []
    for number, mention in sorted(enumerate(prompt.mentions), key=lambda item: (item[1].person, item[1].start)):
        tokens = [token.index for token in bound if token.mention_index == number]
        names = [f"{index + 1} {token_text(index)!r}" if token_text else str(index + 1) for index in tokens]
        plural = "s" if len(names) > 1 else ""
        where = f"token{plural} {', '.join(names)}" if names else "no token"
        lines.append(f"Person {mention.person}: {_in_context(prompt.text, mention)}, {where}")
    return "\n".join(lines)


def _in_context(text: str, mention: Mention, reach: int = 20) -> str:
    left = text[max(0, mention.start - reach) : mention.start]
    right = text[mention.end : mention.end + reach]
    before = "..." + left if mention.start > reach else left
    behind = right + "..." if len(text) > mention.end + reach else right
    return " ".join(f"{before}[{mention.word}]{behind}".split())


def split_weights(text: str) -> list[tuple[str, float]]:
    r"""Split a prompt into (segment, weight), in order, by the bracket syntax of A1111 and ComfyUI.

    "(word)" is 1.1 times its surroundings, "(word:1.2)" is 1.2 whatever surrounds it, brackets nest, "\(" and "\)" are
    plain brackets. Unbalanced brackets are read as ComfyUI's comfy.sd1_clip.token_weights reads them. Empty groups
    vanish.
    """
    segments: list[tuple[str, float]] = []
    waiting = [(re.findall(r"\\[()]|.", text, re.DOTALL), 1.0)]  # a stack, so that deep nesting costs no recursion
    while waiting:
        atoms, weight = waiting.pop()
        pieces = _pieces(atoms)
        if len(pieces) == 1 and not _is_group(pieces[0]):
            segments.append(("".join(atom[-1] if atom in (r"\(", r"\)") else atom for atom in pieces[0]), weight))
            continue
        # Groups and text in between go back on the stack, last first, so that they come off in order.
        waiting += [_unwrap(piece, weight) if _is_group(piece) else (piece, weight) for piece in reversed(pieces)]
    return segments


def _pieces(atoms: list[str]) -> list[list[str]]:
    """Outermost groups, brackets included, and the text between them."""
    pieces: list[list[str]] = [[]]
    depth = 0
    for atom in atoms:
        if atom == "(" and depth == 0:
            pieces.append([])
        pieces[-1].append(atom)
        depth += (atom == "(") - (atom == ")")
        if atom == ")" and depth == 0:
            pieces.append([])
    return [piece for piece in pieces if piece]


def _is_group(piece: list[str]) -> bool:
    return len(piece) > 1 and piece[0] == "(" and piece[-1] == ")"


def _unwrap(group: list[str], weight: float) -> tuple[list[str], float]:
    """A group's inside and its weight: the number behind the last colon, else 1.1 times the surroundings'."""
    inside = group[1:-1]
    colon = max((i for i, atom in enumerate(inside) if atom == ":"), default=0)
    if colon > 0:
        try:
            return inside[:colon], float("".join(inside[colon + 1 :]))
        except ValueError:
            pass
    return inside, weight * 1.1
