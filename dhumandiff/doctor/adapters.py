"""Adapters: which are there, what they are, and how to get the released weights."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from ..catalogue import DHUMANDIFF, PARTS2WHOLE, KnownWeights
from ..errors import AdapterError, short_error
from .findings import DAMAGED, MISSING, NOTE, OK, Finding
from .folders import PROJECT, Folders, files_in
from .misplaced import adapter_elsewhere

__all__ = ["adapters", "describe_file", "how_to_download"]


def adapters(folders: Folders) -> tuple[list[Finding], set[int]]:
    """Every adapter in words, and the widths of the image encoders that those which work were trained with."""
    found, widths = [], set()
    candidates = _candidates(folders)
    full = [*candidates, *_ip_adapters(folders)]
    for path in candidates:
        finding, width = describe_file(path, _again(path, folders), full)
        found.append(finding)
        widths |= width
    for path in _withanyone(folders):
        place = folders.withanyone[0]
        text = f"{path}: weights of WithAnyone, which are looked for in {place}."
        found.append(Finding(NOTE, path.name, text, f"Move it to {place}."))
    for path in _parts2whole(folders):
        todo = f"Fetch it again: python -m dhumandiff download --method parts2whole --to {_as_argument(path.parent)}."
        finding, _ = describe_file(path, f"{todo} License: {PARTS2WHOLE.license}.")
        found.append(finding.as_note())  # another method than that of the first portrait
    for path in _ip_adapters(folders):
        finding, width = describe_file(path, "Nothing, if another pack uses it. Else get it again, or remove it.")
        found.append(finding.as_note())
        widths |= width
    if widths:  # what works is enough; what does not is still told
        found = [finding.as_note() for finding in found]
    if not any(os.path.isdir(path) for path in candidates):
        place = folders.adapters[0] / DHUMANDIFF.name
        text = f"DHumanDiff's released weights (four files) are not there. They belong into {place}. License: "
        text += f"{DHUMANDIFF.license}; ask them before you use the weights for more than a look."
        todo = how_to_download(folders.adapters[0])
        if lies := adapter_elsewhere(folders, DHUMANDIFF.files[-1]):
            text = f"DHumanDiff's released weights lie in {lies}, but are looked for in {place}."
            todo = f"Move the files {', '.join(DHUMANDIFF.files)} to {place}."
        enough = bool(widths or candidates)  # one of one's own does, or is to be mended
        found.append(Finding(NOTE if enough else MISSING, "the adapter", text, todo))
    return found, widths


def describe_file(path: Path, todo: str, full: Iterable[Path] = ()) -> tuple[Finding, set[int]]:
    """A file or folder in words, and the width of its image encoder if it works; `todo` is said if it does not.

    full: where the full adapter of a low-rank file may be.
    """
    from ..describe import describe, in_a_sentence

    try:
        facts = describe(path, full)
    except AdapterError as error:
        return Finding(DAMAGED, f"the adapter {path.name}", str(error), todo), set()
    except (
        Exception
    ) as error:  # one file never takes the report down: this is where people look when something is wrong
        text = f"{path} cannot be read ({short_error(error, kind=True)})."
        return Finding(DAMAGED, f"the adapter {path.name}", text, todo), set()
    width = {facts["clip_width"]} if "clip_width" in facts else set()
    return Finding(OK, path.name, f"{path}: {in_a_sentence(facts)}"), width


def _again(path: Path, folders: Folders) -> str:
    if path.name != DHUMANDIFF.name:
        return "Get it again from where you had it, or remove it."
    return f"Remove what is wrong there. {how_to_download(folders.adapters[0])} License: {DHUMANDIFF.license}."


def how_to_download(folder: Path, known: KnownWeights = DHUMANDIFF, options: str = "") -> str:
    """The command that fetches released weights into a folder of their kind, and what to do without a network."""
    return (
        f"In the folder {PROJECT}: python -m dhumandiff download {options}--to {_as_argument(folder)}. By hand: get "
        f"{', '.join(known.files)} from {known.url} and put {'them' if len(known.files) > 1 else 'it'} into {folder / known.name}."
    )


def _as_argument(folder: Path) -> str:
    """A folder as it is typed in the project's: short, and without a name in it, when the two lie in one ComfyUI."""
    folder = Path(os.path.realpath(folder))
    comfyui = PROJECT.parents[1] if PROJECT.parent.name == "custom_nodes" else PROJECT
    text = (Path(os.path.relpath(folder, PROJECT)) if folder.is_relative_to(comfyui) else folder).as_posix()
    return f'"{text}"' if " " in text else text


def _candidates(folders: Folders) -> list[Path]:
    """What claims to be an adapter: single files, and folders that hold any of the four files, or bear the name."""
    found: dict[Path, None] = {}
    others = [*_parts2whole(folders), *_withanyone(folders)]
    for folder in folders.adapters:
        for path in files_in(folder, ".safetensors", *DHUMANDIFF.files):
            if any(path.is_relative_to(other) for other in others):
                continue
            if path.name in DHUMANDIFF.files:
                found.setdefault(path.parent)
            elif path.relative_to(folder).parts[0] != "references":  # people, who are nobody's business
                found.setdefault(path)
        named = folder / DHUMANDIFF.name
        if os.path.isdir(named) and not any(path.is_relative_to(named) for path in found):
            found.setdefault(named)  # begun and empty, or still a zip
    return list(found)


def _parts2whole(folders: Folders) -> list[Path]:
    """Folders of Parts2Whole, be they whole or not; who does not use it has none."""
    from ..formats.parts2whole import is_folder

    places = [folder / name for folder in folders.adapters for name in _subfolders(folder)]
    return [place for place in places if is_folder(place)]


def _withanyone(folders: Folders) -> list[Path]:
    """Files of WithAnyone that were put beside DHumanDiff's."""
    from ..formats.withanyone import is_file

    def is_one(path: Path) -> bool:
        try:
            return is_file(path)
        except Exception:  # whatever is wrong with it is told with the adapters
            return False

    return [path for folder in folders.adapters for path in files_in(folder, ".safetensors") if is_one(path)]


def _subfolders(folder: Path) -> list[str]:
    try:
        return sorted(name for name in os.listdir(folder) if os.path.isdir(folder / name))
    except OSError:
        return []


def _ip_adapters(folders: Folders) -> list[Path]:
    """Files that are an IP-Adapter Plus for SDXL, or bear such a name: other kinds there are other packs' business."""
    found = []
    for folder in folders.ip_adapters:
        for path in files_in(folder, ".safetensors", ".bin"):
            named = "plus" in path.name.lower() and "sdxl" in path.name.lower()
            if named or (path.suffix == ".safetensors" and _fits(path)):
                found.append(path)
    return found


def _fits(path: Path) -> bool:
    from ..formats import ip_adapter

    try:
        return ip_adapter.fits(path)
    except Exception:  # whatever is wrong with it, it is another pack's business
        return False
