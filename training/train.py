"""Train the adapter on prepared shards.

    python -m training train --config training/configs/sdxl.yaml --data.folders+ '{path: shards}' --run runs/pair
    accelerate launch -m training train ...                            several GPUs or machines, same result
    python -m training train --config ... --dry_run                    sizes, memory and steps; trains nothing

The same command resumes where the last one ended, for whatever reason; so does `--run runs/pair` alone.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from .parsing import parse
from .run.config import TrainConfig

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Read the configuration, train, and report what was made.

    Raises:
        SystemExit: 143 or 130 after a signal.
    """
    config, given = parse(
        TrainConfig,
        "train",
        _with_settings_of_run(sys.argv[2:] if argv is None else argv),
        {"dry_run": "report what would be trained and how much memory it needs (an estimate); train nothing"},
    )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if given["dry_run"]:
        from .run.estimate import dry_run

        print(dry_run(config))
        return

    from .run.loop import train

    result = train(config)
    if int(os.environ.get("RANK", "0")) == 0:
        if result.signal:
            print(
                f"Ended at step {result.step} of {config.steps}: {result.checkpoint}.\n"
                f"Next, to go on from there: python -m training train --run {shlex.quote(str(result.run))}"
            )
        else:
            also = [f"{path}" for path in (result.plot, result.grid) if path is not None]
            print(
                f"Made {result.checkpoint} (loss {result.loss:.4f}){''.join(f', {path}' for path in also)}.\n"
                f"Next: python -m training export --run {shlex.quote(str(result.run))} --out {shlex.quote(f'{result.run}/export')}"
            )
    if result.signal:
        raise SystemExit(130 if result.signal == signal.SIGINT else 143)


def _with_settings_of_run(words: Sequence[str]) -> list[str]:
    """`--run X` without settings or folders means the run that is there, with the settings it was started with; flags change them."""
    if any(word.startswith(("--config", "--data.folders", "--data=")) or word == "--data" for word in words):
        return list(words)
    for number, word in enumerate(words):
        name, _, value = word.partition("=")
        if name == "--run":
            from .run.checkpoint import CONFIG_FILE  # brings torch, which --help does without

            config = Path(value or (words[number + 1] if number + 1 < len(words) else "")) / CONFIG_FILE
            if config.is_file():
                return ["--config", str(config), *words]
    return list(words)
