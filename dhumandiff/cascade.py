"""The cascade's formulas, at the address that other people's code knows; they live in `dhumandiff.methods.paired.cascade`."""

from .methods.paired.cascade import *  # noqa: F403  # all of it, under the old address
from .methods.paired.cascade import __all__ as __all__
