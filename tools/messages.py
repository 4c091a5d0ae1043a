"""What the project says when it refuses something: every error's code and sentence, taken from the source.

python -m tools.messages                write tests/messages.json anew
python -m tools.messages --check        say what is wrong with codes, and whether the file is up to date

A sentence is a template: what is put in at run time stands as its expression in braces. Reading the file's changes shows
which sentences a change touches.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path

__all__ = ["Message", "collect", "faults", "render"]

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "tests" / "messages.json"
ROOMS = ("dhumandiff", "nodes", "training", "benchmarks")

ALIKE = 0.35
"""Two sentences less alike than this (difflib's ratio) do not tell of one fault."""


@dataclass(frozen=True)
class Message:
    """One `raise` of an error of this project.

    Args:
        place: file and line.
        code: None where none is given; "" where one is passed on from another error or an argument.
        sentence: with placeholders; "" where it is made elsewhere.
    """

    place: str
    code: str | None
    sentence: str


def collect() -> list[Message]:
    """Every place of the source that makes an error of this project."""
    trees = {
        path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
    }
    errors = _error_classes(trees)
    return [message for path, tree in trees.items() for message in _of_file(path, tree, errors)]


def _error_classes(trees: dict[str, ast.Module]) -> set[str]:
    """Names of `DHumanDiffError` and of all classes below it."""
    parents = {
        node.name: {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    found = {"DHumanDiffError"}
    while more := {name for name, bases in parents.items() if bases & found} - found:
        found |= more
    return found


def _of_file(path: str, tree: ast.Module, errors: set[str]) -> Iterator[Message]:
    # A class that is chosen first and raised later (`refusal = ImageError if ... else HostError`) is known by its code.
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        code = next((keyword.value for keyword in node.keywords if keyword.arg == "code"), None)
        name = ast.unparse(node.func).rpartition(".")[2]
        literal = isinstance(code, ast.Constant) and isinstance(code.value, str)
        if name not in errors and not (literal and node.args):
            continue
        said = next((arg for arg in reversed(node.args) if not isinstance(arg, ast.Starred)), None)
        yield Message(
            place=f"{path}:{node.lineno}",
            code=None if code is None else code.value if literal else "",
            sentence=_template(said),
        )


def _template(node: ast.expr | None) -> str:
    """A string's text with its placeholders; "" for what is no string here."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(part) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return "{" + ast.unparse(node.value) + "}"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _template(node.left) + _template(node.right)
    return "{" + ast.unparse(node) + "}" if node is not None else ""


def faults(messages: list[Message]) -> list[str]:
    """What is wrong with the codes, a sentence each."""
    found = [f"{message.place}: no code" for message in messages if message.code is None]
    for code, own in _by_code(messages).items():
        if not all(part.isalnum() and part.islower() for part in code.replace("0", "a").split("-")):
            found.append(f"{own[0].place}: the code {code!r} is not in lower case with hyphens")
        first = own[0]
        for other in own[1:]:
            elsewhere = other.place.partition(":")[0] != first.place.partition(":")[0]
            if elsewhere and SequenceMatcher(None, first.sentence, other.sentence).ratio() < ALIKE:
                found.append(f"{first.place} and {other.place}: two faults under one code, {code!r}")
    return found


def _by_code(messages: list[Message]) -> dict[str, list[Message]]:
    found: dict[str, list[Message]] = defaultdict(list)
    for message in messages:
        if message.code:
            found[message.code].append(message)
    return dict(sorted(found.items()))


def render(messages: list[Message]) -> str:
    """The file's text: code -> sentences, sorted, a sentence a line."""
    table = {code: sorted({message.sentence for message in own}) for code, own in _by_code(messages).items()}
    return json.dumps(table, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the file, or check it."""
    parser = argparse.ArgumentParser(prog="python -m tools.messages", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    messages = collect()
    wrong = faults(messages)
    if not args.check:
        FILE.write_text(render(messages), encoding="utf-8")
    elif FILE.read_text(encoding="utf-8") != render(messages):
        wrong.append(f"{FILE.relative_to(ROOT)} is not up to date: python -m tools.messages")
    print("\n".join(wrong) or f"{len(messages)} errors, all with a code")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
