"""What is refused, by the error's stable code instead of its sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def refused(code: str, *named: str, error: type[ValueError] = ValueError) -> Iterator[pytest.ExceptionInfo]:
    """The block raises an error of this code, and its message names each of `named`: a file, an input, a number.

    with refused("no-reference"):
        apply_pair(model, adapter, [])
    """
    with pytest.raises(error) as caught:
        yield caught
    found = getattr(caught.value, "code", None)  # ComfyUI has the pack under another name, and so another class
    assert found == code, f"code {found!r}: {caught.value}"
    lacking = [name for name in named if name not in str(caught.value)]
    assert not lacking, f"{lacking} not named in: {caught.value}"
