"""The commands of the project.

    python -m dhumandiff generate --person-1 A.jpg --person-2 B.jpg --prompt ... --base SDXL --out P.png
    python -m dhumandiff doctor [--models models]              say what is missing for a first portrait
    python -m dhumandiff download [--to models/dhumandiff]     fetch the released weights
    python -m dhumandiff inspect FILE [--json]                 say what a weights file is
    python -m dhumandiff convert SRC DST [--force]             turn one format into another

Each command is a module in cli/ with `add_parser(subparsers)` and `run(args)`, which may return an exit code.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from .cli import COMMANDS
from .errors import DHumanDiffError
from .io import print_any_letter, why_not_written


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 for an error that the message explains, 2 for a wrong command line."""
    print_any_letter()
    parser = argparse.ArgumentParser(prog="python -m dhumandiff", description="Portraits of two people with SDXL.")
    subparsers = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    args = parser.parse_args(argv)
    try:
        return args.run(args) or 0
    except DHumanDiffError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 1
    except OSError as error:  # a name or a place that the system does not like, wherever it was looked at first
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {why_not_written(error)}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
