"""Parts of other people, named as "module:function" in a configuration."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

from dhumandiff.errors import DHumanDiffError

from . import TrainingError

__all__ = ["is_plugin", "make_plugin"]


def is_plugin(name: str) -> bool:
    """Whether a name is of the form module:function."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name) is not None


def make_plugin(name: str, field: str) -> Any:
    """What the function of "module:function" makes.

    Args:
        name: of the function; it is called without arguments.
        field: of the configuration that names it, for messages.

    Raises:
        TrainingError: it cannot be imported, or fails with an error that is not ours.
    """
    module, _, function = name.partition(":")
    try:
        make: Callable[[], Any] = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise TrainingError(
            f"{field} is {name!r}, which cannot be imported: {error}. Correct the name.", code="no-such-plugin"
        ) from error
    try:
        return make()
    except DHumanDiffError:
        raise
    except Exception as error:  # it is somebody else's code
        raise TrainingError(
            f"{field}: {name} failed with {type(error).__name__}: {error}.", code="plugin-failed"
        ) from error
