"""Settings that have a new name. The old ones are accepted for one version, on the command line and in YAML files.

Every use prints one line that names the new key. To rename a setting: rename the field, and add a line here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dhumandiff.errors import short_error
from dhumandiff.io import read_text

from . import TrainingError

__all__ = [
    "ACCEPTED_UNTIL",
    "RENAMED_KEYS",
    "RENAMED_VALUES",
    "current_argv",
    "current_config",
    "current_key",
    "notice",
]

ACCEPTED_UNTIL = "0.3"
"""The version that no longer reads the old names."""

RENAMED_KEYS: dict[str, dict[str, str]] = {
    "train": {
        "augment.drop_tokens": "augment.drop_face_tokens",
        "data.batch": "data.batch_size",
        "data.micro_batch": "data.micro_batch_size",
        "data.shuffle": "data.shuffle_buffer",
        "objectives.diffusion.levels": "objectives.diffusion.timestep_sampling",
        "objectives.identity.below": "objectives.identity.max_noise_level",
        "objectives.identity.contrast": "objectives.identity.infonce_weight",
        "objectives.identity.recogniser": "objectives.identity.recognizer",
        "objectives.identity.same": "objectives.identity.same_identity_threshold",
        "objectives.identity.window": "objectives.identity.decode_crop",
        "objectives.localisation": "objectives.localization",
        "objectives.localisation.smallest": "objectives.localization.min_layer_size",
        "objectives.localisation.words": "objectives.localization.word_weight",
        "optimiser": "optimizer",
        "optimiser.clip": "optimizer.max_grad_norm",
        "optimiser.decay": "optimizer.weight_decay",
        "optimiser.ema": "optimizer.ema_decay",
        "optimiser.kind": "optimizer.name",
        "optimiser.rate": "optimizer.learning_rate",
        "optimiser.turn": "optimizer.muon_lr",
        "optimiser.warmup": "optimizer.warmup_steps",
        "start": "init",
        "start.tokens": "init.face_tokens",
        "watch": "logging",
    },
    "prepare": {
        "faces.third": "faces.third_face_ratio",
        "references.colour": "references.color",
    },
    "evaluate": {
        "faces.third": "faces.third_face_ratio",
    },
    "export": {
        "base_licence": "base_license",
        "data_licence": "data_license",
        "licence": "license",
    },
}
"""Command -> old key -> new key, both as on the command line without "--". A key without a line of its own moves with its group."""

RENAMED_VALUES: dict[str, dict[str, dict[str, str]]] = {
    "train": {"objectives.diffusion.timestep_sampling": {"rising": "linear"}},
    "export": {"weights": {"average": "ema"}},
}
"""Command -> new key -> old value -> new value."""


def current_key(command: str, key: str) -> str:
    """The present name of a setting: "optimiser.rate" -> "optimizer.learning_rate"; a present name stays."""
    names = RENAMED_KEYS.get(command, {})
    if key in names:
        return names[key]
    group, dot, name = key.rpartition(".")
    return f"{current_key(command, group)}.{name}" if dot else key


def current_config(command: str, config: Mapping[str, Any], used: dict[str, str] | None = None) -> dict[str, Any]:
    """A configuration as nested plain values, with all names and values as they are called now.

    Args:
        command: of `python -m training`.
        config: what a YAML file, a checkpoint or a group on the command line holds.
        used: takes in the old names found, and what they are called now.
    """
    found: dict[str, Any] = {}
    _collect(command, "", config, found, {} if used is None else used)
    return found


def current_argv(command: str, argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Words of a command line with all names as they are now, and the old names found in them or in their YAML files.

    Files come first, since the parser reads from left to right: what is said by a flag holds, wherever it stands.
    """
    used: dict[str, str] = {}
    words: list[str] = []
    key = ""  # of the flag just read, whose value may follow
    for word in _files_first(argv):
        if not word.startswith("--"):
            words.append(_value(command, key, word, used) if key else word)
            key = ""
            continue
        flag, equals, value = word.removeprefix("--").partition("=")
        key = flag.removesuffix("+")
        new = current_key(command, key)
        _note(used, key, new)
        words.append("--" + new + flag[len(key) :] + (f"={_value(command, key, value, used)}" if equals else ""))
        key = "" if equals else key
    return words, used


def _files_first(argv: Sequence[str]) -> list[str]:
    files: list[str] = []
    others: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--config":
            files += [word, *(value for value in [next(words, None)] if value is not None)]
        else:
            (files if word.startswith("--config=") else others).append(word)
    return files + others


def notice(used: Mapping[str, str]) -> str:
    """The one line that says which names have changed."""
    changes = ", ".join(f"{old} is now {new}" for old, new in used.items())
    return f"notice: {changes}. The old names are read until version {ACCEPTED_UNTIL}."


def _collect(command: str, prefix: str, config: Mapping[str, Any], found: dict[str, Any], used: dict[str, str]) -> None:
    """Put every value of `config` into `found` under its present name; a value already there under that name stays."""
    for name, value in config.items():
        key = f"{prefix}{name}"
        new = current_key(command, key)
        if key in RENAMED_KEYS.get(command, {}):
            _note(used, key, new)
        if isinstance(value, Mapping):
            _group(found, new)
            _collect(command, f"{key}.", value, found, used)
        else:
            group, _, last = new.rpartition(".")
            _group(found, group).setdefault(last, _current_value(command, new, value, used))


def _group(found: dict[str, Any], key: str) -> dict[str, Any]:
    """The group of settings at `key`, made if need be."""
    for name in filter(None, key.split(".")):
        if not isinstance(found.get(name), dict):
            found[name] = {}
        found = found[name]
    return found


def _current_value(command: str, key: str, value: Any, used: dict[str, str]) -> Any:
    new = RENAMED_VALUES.get(command, {}).get(key, {}).get(value) if isinstance(value, str) else None
    if new is None:
        return value
    _note(used, f"{key} {value}", new)
    return new


def _value(command: str, key: str, word: str, used: dict[str, str]) -> str:
    """A word behind `--key`, with present names: a value, a group of settings in braces, or the path of a YAML file.

    Raises:
        DHumanDiffError: nothing says in which encoding the file is, or it is no YAML mapping.
    """
    if key == "config":
        try:
            text = read_text(word)
        except OSError:
            return word  # the parser says what is wrong with it
        _check_mapping(text, word)
        named = _with_present_names(command, "", text, used)
        # The parser knows UTF-8 and UTF-16 alone, the latter by its mark: what was saved in anything else goes to it as JSON.
        return named or (word if _is_utf_8(Path(word)) else json.dumps(_read_mapping(text)))
    if word.lstrip().startswith("{"):
        return _with_present_names(command, key, word, used) or word
    return str(_current_value(command, current_key(command, key), word, used))


def _with_present_names(command: str, key: str, text: str, used: dict[str, str]) -> str:
    """The YAML of a group as JSON with present names; empty where it has no old ones."""
    settings = _read_mapping(text)
    names, seen = [name for name in key.split(".") if name], {}
    for name in reversed(names):
        settings = {name: settings}
    found = current_config(command, settings, seen)
    for name in filter(None, current_key(command, key).split(".")):
        found = found[name]
    inside = {old: new for old, new in seen.items() if old != key}
    used.update(inside)
    return json.dumps(found) if inside else ""


def _is_utf_8(path: Path) -> bool:
    data = path.read_bytes()
    try:
        return "\0" not in data.decode("utf-8")
    except UnicodeDecodeError:
        return False


def _check_mapping(text: str, name: str) -> None:
    import yaml

    try:
        found = _load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none
        raise TrainingError(
            f"The settings {name} are no YAML: {short_error(error)}. Correct the file.", code="settings-no-yaml"
        ) from error
    if found is not None and not isinstance(found, dict):
        raise TrainingError(
            f"The settings {name} hold a {type(found).__name__}: names and values are needed, such as seed: 7. "
            "Correct the file.",
            code="settings-no-mapping",
        )


def _read_mapping(text: str) -> dict[str, Any]:
    """A YAML mapping; empty where the text is none."""
    import yaml

    try:
        found = _load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _load(text: str) -> Any:
    """YAML in which 1e-4 is a number, as for the parser (YAML 1.1 takes it for text)."""
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    number = re.compile(r"^[-+]?([0-9][0-9_]*)(\.[0-9_]*)?[eE][-+]?[0-9]+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789."))
    return yaml.load(text, Loader)


def _note(used: dict[str, str], old: str, new: str) -> None:
    if old != new:
        used.setdefault(old, new)
