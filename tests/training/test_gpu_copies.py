"""What only a GPU shows, on a pretended one: tensors that know their device and have no values."""

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from training.run.optim import EMA


class Copies(TorchDispatchMode):
    """Remembers whether copies to the CPU were waited for."""

    def __init__(self):
        super().__init__()
        self.waited = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._to_copy.default and str(kwargs.get("device")) == "cpu":
            self.waited.append(not kwargs.get("non_blocking", False))
        return func(*args, **kwargs)


def test_an_average_on_the_cpu_waits_for_the_weights_to_arrive():
    with FakeTensorMode(allow_non_fake_inputs=True):
        layer = nn.ParameterList([nn.Parameter(torch.empty(4, 4, device="cuda"))])
        averages = EMA(layer, 0.9, device="cpu")
        with Copies() as copies:
            averages.update()
    assert copies.waited == [True]
