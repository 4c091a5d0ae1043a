"""Who is named by an English sentence without @-tags: a list of person nouns, with reasons, and the rules that read it.

This project's choice throughout (the released script takes token positions by hand). One thought leads it: a wrong
guess paints the wrong face without a word, while an error names the words to mark. So whatever is not clear is an
error as long as a person is still to be found, and is left alone once all are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest

from ..errors import PromptError
from .prompt import check_length
from .typed import fold

__all__ = ["Noun", "find_people", "noun_of"]

# (gender, age, role, nouns): an empty field fits any other. Two nouns can mean one person when all three fields fit.
# "man" and "groom" do; "man" and "boy" do not (age), nor do "bride" and "mother" (role: no caption of two people
# calls one person both). Sons and daughters count as children: they are the younger ones of their picture.
_TABLE = (
    ("m", "adult", "", "man male gentleman gent guy dude bloke fellow businessman"),
    ("f", "adult", "", "woman female lady gal businesswoman"),
    # "boy" and "girl" may be young adults; read as children they are never taken for the man or the woman.
    ("m", "child", "", "boy lad schoolboy"),
    ("f", "child", "", "girl lass schoolgirl"),
    ("", "child", "", "child kid baby infant toddler newborn"),
    ("", "", "", "person teenager teen youngster"),
    # Weddings and couples are most of PairHuman.
    ("m", "adult", "spouse", "groom bridegroom husband hubby boyfriend fiancé"),
    ("f", "adult", "spouse", "bride wife girlfriend fiancée"),
    ("", "adult", "spouse", "spouse partner lover sweetheart newlywed fiance fiancee"),  # without accents: either one
    ("m", "", "attendant", "groomsman|best man|page boy"),
    ("f", "", "attendant", "bridesmaid|maid of honor|maid of honour|flower girl"),
    # Families. "mummy" is left out: it is as often the Egyptian one.
    ("f", "adult", "parent", "mother mom mum mama momma mommy stepmother mother-in-law"),
    ("m", "adult", "parent", "father dad daddy papa stepfather father-in-law"),
    ("", "adult", "parent", "parent"),
    ("m", "child", "descendant", "son grandson stepson nephew"),
    ("f", "child", "descendant", "daughter granddaughter stepdaughter niece"),
    ("", "child", "descendant", "grandchild"),
    ("m", "", "sibling", "brother stepbrother brother-in-law"),
    ("f", "", "sibling", "sister stepsister sister-in-law"),
    ("", "", "sibling", "sibling twin cousin"),
    ("m", "adult", "grandparent", "grandfather grandpa granddad grandad"),
    ("f", "adult", "grandparent", "grandmother grandma granny"),
    ("", "adult", "grandparent", "grandparent"),
    ("m", "adult", "relative", "uncle"),
    ("f", "adult", "relative", "aunt auntie"),
    ("", "", "friend", "friend buddy pal companion classmate colleague roommate neighbor neighbour"),
    # Costume portraits. Trades are left out: "chef", "nurse" and "soldier" describe clothes as often as people.
    ("m", "", "royal", "king prince"),
    ("f", "", "royal", "queen princess"),
)
_COLLECTIVES = ("couple", "duo", "family", "people", "folks")  # several people, none of them by a word of their own

# The noun is there and no person is: flowers, colors, hair, furniture, and clothes or things said with a noun before.
_NOT_PEOPLE = re.compile(
    r"""(?<![\w'’])(?:baby['’]?s[ ]breath | baby[ -](?:blue|pink|bump|grand) | man[ -]buns? | mother[ ]of[ ]pearl
    | father[ ]christmas | (?:king|queen)[ -]sized? | queen[ ]anne | lady['’]?s[ ]slippers? | (?:girl|boy)[ ]scouts?
    | \w+(?:['’]s)?[ ](?:dress(?:es)?|gown|suit|outfit|costume|uniform|clothes|hat|crown|jeans|seat|bed|carriage|stroller
      |shower|dolls?|statues?|statuettes?|figurines?|cave))(?![\w-])""",
    re.VERBOSE,
)
_NEW = frozenset(("a", "an", "another", "one", "1"))
_THE = frozenset(("the", "this", "that", "these", "those", "both"))
_POSSESSIVE = frozenset(("his", "her", "their", "its", "my", "our", "your"))
_ORDINALS = {"first": 0, "1st": 0, "second": 1, "2nd": 1, "third": 2, "3rd": 2, "fourth": 3, "4th": 3}
_LATER = frozenset(("other", *(word for word, index in _ORDINALS.items() if index)))  # than the first of their kind
_AS = frozenset(("as", "like", "being", "becomes"))  # "a man dressed as a king" is one person
_IS = frozenset(("is", "was"))  # "she is a mother" is one person, "beside her is a lady" two
# Between two people: what follows is another person.
_LINK_WORDS = """and or but & plus while with of in on at by near beside besides behind before under over to from for
into onto against between among around beneath alongside next hugs hugging kisses kissing holds holding"""
_LINK = frozenset(_LINK_WORDS.split())
_STOP = _LINK | _AS | _IS | {"are", "were", "be", "has", "have", "wears", "wear", "wearing", "who"}
_MARKS = r"\w\u0300-\u036f"  # letters, digits and combining accents: what a noun must not touch


@dataclass(frozen=True)
class Noun:
    """What a noun says about whom it names; `singular` is None for collectives."""

    gender: str
    age: str
    role: str
    singular: str | None
    plural: bool = False

    def fits(self, other: Noun) -> bool:
        """Whether both nouns can name one person."""
        pairs = ((self.gender, other.gender), (self.age, other.age), (self.role, other.role))
        return all(not a or not b or a == b for a, b in pairs)


@dataclass(frozen=True)
class _Named:
    """One noun in the text: where, how it is introduced (`article`), with which adjectives, after which word."""

    noun: Noun
    start: int
    end: int
    article: str  # "new" (a woman), "the", "possessive" (her friend), "bare" (woman), "unclear" (a slim, tall woman)
    adjectives: frozenset[str]
    lead: str  # the word before the article; "" at the start of a clause
    same_sentence: bool  # as the noun before it


def _plural(noun: str) -> str:
    if noun.endswith("man"):
        return noun[:-3] + "men"
    if noun.endswith("child"):
        return noun + "ren"
    if noun.endswith(("dy", "by", "my", "ny")):
        return noun[:-1] + "ies"
    if noun.endswith("wife"):
        return noun[:-2] + "ves"
    head, hyphen, tail = noun.partition("-")  # mothers-in-law
    return head + "s" + hyphen + tail


@cache
def _lexicon() -> tuple[dict[str, Noun], re.Pattern[str]]:
    nouns: dict[str, Noun] = {}
    for gender, age, role, words in _TABLE:
        for word in words.split("|" if "|" in words else None):
            nouns[_plural(word)] = Noun(gender, age, role, word, plural=True)
            nouns[word] = Noun(gender, age, role, word)
    nouns.update({word: Noun("", "", "", None, plural=True) for word in _COLLECTIVES})
    longest_first = "|".join(map(re.escape, sorted(nouns, key=len, reverse=True)))
    # Whole words only: not in "snowman", "mankind" or "man-made"; "1girl" is how tag prompts say "one girl".
    pattern = (
        rf"(?:(?<![{_MARKS}])|(?<=(?<![{_MARKS}])\d))(?<![{_MARKS}]-)({longest_first})(?:-to-be)?(?![{_MARKS}]|-\w)"
    )
    return nouns, re.compile(pattern)


def noun_of(word: str) -> Noun | None:
    """What a person noun ("woman", "grooms", "couple") says about whom it names; None for any other word."""
    return _lexicon()[0].get(fold(word).lower())


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])


def _nouns(text: str) -> list[_Named]:
    """Every person noun of the text, in order."""
    lexicon, pattern = _lexicon()
    # Positions are kept: letters whose small form is longer stay as they are, and blanks take the place of weights,
    # brackets and embeddings.
    plain = "".join(letter.lower() if len(letter.lower()) == 1 else letter for letter in fold(text))
    plain = re.sub(r"(?<!\w)embedding:[^\s()]+", _blank, plain)
    plain = re.sub(r":\s*[\d.]+\s*(?=\))|[()\[\]{}\"“”*\\]", _blank, plain)
    plain = _NOT_PEOPLE.sub(lambda found: "x" * len(found[0]), plain)
    matches = list(pattern.finditer(plain))
    found, floor = [], 0
    for match, following in zip_longest(matches, matches[1:]):
        if following and plain[match.end() : following.start()].isspace():
            continue  # "baby girl", "twin sisters": the first noun describes the second
        between = plain[floor : match.start()]
        article, adjectives, lead = _article(between)
        head = match.start() + match[1].rfind(" ") + 1  # of "best man" the word is "man"
        same_sentence = not re.search(r"[.;!?]", between)
        found.append(_Named(lexicon[match[1]], head, match.end(), article, adjectives, lead, same_sentence))
        floor = match.end()
    return found


def _article(between: str) -> tuple[str, frozenset[str], str]:
    """How a noun is introduced, read backwards from it: (article, adjectives, word before the article)."""
    words = re.findall(r"['’]?[^\W_]+(?:['’][^\W_]+)?|[.,;:!?&]", between)
    adjectives: list[str] = []
    comma = False
    while words and len(adjectives) < 5:
        word = words.pop()
        if word in ".;:!?":
            break
        if word == ",":
            comma = True
        elif word in _NEW | _THE | _POSSESSIVE or word.endswith(("'s", "’s")):
            kind = "new" if word in _NEW else "the" if word in _THE else "possessive"
            lead = "" if word == "another" or not words else words[-1]
            return "unclear" if comma else kind, frozenset(adjectives), lead
        elif word in _STOP:
            return "bare", frozenset(), "" if comma else word
        else:
            adjectives.append(word)
    return "unclear" if len(adjectives) == 5 else "bare", frozenset(), ""


def find_people(text: str, persons: int) -> list[tuple[int, int, int]]:
    """The first `persons` people that a sentence without @-tags names, and every mention of theirs, in order of appearance.

    Who is new: a noun not seen before, and a seen one with "a", "another", "one", "the other", "the second". Who is
    meant again: the same noun with "the", a possessive or nothing before it, if one person only was
    named by it or its adjective tells ("the old man"). Another noun follows only when it is certain: after all persons
    were found, with "the" before it, and fitting exactly one of all people named so far in gender, age and role ("the
    groom" is the only man, "the bride" the only woman).

    Args:
        text: the sentence; weights, brackets and embeddings may be in it.
        persons: how many people have to be found.

    Returns:
        (person, start, end) in order of appearance; persons count from 1, positions are characters of `text`. Empty for
        a sentence that names no person, whose words are then encoded as they are.

    Raises:
        PromptError: fewer people than wanted, or it is not clear who is who. The message names the words.
    """
    nouns = _nouns(text)
    if not nouns:
        return []
    check_length(len(nouns))
    known: list[_Named] = []  # by first mention; the first `persons` are bound, the rest are bystanders
    groups: list[_Named] = []
    bound: list[tuple[int, int, int]] = []
    for named in nouns:
        missing = len(known) < persons
        if named.noun.plural:
            if named.article not in ("the", "possessive"):
                groups.append(named)
            continue
        person = _who(text, named, known, groups, missing)
        if person == len(known):
            known.append(named)
        if person is not None and person < persons:
            bound.append((person + 1, named.start, named.end))
        if missing and len(known) == persons:
            _refuse_unnamed_group(text, groups, known)
    if len(known) < persons:
        raise _too_few(text, nouns, known, persons)
    return bound


def _who(text: str, named: _Named, known: list[_Named], groups: list[_Named], missing: bool) -> int | None:
    """Index in `known`, its length for a new person, None where it is not certain and no person is still to be found."""
    same = [i for i, other in enumerate(known) if other.noun.singular == named.noun.singular]
    alike = [i for i, other in enumerate(known) if other.noun.fits(named.noun)]
    if named.article == "new":
        if not alike or (same and missing) or named.lead not in _AS | _IS:
            return len(known)
        if missing and named.lead in _IS:
            raise _doubt(text, named, known, alike[0])
        return None
    if same:
        return _again(text, named, known, same, missing)
    if not alike or named.article == "possessive" or named.adjectives & _LATER:
        return len(known)
    if missing:
        if named.lead in _LINK and named.same_sentence:
            return len(known)
        raise _doubt(text, named, known, alike[0])
    bystanders = any(group.noun.singular and group.noun.fits(named.noun) for group in groups)
    return alike[0] if named.article == "the" and len(alike) == 1 and not bystanders else None


def _again(text: str, named: _Named, known: list[_Named], same: list[int], missing: bool) -> int | None:
    """The same noun once more, without "a"."""
    index = min((_ORDINALS[word] for word in named.adjectives if word in _ORDINALS), default=None)
    if index != 0 and "other" in named.adjectives:
        return len(known) if len(same) == 1 else None
    if index is not None:
        if index > len(same) and missing:  # "the third woman" after one of them
            raise _doubt(text, named, known, same[-1])
        return same[index] if index < len(same) else len(known) if index == len(same) else None
    if len(same) > 1:
        telling = [i for i in same if known[i].adjectives & named.adjectives]
        return telling[0] if len(telling) == 1 else None
    earlier = known[same[0]]
    other_look = bool(earlier.adjectives and named.adjectives and not earlier.adjectives & named.adjectives)
    listed = named.same_sentence and earlier.article == "the"  # "the woman on the left, the woman on the right"
    if named.article == "unclear" or other_look or (missing and (listed or named.article == "bare")):
        if missing:
            raise _doubt(text, named, known, same[0])
        return None
    return same[0]


def _refuse_unnamed_group(text: str, groups: list[_Named], known: list[_Named]) -> None:
    """For "Two women, a man and a boy": none of those named is one of the women, so who is person 1 is anyone's guess."""
    for group in groups:
        if not any(group.noun.fits(person.noun) for person in known):
            raise PromptError(
                f'"{_quote(text, group)}" names several people at once, so it is not clear who is person 1. '
                f"Mark the words that mean them, for example {_tagged(text, known)}.",
                code="unnamed-group",
            )


def _quote(text: str, named: _Named) -> str:
    return text[named.start : named.end]


def _tagged(text: str, people: list[_Named]) -> str:
    return " and ".join(f"{_quote(text, named)}@{number}" for number, named in enumerate(people, 1))


def _doubt(text: str, named: _Named, known: list[_Named], earlier: int) -> PromptError:
    """`earlier`: who of `known` it may be."""
    around = " ".join(text[max(0, named.start - 25) : named.end + 15].split())
    first, second = _quote(text, known[earlier]), _quote(text, named)
    one, other = earlier + 1, len(known) + 1
    return PromptError(
        f'In "...{around}..." it is not clear whether "{second}" is the "{first}" named before or somebody else. '
        f"Mark who is who: {first}@{one} for the one person, {second}@{other} for the other (or {second}@{one} if it is the same).",
        code="unclear-person",
    )


def _too_few(text: str, nouns: list[_Named], known: list[_Named], persons: int) -> PromptError:
    wanted = "2 people" if persons == 2 else "1 person" if persons == 1 else f"{persons} people"
    several = next((named for named in nouns if named.noun.plural), None)
    if several is not None and not known:
        one = several.noun.singular
        example = (one, one) if one else ("man", "woman")
        example = (example * persons)[:persons]
        article = "an" if example[0][0] in "aeiou" else "a"
        advice = " and ".join(f"{article} {word}@{number}" for number, word in enumerate(example, 1))
        return PromptError(
            f'"{_quote(text, several)}" names several people with one word; write "{advice}" instead.',
            code="one-word-for-several",
        )
    names = ", ".join(f'"{_quote(text, named)}"' for named in known)
    also = f' ("{_quote(text, several)}" names several people at once)' if several is not None else ""
    return PromptError(
        f"The prompt has to name {wanted}, but only {names} was found{also}. Name the others too, or mark the "
        f"words that mean them: {_tagged(text, known)}, and @{len(known) + 1} behind the other person's word.",
        code="too-few-people-named",
    )
