"""A GPU that is not there: tensors on `cuda:0` that know shape, dtype and device and hold no numbers.

    card = PretendedCard(ours="/path/of/the/pack/")
    with card:                      # PyTorch refuses mixed devices here, as CUDA does
        ...
        card.begin()
        model(torch.empty(1, 4, device="cuda"))
        card.launches, card.waits, card.copies, card.peak

It counts what a GPU would be asked for: kernels (attention is one), moments in which Python waits for it, copies that block, and
bytes that live on it. Numbers that Python asks for are made up (`answer`). Patches classes of PyTorch for good: use a process of
its own.
"""

from __future__ import annotations

import collections
import sys
import weakref

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CARD = torch.device("cuda:0")
_WAITING = ("aten::nonzero", "aten::equal", "aten::_unique2", "aten::unique_dim", "aten::masked_select")
_NO_KERNEL = (
    "aten::empty",
    "aten::empty_strided",
    "aten::empty_like",
    "aten::new_empty",
    "aten::lift_fresh",
    "aten::_unsafe_view",
)


class PretendedCard:
    """Counts what is asked of the card.

    Args:
        ours: beginning of the paths of files whose lines are named where something waits; else the line of whoever called.
        total: its bytes, for whoever asks.

    Attributes:
        launches: kernels. waits, copies: where Python waited for the card, and where a copy blocked -> how often.
        moved: bytes that were copied to or from it.
        live, peak: bytes on the card, now and at most.
    """

    def __init__(self, ours: str, total: int = 80 << 30) -> None:
        self.ours, self.total = ours, total
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.live = self.peak = self.launches = self.moved = 0
        self.waits, self.copies = collections.Counter(), collections.Counter()
        self._watch = _Watch(self)
        self._known = set()
        _patch(self)

    def __enter__(self):
        self.fake.__enter__()
        self._watch.__enter__()
        return self

    def __exit__(self, *error):
        self._watch.__exit__(*error)
        self.fake.__exit__(*error)

    def begin(self) -> None:
        """Count from here on."""
        self.launches, self.moved, self.peak = 0, 0, self.live
        self.waits.clear()
        self.copies.clear()

    def waited(self) -> None:
        """Note that the line that is running waits for the card."""
        self.waits[self._line()] += 1

    def copied(self) -> None:
        """Note that the line that is running copies from or to the card, and waits for it."""
        self.copies[self._line()] += 1

    def holds(self, tensor: Tensor) -> None:
        """Count the bytes behind a tensor for as long as they are there."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size

    def _line(self) -> str:
        frame, first = sys._getframe(2), None
        while frame is not None:
            name = frame.f_code.co_filename
            here = f"{name}:{frame.f_lineno}"
            if name.startswith(self.ours) and "/tests/" not in name:
                return here.removeprefix(self.ours)
            if (
                first is None
                and "site-packages" not in name
                and "/tests/" not in name
                and "patcher_extension" not in name
            ):
                first = here
            frame = frame.f_back
        return first or "?"


def to_card(module: torch.nn.Module, card: PretendedCard) -> torch.nn.Module:
    """Give a module pretended weights of the same shapes, on the CPU until somebody moves them."""
    for part in module.modules():
        for name, value in list(part._parameters.items()):
            if value is not None:
                part._parameters[name] = torch.nn.Parameter(card.fake.from_tensor(value.detach()), requires_grad=False)
        for name, value in list(part._buffers.items()):
            if value is not None:
                part._buffers[name] = card.fake.from_tensor(value)
    return module


def _on_card(*values) -> bool:
    return any(isinstance(value, FakeTensor) and value.device.type == "cuda" for value in tree_leaves(values))


class _Watch(TorchDispatchMode):
    """Sees every operation of PyTorch."""

    def __init__(self, card: PretendedCard) -> None:
        super().__init__()
        self.card = card

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, card, name = kwargs or {}, self.card, func._schema.name
        if name.startswith("aten::upsample_") and _on_card(
            args
        ):  # one kernel, which PyTorch knows as a dozen steps, too
            before = card.launches
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                card.launches = before + 1
                return out
        key = "CompositeImplicitAutograd"
        if func.namespace == "aten" and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key):
            with self:
                parts = func.decompose(*args, **kwargs)
                if parts is not NotImplemented:
                    return parts
        if name == "aten::_local_scalar_dense" and isinstance(args[0], FakeTensor):
            return _number(args[0], card)
        if name in _WAITING and _on_card(args):
            card.waited()
        if name == "aten::equal":
            return True
        to = kwargs.get("device")
        if to is not None and torch.device(to).type == "cuda":  # real tensors come along, too
            args = tuple(
                card.fake.from_tensor(one) if isinstance(one, Tensor) and not isinstance(one, FakeTensor) else one
                for one in args
            )
            for one in args:
                if isinstance(one, FakeTensor):
                    one.constant = None  # a number that PyTorch remembers, and would really copy
        out = func(*args, **kwargs)
        if name in ("aten::_to_copy", "aten::copy_"):
            source = args[0] if name == "aten::_to_copy" else args[1]
            hurried = kwargs.get("non_blocking", False) or (name == "aten::copy_" and len(args) > 2 and args[2])
            if isinstance(source, Tensor) and source.device.type != out.device.type:
                card.moved += out.numel() * out.element_size()
                if not hurried:
                    card.copied()
        if isinstance(out, FakeTensor) and out.dtype == torch.bool:
            out.pretended = name == "aten::all"  # what is asked for: all finite, none too large
        made = [value for value in tree_leaves(out) if isinstance(value, FakeTensor) and value.device.type == "cuda"]
        if made and not func.is_view and name not in _NO_KERNEL:
            card.launches += 1
        for value in made:
            card.holds(value)
        return out


def _number(tensor: Tensor, card: PretendedCard):
    """What Python is told when it asks for a number: yes, 1, or 5."""
    if tensor.device.type == "cuda":
        card.waited()
    if tensor.dtype == torch.bool:
        return getattr(tensor, "pretended", True)
    return 5.0 if tensor.dtype.is_floating_point else 1


def _patch(card: PretendedCard) -> None:
    """Ways of PyTorch around the dispatcher, which would ask a real driver."""
    FakeTensorMode.avoid_device_init = property(lambda self: True)

    def number(kind):
        return lambda tensor: kind(_number(tensor, card))

    for method, kind in (("__float__", float), ("__bool__", bool), ("__int__", int), ("__index__", int)):
        setattr(FakeTensor, method, number(kind))
    FakeTensor.item = lambda tensor: _number(tensor, card)

    def tolist(tensor):
        value = _number(tensor, card)
        for side in reversed(tensor.shape):
            value = [value] * side
        return value

    def numpy(tensor):
        return np.zeros(tuple(tensor.shape), "float32")

    FakeTensor.tolist, FakeTensor.numpy = tolist, numpy
    FakeTensor.copy_ = lambda tensor, source, non_blocking=False: torch.ops.aten.copy_.default(
        tensor, source, non_blocking
    )

    def contiguous(tensor, memory_format=torch.contiguous_format):
        if tensor.is_contiguous(memory_format=memory_format):
            return tensor
        return torch.ops.aten.clone.default(tensor, memory_format=memory_format)

    FakeTensor.contiguous = contiguous
    plain_get, plain_set = Tensor.__getitem__, Tensor.__setitem__

    def getitem(tensor, index):
        return _indexed(tensor, index) if _on_card(tensor) else plain_get(tensor, index)

    def setitem(tensor, index, value):
        if not _on_card(tensor):
            plain_set(tensor, index, value)
        elif _picks(index):
            torch.ops.aten.index_put_.default(tensor, _lists(tensor, index), value)
        elif isinstance(value, Tensor):
            _indexed(tensor, index).copy_(value)
        else:
            _indexed(tensor, index).fill_(value)

    for kind in (Tensor, FakeTensor):
        kind.__getitem__, kind.__setitem__ = getitem, setitem

    def attention(query, key, value, attn_mask=None, *_, **__):
        """One kernel, which lays its output out like its query: [B, positions, heads, channels] in memory."""
        if _on_card(query) and not (_on_card(key) and _on_card(value)):
            raise RuntimeError("Expected all tensors to be on the same device: query, key and value of attention")
        if attn_mask is not None and attn_mask.device != query.device:
            raise RuntimeError("Expected all tensors to be on the same device: the mask of attention")
        card.launches += _on_card(query)
        batch, heads, positions = query.shape[:3]
        shape = (batch, positions, heads, value.shape[-1])
        return torch.empty(shape, dtype=query.dtype, device=query.device).transpose(1, 2)

    F.scaled_dot_product_attention = attention

    def apply(module, change, recurse=True):
        for child in module.children():
            child._apply(change)
        for name, value in list(module._parameters.items()):
            if value is not None:
                module._parameters[name] = torch.nn.Parameter(change(value.detach()), requires_grad=False)
        for name, value in list(module._buffers.items()):
            if value is not None:
                module._buffers[name] = change(value)
        return module

    torch.nn.Module._apply = apply


def _picks(index) -> bool:
    """Whether an index holds lists or tensors of places."""
    many = index if isinstance(index, tuple) else (index,)
    return any(isinstance(one, (list, range)) or (isinstance(one, Tensor) and one.ndim > 0) for one in many)


def _lists(tensor, index):
    """A tuple of tensors of places; one on the CPU goes to the card, which waits for it."""
    many = index if isinstance(index, tuple) else (index,)
    return [one.to(tensor.device) if isinstance(one, Tensor) else torch.tensor(one).to(tensor.device) for one in many]


def _indexed(tensor, index):
    """`tensor[index]` by operations of the dispatcher."""
    many = list(index) if isinstance(index, tuple) else [index]
    named = sum(one is not None and one is not Ellipsis for one in many)
    if Ellipsis in [one for one in many if not isinstance(one, Tensor)]:
        place = next(number for number, one in enumerate(many) if one is Ellipsis)
        many[place : place + 1] = [slice(None)] * (tensor.ndim - named)
    dim, places = 0, {}
    for one in many:
        if one is None:
            tensor = tensor.unsqueeze(dim)
            dim += 1
        elif isinstance(one, slice):
            if one != slice(None):
                tensor = torch.ops.aten.slice.Tensor(tensor, dim, one.start, one.stop, one.step or 1)
            dim += 1
        elif isinstance(one, (list, range)) or (isinstance(one, Tensor) and one.ndim > 0):
            places[dim] = one if isinstance(one, Tensor) else torch.tensor(list(one))
            dim += 1
        else:
            tensor = torch.ops.aten.select.int(tensor, dim, int(one))
    if not places:
        return tensor
    given = [places.get(number) for number in range(max(places) + 1)]
    given = [one if one is None else one.to(tensor.device) for one in given]
    return torch.ops.aten.index.Tensor(tensor, given)
