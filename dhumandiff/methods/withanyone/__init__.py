"""WithAnyone: up to four people on FLUX.1, each in a region of their own (arXiv 2510.14975).

from dhumandiff.methods.withanyone import WithAnyone
"""

from .adapter import WithAnyone, WithAnyoneInfo
from .attention import region_residual
from .conditioning import WithAnyoneConditioning
from .regions import MAX_PEOPLE, Regions, box_weights, mask_weights, regions_of, token_grid

__all__ = [
    "MAX_PEOPLE",
    "Regions",
    "WithAnyone",
    "WithAnyoneConditioning",
    "WithAnyoneInfo",
    "box_weights",
    "mask_weights",
    "region_residual",
    "regions_of",
    "token_grid",
]
