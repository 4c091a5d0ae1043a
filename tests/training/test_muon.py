"""Muon: what its steps are, and that it can be put away and taken up again."""

import copy

import pytest
import torch
from torch import nn

from training.run.muon import Muon


def test_a_step_of_a_matrix_is_orthogonal_and_as_long_as_the_rate():
    weight = nn.Parameter(torch.randn(24, 16))
    before = weight.detach().clone()
    Muon([weight], [], muon_lr=0.02, lr=1.0).zero_grad()
    weight.grad = torch.randn(24, 16) * 1e-4
    Muon([weight], [], muon_lr=0.02, lr=1.0).step()
    lengths = torch.linalg.svdvals(weight - before) / (0.02 * (24 / 16) ** 0.5)
    assert lengths.min() > 0.6
    assert lengths.max() < 1.3


def test_a_convolution_counts_as_a_matrix_and_everything_else_moves_as_under_adamw():
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 8, 3)
    twin = copy.deepcopy(conv)
    muon = Muon([conv.weight], [conv.bias], muon_lr=0.1, lr=1e-2, weight_decay=0.1)
    adamw = torch.optim.AdamW([twin.bias], lr=1e-2, betas=(0.9, 0.99), weight_decay=0.1)
    picture = torch.randn(2, 3, 6, 6)
    for model, optimizer in ((conv, muon), (twin, adamw)):
        model(picture).square().sum().backward()
        optimizer.step()
    assert torch.equal(conv.bias, twin.bias)
    lengths = torch.linalg.svdvals((conv.weight - twin.weight * (1 - 0.1 * 0.1)).flatten(1))
    assert lengths.min() > 0.06
    assert lengths.max() < 0.13


def test_a_matrix_without_a_gradient_stays():
    weight = nn.Parameter(torch.ones(4, 4))
    Muon([weight], [], muon_lr=0.1, lr=1.0, weight_decay=0.5).step()
    assert torch.equal(weight, torch.ones(4, 4))


@pytest.mark.parametrize("split", [1, 3])
def test_a_state_that_was_saved_goes_on_as_if_nothing_had_happened(split):
    def trained(stops):
        torch.manual_seed(1)
        model = nn.Linear(6, 6)
        data = torch.randn(8, 6)

        def make():
            return Muon([model.weight], [model.bias], muon_lr=0.05, lr=0.01)

        optimizer = make()
        for step in range(5):
            if step in stops:
                kept = copy.deepcopy(optimizer.state_dict())
                optimizer = make()
                optimizer.load_state_dict(kept)
            optimizer.zero_grad()
            (model(data) - data.flip(1)).square().mean().backward()
            optimizer.step()
        return model.state_dict()

    whole, broken = trained(()), trained((split,))
    assert all(torch.equal(whole[name], broken[name]) for name in whole)
