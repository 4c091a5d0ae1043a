"""Weights of words, by brackets."""

import pytest

from dhumandiff.prompts import split_weights


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("", []),
        ("a man", [("a man", 1.0)]),
        ("a (man:1.2) sits", [("a ", 1.0), ("man", 1.2), (" sits", 1.0)]),
        ("(a (b))", [("a ", 1.1), ("b", 1.1 * 1.1)]),
        ("((a):1.3)", [("a", 1.3 * 1.1)]),
        ("((a:0.5):1.3)", [("a", 0.5)]),
        (r"\(a\) (b\):2)", [("(a) ", 1.0), ("b)", 2.0)]),
        ("(a:b) ()", [("a:b", 1.1), (" ", 1.0)]),
        ("(:1.2)", [(":1.2", 1.1)]),
        ("a) (b:2)", [("a) (b:2)", 1.0)]),
        ("a (b", [("a ", 1.0), ("(b", 1.0)]),
    ],
)
def test_weights_are_split_by_brackets(text, segments):
    assert split_weights(text) == segments


def test_deep_nesting_is_no_problem():
    assert split_weights("(" * 2000 + "a" + ":0.7" + ")" * 2000) == [("a", 0.7)]
