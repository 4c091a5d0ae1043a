"""Turn pictures of two people into shards that training streams.

    python -m training prepare --data photos --out shards --dry_run       what would be done; needs no models
    python -m training prepare --config training/configs/prepare.yaml --data photos --out shards
    python -m training prepare ... --slice 3/16                           one of sixteen machines
    python -m training prepare --merge shards                             when all slices are there

Kill it whenever you like: the same command resumes, and the shards are the same bytes as without the interruption.
Pictures that cannot be used are set aside with the reason, in report.md.
"""

from __future__ import annotations

from collections.abc import Sequence

from .data.settings import PrepareSettings
from .parsing import parse

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> None:
    """The command.

    Args:
        argv: the words behind `prepare`; None: this program's own.

    Raises:
        DHumanDiffError: settings, pictures or models that cannot be used, or a disk that says no.
    """
    settings, given = parse(
        PrepareSettings, "prepare", argv, {"dry_run": "say what would be done; needs no models and does nothing"}
    )
    if not settings.merge:
        settings.check()
    from .data import (  # torch and the rest: only behind the settings, so that --help need not wait for them
        pipeline,
        plan,
    )

    if settings.merge:
        print(pipeline.merge_slices(settings))
    elif given["dry_run"]:
        print(plan.describe(settings))
    else:
        print(pipeline.prepare(settings))
