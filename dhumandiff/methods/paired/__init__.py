"""DHumanDiff: paired cross-attention, the subject prompt, and the cascade (arXiv 2511.16712)."""
