"""A sentence as keyboards write it: full-width signs of Chinese, Japanese and Korean ones, and characters that nobody sees.

Only what is certain is read as its plain form: what looks like an @-tag, a weight or an embedding and has one full-width sign in
it. Any other sign is text and stays.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["AT", "JOINERS", "TAG", "fold", "tag_number", "without_hidden", "without_wide_weights"]

AT = "@\uff20\ufe6b"  # plain, full-width, small
JOINERS = "\u200c\u200d\ufe0e\ufe0f"  # letters of some scripts and emoji need them; at a tag they are leftovers
_DIGIT = (  # of any script; raised, circled, in brackets, with a full stop, Roman
    r"\d\u00b9\u00b2\u00b3\u2074-\u2079\u2460-\u2468\u2776-\u277e\u2780-\u2788\u278a-\u2792\u3280-\u3288"
    r"\u2474-\u247c\u3220-\u3228\u2488-\u2490\u2160-\u216b\u2170-\u217b"
)
_NUMERAL = "\u3007\u96f6\u4e00\u4e8c\u4e09\u56db\u4e94\u516d\u4e03\u516b\u4e5d\u5341\u58f9\u58f1\u8d30\u8cb3\u5f10\u53c1\u53c3"  # 0 to 10 of Chinese
# What surely begins another word behind a numeral: and, with, at, of, is, stand, sit, wear, hug, kiss. Not "one of ..." or "at first".
_PARTED = "\u548c\u4e0e\u8207\u8ddf\u53ca\u5728\u7684\u662f\u7ad9\u5750\u7a7f\u6234\u62e5\u64c1\u62b1\u543b"

TAG = re.compile(
    rf"[\\\uff3c][{AT}]"
    rf"|[{AT}](?:[{JOINERS}]*(?P<number>[{_DIGIT}]+|[{_NUMERAL}])[{JOINERS}\u20e3]*"
    r"(?P<glued>[A-Za-z_\uff21-\uff3a\uff41-\uff5a\uff3f]|\.[0-9A-Za-z]|\uff0e\d"
    rf"|(?<=[{_NUMERAL}])(?:(?![{_PARTED}])[\u3400-\u9fff\u3007]|[\u3064\d]))?"
    rf"|\s+(?P<apart>[{_DIGIT}]+)(?![{_DIGIT}.:\uff0e\uff1a]))"
)
"""`number`: an @-tag; `glued`: what makes it unclear; `apart`: a number behind @ and a blank. None of them: an escaped @."""

# Soft hyphen, zero-width space, marks of direction, byte order mark ...: no letter, and no part of one.
_HIDDEN = re.compile("[\u00ad\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]")

_FOLDED = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}  # full-width forms of ASCII
_BLANKS = "\u00a0\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_FOLD = _FOLDED | dict.fromkeys(map(ord, _BLANKS), " ") | {0x3002: ".", 0xFF61: ".", 0x3001: ",", 0xFF64: ","}

_WIDE = re.compile("[\uff08\uff09\uff1a\uff0e\uff10-\uff19]")
_BRACKET = re.compile(r"\\.|[(\uff08]|(?:(?<!\d)[:\uff1a]\s*(\d(?:[.\uff0e]\d*)?)\s*)?[)\uff09]", re.DOTALL)


def fold(text: str) -> str:
    """Full-width letters and signs, and blanks of any width, as ASCII has them; every character keeps its position."""
    return text.translate(_FOLD)


def tag_number(digits: str) -> int:
    """The person that a tag's digits name."""
    return int("".join(str(int(unicodedata.numeric(digit))) for digit in digits[:9]))  # more digits name nobody anyway


def without_hidden(text: str) -> str:
    """The text without characters that nobody sees, which come along when text is copied from pages and documents."""
    return _HIDDEN.sub("", text)


def without_wide_weights(text: str) -> str:
    """The text with weights such as "（man：1.2）" and names such as "embedding：me" in ASCII; every character keeps its position.

    Brackets around other text are text: "（left）" stays.
    """
    text = re.sub(r"(?<!\w)embedding\uff1a", "embedding:", text)
    if not _WIDE.search(text):
        return text
    letters, opened = list(text), []
    for match in _BRACKET.finditer(text):
        sign = match[0]
        if sign in ("(", "\uff08"):
            opened.append(match.start())
        elif not sign.startswith("\\") and opened:
            start = opened.pop()
            if match[1] is not None:
                letters[start] = "("
                letters[match.start() : match.end()] = fold(sign)
    return "".join(letters)
