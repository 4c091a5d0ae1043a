"""The metrics, at the address that other people's code knows; they live in `dhumandiff.evaluation.metrics`."""

from .evaluation.metrics import *  # noqa: F403  # all of it, under the old address
from .evaluation.metrics import __all__ as __all__
