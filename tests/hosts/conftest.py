"""Fixtures of the tests that load models from one file."""

import socket

import pytest

from dhumandiff import testing
from dhumandiff.formats import clip_vision


@pytest.fixture
def no_network(monkeypatch):
    """Whoever asks for a connection fails, and is told so."""

    def refuse(*_, **__):
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.fixture
def tower(monkeypatch):
    """A small image encoder of a kind that files are known to hold."""
    model = testing.tiny_vision().model
    sizes = (
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_hidden_layers",
        "hidden_act",
        "projection_dim",
    )
    config = {name: getattr(model.config, name) for name in (*sizes, "image_size", "patch_size")}
    kind = {"title": "a small one", "layers": config["num_hidden_layers"], "config": config}
    monkeypatch.setitem(clip_vision.KINDS, config["hidden_size"], kind)
    return model
