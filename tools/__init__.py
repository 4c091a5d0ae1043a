"""What writes workflows/, subgraphs/, and the frozen interface. Run from the repository's root: `python -m tools.workflows`."""
