"""Train the adapter on prepared shards.

    python -m training train --config training/configs/sdxl.yaml --data.folders+ '{path: shards}' --run runs/pair
    accelerate launch -m training train ...                            several GPUs or machines, same result
    python -m training train --config ... --dry_run                    sizes, memory and steps; trains nothing

The same command goes on where the last one ended, for whatever reason.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

from .parsing import parse
from .run.config import TrainConfig

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Read the configuration, train, and say what was made. SystemExit 143 or 130 after a signal."""
    config, given = parse(
        TrainConfig,
        "train",
        argv,
        {"dry_run": "say what would be trained and how much memory it needs (an estimate); train nothing"},
    )
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if given["dry_run"]:
        from .run.estimate import dry_run

        print(dry_run(config))
        return

    from .run.loop import train

    ended = train(config)
    if int(os.environ.get("RANK", "0")) == 0:
        if ended.signal:
            print(
                f"Ended at step {ended.step} of {config.steps}: {ended.checkpoint}.\nNext: the same command goes on from there."
            )
        else:
            also = [f"{path}" for path in (ended.plot, ended.grid) if path is not None]
            print(
                f"Made {ended.checkpoint} (loss {ended.loss:.4f}){''.join(f', {path}' for path in also)}.\n"
                f"Next: python -m training export --run {ended.run} --out {ended.run}/export"
            )
    if ended.signal:
        raise SystemExit(130 if ended.signal == signal.SIGINT else 143)
