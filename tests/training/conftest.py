"""Fixtures of the tests that train: a small base, small shards, and a configuration for a quick run."""

import pytest
import torch
from support.shards import make_shards
from support.small_base import make_base, make_config


@pytest.fixture
def one_thread():
    """More threads would fight with other work for the cores, and add up in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def fresh_accelerate():
    """Accelerate keeps its precision for the life of a process, which here sees many runs."""
    AcceleratorState = pytest.importorskip("accelerate.state").AcceleratorState

    AcceleratorState._reset_state()


@pytest.fixture(scope="session")
def small_base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def small_shards(tmp_path_factory):
    return make_shards(
        tmp_path_factory.mktemp("data") / "shards", samples=8, buckets=((64, 64), (64, 96)), references=3
    )


@pytest.fixture
def config(small_base, small_shards, tmp_path):
    """name of the run, changes -> a configuration; see `small_base.make_config`."""

    def make(run="run", **changes):
        return make_config(small_base, small_shards, tmp_path / run, **changes)

    return make
