"""`python -m dhumandiff.miniature.world --out sheet.png`: look at the world; `--album photos`: pictures of it to train on."""

from __future__ import annotations

import argparse
import sys

from ...errors import DHumanDiffError
from .dataset import write_album
from .sheet import draw_sheet


def main(arguments: list[str] | None = None) -> int:
    """Draw a contact sheet; 0, or 1 with a message when that cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m dhumandiff.miniature.world",
        description="Draw a contact sheet of the drawn world: people in several drawings, and pairs with sentences.",
    )
    parser.add_argument("--out", help="the picture to write, for example sheet.png")
    parser.add_argument(
        "--album",
        metavar="FOLDER",
        help="write photos of couples with captions there, as people have them, and a portrait of each beside it",
    )
    parser.add_argument("--couples", type=int, default=10, help="couples of the album (default: %(default)s)")
    parser.add_argument("--each", type=int, default=4, help="pictures of each couple (default: %(default)s)")
    parser.add_argument("--people", type=int, default=24, help="how many people (default: %(default)s)")
    parser.add_argument("--pairs", type=int, default=12, help="how many pictures of two (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another number draws others (default: %(default)s)")
    parser.add_argument("--zoom", type=int, default=3, help="how much larger pictures are shown (default: %(default)s)")
    parser.add_argument("--boxes", action="store_true", help="draw face boxes and landmarks")
    options = parser.parse_args(arguments)
    if min(options.people, options.pairs, options.seed) < 0 or options.zoom < 1:
        parser.error("--people, --pairs and --seed are 0 or more, --zoom is 1 or more")
    if (not options.out and not options.album) or min(options.couples, options.each) < 1:
        parser.error("say what to draw: --out sheet.png, or --album photos with 1 or more --couples and --each")
    try:
        if options.album:
            count = write_album(options.album, options.couples, options.each)
            print(f"{options.album}: {count} pictures of {options.couples} couples, each with its caption")
            print(f"{options.album}_portraits: a photo of each person, to draw with")
        if not options.out:
            return 0
        draw_sheet(options.people, options.pairs, options.seed, options.zoom, options.boxes).save(options.out)
    except (DHumanDiffError, OSError, ValueError) as error:
        print(f"The sheet could not be drawn: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}: {options.people} people, {options.pairs} pairs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
