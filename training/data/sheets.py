"""Pictures to look at: contact_sheet.png shows who is bound to which words, people.png who seems to be one person."""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from dhumandiff.layout.person_style import draw_box, person_color

from .people import People
from .shards import write_file

__all__ = ["contact_sheet", "people_sheet"]

_SHEET = 24  # pictures on it
_COLUMNS, _WIDTH, _TEXT = 4, 360, 200  # pictures a row; px of a tile and, at most, of its caption
_PEOPLE, _FACES, _FACE = 24, 8, 96  # people on their sheet, faces of each, px of one


def contact_sheet(out: Path, entries: Sequence[dict[str, Any]]) -> int:
    """Up to 24 samples, evenly over the data; gives how many, 0 when the shards hold no pictures."""
    keys = [(entry["shard"], fact["key"]) for entry in entries for fact in entry["facts"]]
    step = max(1, math.ceil(len(keys) / _SHEET))
    tiles = [tile for tile in (_tile(*found) for found in _read(out, keys[::step])) if tile is not None]
    if not tiles:
        return 0
    columns = min(_COLUMNS, len(tiles))
    rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
    heights = [max(tile.height for tile in row) for row in rows]
    sheet = Image.new("RGB", (columns * _WIDTH, sum(heights)), "white")
    top = 0
    for row, height in zip(rows, heights, strict=True):
        for column, tile in enumerate(row):
            sheet.paste(tile, (column * _WIDTH, top))
        top += height
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    write_file(out / "contact_sheet.png", stream.getvalue())
    return len(tiles)


def _read(out: Path, keys: Iterable[tuple[str, str]]) -> Iterable[tuple[dict[str, Any], bytes]]:
    """The JSON and the JPEG of samples."""
    return ((metadata, jpeg) for _, metadata, jpeg in _read_keys(out, keys))


def _read_keys(out: Path, keys: Iterable[tuple[str, str]]) -> Iterable[tuple[str, dict[str, Any], bytes]]:
    wanted: dict[str, list[str]] = {}
    for shard, key in keys:
        wanted.setdefault(shard, []).append(key)
    for shard, mine in wanted.items():
        with (out / shard).open("rb") as file, tarfile.open(fileobj=file) as tar:
            names = set(tar.getnames())
            for key in mine:
                if f"{key}.jpg" in names:
                    metadata = json.loads(tar.extractfile(f"{key}.json").read())
                    yield key, metadata, tar.extractfile(f"{key}.jpg").read()


def _tile(metadata: dict[str, Any], jpeg: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(jpeg)).convert("RGB")
    scale = (_WIDTH - 8) / picture.width
    picture = picture.resize((_WIDTH - 8, round(picture.height * scale)), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for number, person in enumerate(metadata["persons"]):
        for name, width in (("person_box", 1), ("face_box", 3)):
            box = [edge * scale for edge in person[name]]
            if box[2] > box[0] and box[3] > box[1]:
                draw_box(draw, box, number, width)
    tile = Image.new("RGB", (_WIDTH, picture.height + _TEXT + 8), "white")
    tile.paste(picture, (4, 4))
    return tile.crop((0, 0, _WIDTH, _write_caption(tile, metadata, picture.height + 8)))


def _write_caption(tile: Image.Image, metadata: dict[str, Any], top: int) -> int:
    """The caption, its bound words in their person's color; gives the place below it."""
    draw, font, caption = ImageDraw.Draw(tile), _font(), metadata["caption"]
    colors: dict[int, str] = {}
    for number, person in enumerate(metadata["persons"]):
        for words in person["words"]:
            colors |= dict.fromkeys(range(words["start"], words["end"]), person_color(number))
    x, y, line = 6.0, float(top), font.size * 1.3
    for start, word in _split(caption):
        width = draw.textlength(word, font=font)
        if x + width > tile.width - 6 and x > 6:
            x, y = 6.0, y + line
        if y + 2 * line > tile.height:
            break
        for place, letter in enumerate(word):
            draw.text((x, y), letter, font=font, fill=colors.get(start + place, (40, 40, 40)))
            x += draw.textlength(letter, font=font)
    return round(y + line) + 6


def _split(text: str) -> list[tuple[int, str]]:
    """Words with the blanks behind them, and where each starts; what has no blanks is cut every 30 letters."""
    words, start = [], 0
    for place, letter in enumerate(text):
        if letter.isspace() or place - start >= 30:
            words.append((start, text[start : place + 1].replace("\n", " ")))
            start = place + 1
    return [*words, (start, text[start:])]


def _font() -> Any:
    from matplotlib import get_data_path

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 13)


def people_sheet(out: Path, entries: Sequence[dict[str, Any]], people: People) -> bool:
    """A row of faces for each of the first people who seem to be on several pictures; False when there is nothing to show."""
    rows = sorted(people.proposed.items())[:_PEOPLE]
    wanted = {sample for _, places in rows for sample, _ in places[:_FACES]}
    keys = [(entry["shard"], fact["key"]) for entry in entries for fact in entry["facts"]]
    numbers = {key: number for number, (_, key) in enumerate(keys)}
    found = {
        numbers[key]: (metadata, jpeg)
        for key, metadata, jpeg in _read_keys(out, [keys[number] for number in sorted(wanted)])
    }
    if not found:
        (out / "people.png").unlink(missing_ok=True)  # of an earlier merge
        return False
    columns = max(2, *(len(places[:_FACES]) for _, places in rows))
    sheet = Image.new("RGB", (columns * _FACE, len(rows) * (_FACE + 20)), "white")
    draw = ImageDraw.Draw(sheet)
    for line, (name, places) in enumerate(rows):
        top = line * (_FACE + 20)
        draw.text((4, top + 2), f"{name}: {len(places)} pictures", font=_font(), fill=(40, 40, 40))
        for column, (sample, which) in enumerate(places[:_FACES]):
            if sample in found:
                metadata, jpeg = found[sample]
                box = [round(edge) for edge in metadata["persons"][which]["face_box"]]
                face = Image.open(io.BytesIO(jpeg)).convert("RGB").crop(box).resize((_FACE - 4, _FACE - 4))
                sheet.paste(face, (column * _FACE + 2, top + 18))
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    write_file(out / "people.png", stream.getvalue())
    return True
