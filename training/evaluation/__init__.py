"""Scoring pictures of several people: what they should show (cases), how well they do (measure), and reports of it.

cases.py      reference pairs and sentences from a .jsonl, finished pictures in a folder, MultiID-Bench's folders
measure.py    one case -> one record: faces, likeness, right person, Copy-Paste, Blending, CLIP, scores of your own
tables.py     records -> means with intervals, by group, pair by pair against another run; Markdown, CSV, JSON
plots.py      identity against words, Copy-Paste against Sim_GT, distributions
page.py       one HTML page with every picture, its faces boxed, named and scored
"""

from __future__ import annotations
