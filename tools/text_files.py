"""Check text files: one newline at the end, no spaces at line ends, and JSON, TOML and YAML that can be read.

    python -m tools.text_files FILE ...

Used by pre-commit and by tests/pack/test_gates.py. Exit code 1 and a line for each file that is wrong.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

__all__ = ["main", "wrong_with"]


def main(names: Sequence[str] | None = None) -> int:
    """The command."""
    found = [(name, wrong_with(Path(name))) for name in (sys.argv[1:] if names is None else names)]
    for name, what in found:
        if what:
            print(f"{name}: {what}")
    return int(any(what for _, what in found))


def wrong_with(path: Path) -> str:
    """What is wrong with a text file, in words; "" for nothing."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte {error.start})"
    if text and (not text.endswith("\n") or text.endswith("\n\n")):
        return "ends without exactly one newline"
    for number, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip(" \t\r"):
            return f"line {number} ends in spaces, a tab or a carriage return"
    try:
        _read(path.suffix, text)
    except ValueError as error:  # JSON's and TOML's errors are of this kind
        return f"cannot be read: {error}"
    return ""


def _read(suffix: str, text: str) -> None:
    if suffix == ".json":
        json.loads(text)
    elif suffix == ".toml" and find_spec("tomllib"):  # Python 3.11
        import tomllib

        tomllib.loads(text)
    elif suffix in (".yaml", ".yml") and find_spec("yaml"):
        import yaml

        try:
            yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ValueError(" ".join(str(error).split())) from error


if __name__ == "__main__":
    sys.exit(main())
