"""Weights of words, "(word:1.2)", as A1111 and ComfyUI write them."""

from __future__ import annotations

import re

__all__ = ["split_weights"]


def split_weights(text: str) -> list[tuple[str, float]]:
    r"""Split a prompt into (segment, weight), in order, by the bracket syntax of A1111 and ComfyUI.

    "(word)" is 1.1 times its surroundings, "(word:1.2)" is 1.2 whatever surrounds it, brackets nest, "\(" and "\)" are
    plain brackets. Unbalanced brackets are read as ComfyUI's comfy.sd1_clip.token_weights reads them. Empty groups
    vanish.
    """
    segments: list[tuple[str, float]] = []
    waiting = [(re.findall(r"\\[()]|.", text, re.DOTALL), 1.0)]  # a stack, so that deep nesting costs no recursion
    while waiting:
        atoms, weight = waiting.pop()
        parts = _outermost_groups(atoms)
        if len(parts) == 1 and not _is_group(parts[0]):
            segments.append(("".join(atom[-1] if atom in (r"\(", r"\)") else atom for atom in parts[0]), weight))
            continue
        # Groups and text in between go back on the stack, last first, so that they come off in order.
        waiting += [_unwrap(part, weight) if _is_group(part) else (part, weight) for part in reversed(parts)]
    return segments


def _outermost_groups(atoms: list[str]) -> list[list[str]]:
    """Outermost groups, brackets included, and the text between them."""
    parts: list[list[str]] = [[]]
    depth = 0
    for atom in atoms:
        if atom == "(" and depth == 0:
            parts.append([])
        parts[-1].append(atom)
        depth += (atom == "(") - (atom == ")")
        if atom == ")" and depth == 0:
            parts.append([])
    return [part for part in parts if part]


def _is_group(part: list[str]) -> bool:
    return len(part) > 1 and part[0] == "(" and part[-1] == ")"


def _unwrap(group: list[str], weight: float) -> tuple[list[str], float]:
    """A group's inside and its weight: the number behind the last colon, else 1.1 times the surroundings'."""
    inside = group[1:-1]
    colon = max((i for i, atom in enumerate(inside) if atom == ":"), default=0)
    if colon > 0:
        try:
            return inside[:colon], float("".join(inside[colon + 1 :]))
        except ValueError:
            pass
    return inside, weight * 1.1
