"""One training run. Read loop.py first; every other file is one word of it.

config, setup              what can be set; everything before the first step (TrainState)
base, model, init          the frozen base, base and adapter as one module, the adapter's initial weights
optim, muon, precision     what moves the weights, and in which dtype
sharding, parts            FSDP: each process has a part of base and adapter
checkpoint, resume         what is on the disk, and what a run must have in common with it
logging, timing, samples   console, log.jsonl, tensorboard, where the time goes, sample grids
validation, shutdown       the loss on other people; SIGTERM and Ctrl-C
estimate                   `train --dry_run`
"""

from __future__ import annotations
