"""From pictures of two people to shards, and from shards to batches.

To shards: pipeline.py, and what it uses: plan.py and sources.py list pictures, annotation.py reads what is known of them,
naming.py says which words mean whom, extract.py and match.py take one picture apart, encode.py runs the frozen encoders,
shards.py writes, report.py says what was made. From shards: dataset.py opens them, stream.py orders samples, batch.py
makes batches. contract.py and settings.py belong to both.
"""

from __future__ import annotations
