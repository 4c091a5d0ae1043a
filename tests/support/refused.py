"""What is refused, by the error's stable code instead of its sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dhumandiff.errors import DHumanDiffError


@contextmanager
def refused(code: str, *named: str, error: type[DHumanDiffError] = DHumanDiffError) -> Iterator[pytest.ExceptionInfo]:
    """The block raises an error of this code, and its message names each of `named`: a file, an input, a number.

    with refused("no-reference"):
        apply_pair(model, adapter, [])
    """
    with pytest.raises(DHumanDiffError) as caught:
        yield caught
    assert caught.value.code == code, f"code {caught.value.code!r}: {caught.value}"
    assert isinstance(caught.value, error)
    lacking = [name for name in named if name not in str(caught.value)]
    assert not lacking, f"{lacking} not named in: {caught.value}"
