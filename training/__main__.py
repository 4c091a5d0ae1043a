"""The commands of training.

    python -m training caption --data photos ...              pictures without captions -> captions
    python -m training prepare --data photos --out shards     pictures of two people -> shards
    python -m training train --config ... --run runs/pair     shards -> trained weights
    python -m training evaluate --run runs/pair --out scores  trained weights -> how good they are
    python -m training mini                                   the miniature, from nothing
    python -m training export --run runs/pair --out pair      trained weights -> files that the nodes load

Each command is a module with `main(argv) -> None`, imported when it is asked for; what goes wrong is raised as a
`DHumanDiffError`.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from dhumandiff.errors import DHumanDiffError
from dhumandiff.io import print_any_letter, why_not_written

COMMANDS = {
    "caption": (".caption", "have captions written for pictures that have none, by a function of yours"),
    "prepare": (".prepare", "turn pictures of two people into shards that training streams"),
    "train": (".train", "train the adapter on shards"),
    "evaluate": (".evaluate", "judge trained weights: by pictures of cases on any base, by the loss on held-out data"),
    "mini": (".miniature", "rebuild the miniature that ships, or train and judge a row of its table"),
    "export": (".export", "write trained weights as files that the nodes load, with a model card"),
}
"""Name of the command -> its module here, and what it does."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 for an error that the message explains, 2 for a wrong command line."""
    print_any_letter()
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(_help())
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        print(f"error: there is no command {name!r}. Choose one of: {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    try:
        module = import_module(COMMANDS[name][0], __package__ or "training")
    except ModuleNotFoundError as error:
        if error.name == f"{__package__}{COMMANDS[name][0]}":
            print(f"error: the command {name} is not part of this version.", file=sys.stderr)
        else:
            print(f"error: {name} needs {error.name}. Install it with: pip install '.[train]'", file=sys.stderr)
        return 1
    try:
        module.main(rest)
    except DHumanDiffError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 1
    except OSError as error:  # a name or a place that the system does not like, wherever it was looked at first
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {why_not_written(error)}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nerror: interrupted. Nothing finished is lost: the same command goes on from there.", file=sys.stderr)
        return 130
    return 0


def _help() -> str:
    lines = [f"  {name:<10} {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: python -m training COMMAND [settings]",
            "",
            "Train the adapter that keeps two people apart. In the order in which they are used:",
            *lines,
            "",
            "`python -m training COMMAND --help` explains its settings. On several GPUs or machines:",
            "`accelerate launch -m training train ...`.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
