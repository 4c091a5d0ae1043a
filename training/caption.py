"""Have captions written for pictures that have none, by a function of your own, before they are prepared.

    python -m training caption --data photos --captioner my_captions:make
    python -m training prepare --data photos --out shards              reads what was written: photos/captions.jsonl

Read through what it wrote: a caption has to name both people, and may say who is on which side. Kill it whenever you like: the same
command goes on behind the last caption.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dhumandiff.errors import ImageError, PromptError, short_error
from dhumandiff.io import expand_user, printable
from dhumandiff.prompts import parse_prompt

from . import TrainingError
from .data.settings import Source
from .parsing import parse
from .plugins import is_plugin, make_plugin
from .wording import counted, some

__all__ = ["CaptionConfig", "caption", "main"]

Captioner = Callable[[np.ndarray], str]
"""A picture, uint8 RGB [H, W, 3] -> its caption."""


@dataclass
class CaptionConfig:
    """Have captions written for pictures that have none, by a function of your own.

    Captions go to a .jsonl that `prepare` reads. Read through them: each has to name both people, "A woman@1 and a man@2 on a
    bench", and may say who is on the left. What names only one or nobody is counted.
    """

    data: str = ""
    """The pictures, when there is one source; see `sources` of `prepare`."""
    source: Source = field(default_factory=lambda: Source(""))
    """The same with where its annotations and captions lie."""
    captioner: str = ""
    """module:function. The function is called once, without arguments, and gives a function: a picture (uint8 RGB, height x width x
    3) -> its caption."""
    out: str = ""
    """The .jsonl that captions go to; captions.jsonl in the folder of the pictures if left empty."""


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    config, given = parse(CaptionConfig, "caption", argv, {"dry_run": "count what has no caption; write none"})
    print(caption(config, given["dry_run"]))


def caption(config: CaptionConfig, dry_run: bool = False) -> str:
    """Write captions.

    Args:
        config: the settings.
        dry_run: only count.

    Returns:
        The words for the person at the terminal.

    Raises:
        TrainingError: settings or pictures that cannot be used, or a captioner that fails.
    """
    source = Source(config.data) if config.data else config.source
    if not source.path:
        raise TrainingError("There is nothing to caption: give --data FOLDER.", code="nothing-to-caption")
    if not dry_run and not is_plugin(config.captioner):
        raise TrainingError(
            f"captioner is {config.captioner!r}; name a function of yours that makes a captioner, module:function.",
            code="no-captioner",
        )
    out = _place(config.out, source)
    from .data.captions import picture_key, read_captions
    from .data.sources import list_pictures

    _end_last_line(out)
    pictures, _ = list_pictures(source)
    rows = read_captions(Source(source.path, captions=str(out)), None, []) if out.is_file() else {}
    left = [
        one
        for one in pictures
        if not (one.caption or one.problem or one.annotation) and picture_key(one.name) not in rows
    ]
    if dry_run:
        return f"{len(left)} of {len(pictures)} pictures in {source.path} have no caption. Nothing was written."
    write: Captioner = make_plugin(config.captioner, "captioner") if left else str
    unclear, damaged = [], []
    for picture in tqdm(left, unit="picture", desc="caption"):
        try:
            text = _written(write, picture.image.photo().pixels, picture.name, config.captioner)
        except ImageError:
            damaged.append(picture.name)
            continue
        if not _names_both(text):
            unclear.append(picture.name)
        _append(out, {"file_name": picture.name, "text": text})
    lines = [f"{out}: {counted(len(left) - len(damaged), 'caption')} written, of {counted(len(pictures), 'picture')}."]
    if unclear:
        lines.append(
            f"{len(unclear)} of them do not name two people, and would be set aside: {some(map(printable, unclear))}."
        )
    if damaged:
        lines.append(
            f"{counted(len(damaged), 'picture')} cannot be read and so without: {some(map(printable, damaged))}."
        )
    own = shlex.quote(f"{{path: {source.path}, captions: {out}}}")
    data = f"--sources+ {own}" if config.out else f"--data {shlex.quote(source.path)}"
    lines.append(f"Read through them. Next: python -m training prepare {data} --out shards")
    return "\n".join(lines)


def _place(out: str, source: Source) -> Path:
    folder = expand_user(source.path)
    if out:
        return expand_user(out)
    if not folder.is_dir():
        raise TrainingError(
            f"{source.path} is no folder on this disk, so captions cannot lie in it. Say where: --out captions.jsonl.",
            code="nowhere-for-captions",
        )
    return folder / "captions.jsonl"


def _written(write: Captioner, pixels: np.ndarray, name: str, captioner: str) -> str:
    try:
        text = write(pixels)
    except Exception as error:  # it is somebody else's code
        raise TrainingError(
            f"captioner: {captioner} failed at {name} with {short_error(error, kind=True)}. What was written before stays; the same "
            "command goes on there.",
            code="captioner-failed",
        ) from error
    if not isinstance(text, str) or not text.strip():
        raise TrainingError(
            f"captioner: {captioner} gave {text!r:.60} for {name}, where a caption belongs.",
            code="captioner-without-text",
        )
    return " ".join(text.split())


def _names_both(text: str) -> bool:
    try:
        return len({mention.person for mention in parse_prompt(text, persons=2).mentions}) == 2
    except PromptError:
        return False


def _append(out: Path, row: dict[str, str]) -> None:
    try:
        with out.open("ab") as file:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise TrainingError(
            f"{out} cannot be written: {short_error(error)}. Choose another --out.", code="captions-not-written"
        ) from error


def _end_last_line(out: Path) -> None:
    """End the last line of an earlier run; what a killed one left half written is written anew."""
    content = out.read_bytes() if out.is_file() else b""
    last = content[content.rfind(b"\n") + 1 :]
    if not last:
        return
    try:
        json.loads(last)
    except ValueError:
        out.write_bytes(content[: len(content) - len(last)])
    else:
        out.write_bytes(content + b"\n")
