"""What all methods share: strengths and masks over the samples of a call."""

import torch

from dhumandiff.conditioning.batch_layout import BatchLayout
from dhumandiff.conditioning.identity import IdentityConditioning


def test_calls_that_go_on_at_once_keep_their_own_weights(monkeypatch):
    """ComfyUI's multi-GPU nodes call one thread a GPU; here the second call comes in the midst of the first."""
    left = torch.zeros(1, 4, 4)
    left[..., :2] = 1
    people = IdentityConditioning(2, masks=torch.stack([left, 1 - left]))
    one, other = (BatchLayout.of_whole_pictures(images, (4, 4)) for images in (1, 2))
    where = ((4, 4), 16, torch.device("cpu"), 0.5)
    alone = {layout: IdentityConditioning(2, masks=people.masks).weights(layout, *where) for layout in (one, other)}
    make = people._make_weights

    def interrupted(layout, *rest):
        made = make(layout, *rest)
        if layout is one:
            assert torch.equal(people.weights(other, *where), alone[other])
        return made

    monkeypatch.setattr(people, "_make_weights", interrupted)
    assert torch.equal(people.weights(one, *where), alone[one])
    assert torch.equal(people.weights(other, *where), alone[other])
