"""Configurations from YAML files and the command line, and back."""

from __future__ import annotations

import math
import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any, TypeVar

from . import TrainingError
from .renamed import current_argv, notice

__all__ = ["as_dict", "check_fractions", "check_setting", "differences", "parse"]

Parsed = TypeVar("Parsed")


def check_setting(valid: bool, name: str, value: Any, rule: str) -> None:
    """Refuse a value: "steps is 0, but it must be 1 or more." NaN and infinity are refused whatever the rule.

    Raises:
        TrainingError: `valid` is False.
    """
    numbers = value if isinstance(value, (list, tuple)) else [value]
    if not all(math.isfinite(number) for number in numbers if isinstance(number, float)):
        valid, rule = False, "a finite number is needed"
    if not valid:
        raise TrainingError(f"{name} is {value!r}, but {rule}.", code="setting-out-of-range")


def check_fractions(config: Any, prefix: str, *names: str) -> None:
    """Refuse fields of a configuration that are no probability. TrainingError."""
    for name in names:
        value = getattr(config, name)
        check_setting(0 <= value <= 1, f"{prefix}.{name}", value, "it is a probability: from 0 (never) to 1 (always)")


def as_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain values, for YAML and JSON."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in _plain(asdict(config)).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def parse(
    kind: type[Parsed], command: str, argv: Sequence[str] | None = None, switches: dict[str, str] | None = None
) -> tuple[Parsed, dict[str, bool]]:
    """Read a configuration: `--config FILE.yaml`, then overrides by the name of any field.

    Args:
        kind: the dataclass to fill.
        command: of `python -m training`, for the help; its first lines are the dataclass's docstring.
        argv: the words behind the command; None: this program's own.
        switches: flags that are no part of the configuration, and their help.

    Returns:
        The configuration, and which flags were given.

    Raises:
        TrainingError: an unknown field, a value of another type, or one that `kind` refuses.
    """
    try:
        import jsonargparse
    except ImportError as error:
        raise TrainingError(
            f"Training needs jsonargparse ({error}). Install it with: pip install '.[train]'",
            code="training-extra-missing",
        ) from error
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(
        prog=f"python -m training {command}", description=kind.__doc__, exit_on_error=False
    )
    parser.add_argument("--config", action="config", help="YAML file with the fields below; see training/configs/")
    parser.add_class_arguments(kind, fail_untyped=False)
    for name, text in (switches or {}).items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    try:
        words, renamed = current_argv(command, sys.argv[2:] if argv is None else argv)
        if any(word.partition("=")[0].endswith(".help") for word in words):
            sys.argv[0] = parser.prog  # what the help of a part calls the program
        if renamed and int(os.environ.get("RANK", "0")) == 0:
            print(notice(renamed), file=sys.stderr)
        read = parser.parse_args(words)
        given = {name: bool(read.pop(name)) for name in switches or {}}
        filled = parser.instantiate(read)
        return kind(**{entry.name: filled[entry.name] for entry in fields(kind)}), given
    except TrainingError:
        raise
    except (jsonargparse.ArgumentError, TypeError, ValueError) as error:
        inner = error.__cause__ if isinstance(error.__cause__, TrainingError) else None
        reason = " ".join(str(inner or error).split())
        listed = re.search('Parser key "([^"]+)": Expected a <class \'list\'>. Got value: (.+)', reason)
        if listed:
            entry = (
                f"{{path: {listed[2]}}}" if listed[1] in ("data.folders", "data.validation", "sources") else listed[2]
            )
            reason = f"{listed[1]} is a list, and {listed[2]!r} is none: write --{listed[1]}+ {shlex.quote(entry)}"
        raise TrainingError(
            f"{reason} (`python -m training {command} --help` lists every field)",
            code=inner.code if inner else "setting-refused",
        ) from error


def differences(first: Any, second: Any, prefix: str = "") -> list[str]:
    """The fields in which two configurations, or their `as_dict`, differ: "data.batch_size: 8 -> 16"."""
    first, second = (as_dict(side) if is_dataclass(side) else side for side in (first, second))
    lines = []
    for name in [*first, *(name for name in second if name not in first)]:
        before, after = first.get(name), second.get(name)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{name}.")
        elif before != after:
            lines.append(f"{prefix}{name}: {_short(before)} -> {_short(after)}")
    return lines


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
