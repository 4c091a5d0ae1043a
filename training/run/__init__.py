"""One training run: its config, loop, checkpoints, resume, and log."""
