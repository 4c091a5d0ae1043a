"""What comes for an input when a node runs. ComfyUI looks at it only while it is not linked to another node: what a link brings may
be of any kind."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...dhumandiff.errors import HostError

__all__ = ["check_inputs"]

MAX_INT = 2**64
"""Whole numbers below it: seeds have 64 bits."""


def check_inputs(node: type[io.ComfyNode]) -> None:
    """Have a node look at numbers, texts, switches, pictures, masks and latents before it runs, by the types in its schema.

    A whole number that came as 7.0 is 7, and nothing for an optional input is as if it were not linked.
    """
    inner = node.__dict__["execute"].__func__
    signature = inspect.signature(inner)
    rest = next((name for name, one in signature.parameters.items() if one.kind is inspect.Parameter.VAR_KEYWORD), "")

    @functools.wraps(inner)
    def execute(cls: type[io.ComfyNode], *values: Any, **named: Any) -> io.NodeOutput:
        given = signature.bind(cls, *values, **named)
        for each in _inputs(node):
            needed = (
                each.id in signature.parameters and signature.parameters[each.id].default is inspect.Parameter.empty
            )
            place = given.arguments if each.id in signature.parameters else given.arguments.get(rest, {})
            if each.id not in place:
                continue
            if place[each.id] is None and not needed:
                del place[each.id]
            else:
                place[each.id] = _checked(each.get_io_type(), each.id, place[each.id])
        return inner(*given.args, **given.kwargs)

    node.execute = classmethod(execute)


@functools.cache
def _inputs(node: type[io.ComfyNode]) -> list[Any]:
    return list(node.define_schema().inputs)


def _checked(kind: str, name: str, value: Any) -> Any:
    if kind not in _KINDS:
        return value
    what, convert = _KINDS[kind]
    try:
        return convert(value)
    except (ValueError, OverflowError) as error:
        raise HostError(
            f"{name} is {type(value).__name__} {str(value)[:60]!r}: {what} is needed. Link a node that gives one, or set it here.",
            code="input-of-another-kind",
        ) from error


def _number(value: Any) -> Any:
    if (
        not isinstance(value, Real)
        or not math.isfinite(value)
        or (isinstance(value, Integral) and not -MAX_INT < int(value) < MAX_INT)
    ):
        raise ValueError
    return int(value) if isinstance(value, bool) else value


def _whole(value: Any) -> Any:
    number = _number(value)
    if number != int(number) or abs(number) >= MAX_INT:
        raise ValueError
    return int(number)


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError
    return value


def _switch(value: Any) -> Any:
    if not isinstance(value, Real) or value not in (0, 1):  # the text "no" would be taken for yes
        raise ValueError
    return bool(value)


def _pictures(value: Any) -> Any:
    if not isinstance(value, Tensor) or not value.ndim:
        raise ValueError
    return value


def _latent(value: Any) -> Any:
    if not isinstance(value, dict) or not isinstance(value.get("samples"), Tensor):
        raise ValueError
    numbers, mask = value.get("batch_index"), value.get("noise_mask")
    whole = numbers is None or (numbers and all(isinstance(one, Integral) and int(one) >= 0 for one in numbers))
    if not whole or not (mask is None or _is_filled(mask)):
        raise ValueError
    return value


def _is_filled(mask: Any) -> bool:
    return isinstance(mask, Tensor) and mask.is_floating_point() and mask.ndim > 1 and mask.numel() > 0


_KINDS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "INT": ("a whole number below 2 to the power of 64", _whole),
    "FLOAT": ("a number", _number),
    "STRING": ("a text", _text),
    "BOOLEAN": ("true or false", _switch),
    "IMAGE": ("an IMAGE", _pictures),
    "MASK": ("a MASK", _pictures),
    "LATENT": ("a LATENT", _latent),
}
