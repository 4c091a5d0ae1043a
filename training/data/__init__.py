"""From pictures of two people to shards, and from shards to batches.

sources.py lists pictures, annotation.py reads what is known of them, naming.py says which words mean whom, people.py
looks at one picture, encode.py runs the frozen encoders, shards.py writes, report.py tells.
"""

from __future__ import annotations
