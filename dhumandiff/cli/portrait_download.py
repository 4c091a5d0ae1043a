"""`python -m dhumandiff download --portrait`: everything that a first portrait needs, into a models folder.

What is there already is left alone. Licenses are shown and have to be accepted, one by one, or by name with --accept.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..doctor.folders import Folders
from ..errors import AdapterError, DHumanDiffError, HostError
from ..io import expand_user
from .fetching import Published, check_room, clear, fetch_file, look_up
from .models import default_models, find_image_encoder
from .portrait_list import ITEMS, Item, as_table, human_size

__all__ = ["add_portrait_options", "run_portrait"]

KEYS = [item.key for item in ITEMS]


def add_portrait_options(add: Callable[..., Any]) -> None:
    """Add `--portrait` and what belongs to it."""
    add("--portrait", action="store_true", help="everything that a first portrait needs and that is not there yet")
    add("--items", nargs="+", choices=KEYS, metavar="ITEM", help=f"of --portrait, only these: {', '.join(KEYS)}")
    models = "of --portrait: ComfyUI's models folder, or one's own (default: that of the ComfyUI around this project, else models)"
    add("--models", type=Path, metavar="FOLDER", help=models)
    accept = "of --portrait: whose licenses you have read and accept, so that nothing is asked"
    add("--accept", nargs="+", choices=[*KEYS, "all"], default=[], metavar="ITEM", help=accept)


def run_portrait(args: argparse.Namespace) -> None:
    """Fetch what is chosen and not there.

    Raises:
        AdapterError: a license is not accepted, there is no room, no network, or what came is damaged.
    """
    models = expand_user(args.models or default_models())
    there = what_is_there(models)
    print(f"Into {models.absolute()}:\n{_listing(there)}")
    if args.list:
        print(f"\nBy hand:\n{as_table(ITEMS, models.absolute())}")
        return
    items = [item for item in _choose(args.items, there) if item.key not in there]
    if not items:
        print(f"Nothing is to be fetched. Next: {_next(models)}")
        return
    published = _published(items, models)
    needed = sum(found.size or 0 for files in published.values() for found in files)
    check_room(models, needed or sum(item.size for item in items))
    _confirm(items, args.accept)
    item = items[0]
    try:
        for item in items:
            for source, found in zip(item.sources, published[item.key], strict=True):
                print(f"{item.title}: {fetch_file(source, models, found)}")
    except DHumanDiffError:
        raise
    except Exception as error:
        raise _broke_off(error, [item], models) from error
    clear(models)
    print(f"Everything came and was checked. Next: {_next(models)}")


def what_is_there(models: Path) -> dict[str, str]:
    """Key -> where what it stands for lies already: under that name, or another that does as well."""
    from ..formats import checkpoint  # torch: not before something is looked at

    folders = Folders.below(models)
    found = {
        item.key: str(models / item.sources[0].place)
        for item in ITEMS
        if all(_is_there(models / source.place) for source in item.sources)
    }
    for path in (path for folder in folders.checkpoints for path in sorted(folder.rglob("*.safetensors"))):
        if "base" not in found and checkpoint.family_of(path) == checkpoint.SDXL:
            found["base"] = str(path)
    if "image-encoder" not in found:
        try:
            encoder = find_image_encoder(None, folders, 1280)
        except HostError:  # several
            encoder = folders.clip_vision[0]
        if encoder is not None:
            found["image-encoder"] = str(encoder)
    return found


def _is_there(path: Path) -> bool:
    """Whether a file or a pack is there: whole as far as its head tells, and a pack with models in it."""
    if path.suffix == ".safetensors" and path.is_file():
        from ..formats.header import read_header

        try:
            read_header(path)
        except AdapterError:  # half a file: fetched again
            return False
        return True
    return any(path.glob("*.onnx")) if path.is_dir() else path.is_file()


def _listing(there: dict[str, str]) -> str:
    rows = []
    for number, item in enumerate(ITEMS, 1):
        state = f"there: {there[item.key]}" if item.key in there else "to fetch" if item.usual else "a choice"
        rows.append(f"  {number} {item.key:<13} {human_size(item.size):>8}  {item.title}; {item.license}; {state}")
    return "\n".join(rows)


def _choose(keys: Sequence[str] | None, there: dict[str, str]) -> list[Item]:
    """What --items names, what is chosen at the keyboard, or all that is usual and not there."""
    if keys:
        return [item for item in ITEMS if item.key in keys]
    usual = [item for item in ITEMS if item.usual and item.key not in there]
    if "ip-adapter" in there:  # does in place of the other
        usual = [item for item in usual if item.key != "adapter"]
    if not usual or not sys.stdin.isatty():
        return usual
    answer = input("Which? Numbers with blanks between them, or Enter for all that is to fetch: ").split()
    if not all(word.isdecimal() and 1 <= int(word) <= len(ITEMS) for word in answer):
        raise AdapterError(
            f"{' '.join(answer)!r} are not numbers of the list, 1 to {len(ITEMS)}. Run the command again, or name things with "
            "--items.",
            code="download-choice-not-clear",
        )
    return [ITEMS[int(word) - 1] for word in dict.fromkeys(answer)] or usual


def _published(items: Sequence[Item], models: Path) -> dict[str, list[Published]]:
    """What the publishers say of each file; the first question that fails ends it, with the table of what to put where."""
    try:
        return {item.key: [look_up(source) for source in item.sources] for item in items}
    except AdapterError:
        raise
    except ImportError as error:
        raise AdapterError(
            f"The download needs huggingface_hub ({error}). Install it with: pip install huggingface_hub. What to put where by "
            "hand: python -m dhumandiff download --portrait --list.",
            code="package-missing",
        ) from error
    except Exception as error:
        raise _broke_off(error, items, models) from error


def _broke_off(error: Exception, items: Sequence[Item], models: Path) -> Exception:
    """The error for what network or disk refused, with the table printed before it; an error of ours is passed on."""
    from .download import is_about_the_network, reason

    if not is_about_the_network(error):
        return error
    print(f"\nBy hand:\n{as_table(items, models.absolute())}\n")
    return AdapterError(
        f"{items[0].title} cannot be fetched: {reason(error)}. Run the command again, it goes on where it stopped; or get the files that "
        "are listed above some other way.",
        code="portrait-download-failed",
    )


def _confirm(items: Sequence[Item], accepted: Sequence[str]) -> None:
    """Ask for each license that is not accepted yet."""
    for item in items:
        if item.key in accepted or "all" in accepted:
            continue
        pages = " ".join(
            dict.fromkeys(f"https://huggingface.co/{s.repository}" if s.repository else s.url for s in item.sources)
        )
        if not sys.stdin.isatty():
            raise AdapterError(
                f"The license of {item.title} ({item.license}; {pages}) has to be accepted, and nobody can be asked here. Read it, "
                f"and add --accept {item.key}.",
                code="licence-not-accepted",
            )
        print(f"{item.title}, {human_size(item.size)}. License: {item.license}. Read it at {pages}")
        _ask(item)


def _ask(item: Item) -> None:
    for _ in range(3):
        answer = input(f"Do you accept the license of {item.title}? yes or no: ").strip().lower()
        if answer in ("yes", "y"):
            return
        if answer in ("no", "n"):
            others = " ".join(other.key for other in ITEMS if other.usual and other is not item)
            raise AdapterError(
                f"The license of {item.title} was not accepted, so nothing was fetched. Without it: --items {others}.",
                code="licence-not-accepted",
            )
        print(f"{answer!r} is neither yes nor no.")
    raise AdapterError(
        f"Three answers about the license of {item.title} were neither yes nor no, so nothing was fetched. Run the command again.",
        code="licence-answer-not-clear",
    )


def _next(models: Path) -> str:
    folder = "" if models == default_models() else f"--models {models} "
    return f'python -m dhumandiff generate {folder}--person-1 A.jpg --person-2 B.jpg --prompt "A man@1 and a woman@2" --out portrait.png'
