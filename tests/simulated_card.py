"""A device without values in the place of a GPU: what a GPU would refuse, or would be waited for, is an error.

Tensors on PyTorch's meta device have a shape and a type and no values, so every operation is only asked for. It shows
that all of the work is asked of one device, in types that it has, not that the device does it right.
"""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CONVERSIONS = {"aten::to", "aten::_to_copy"}
COPIES = {"aten::copy_", *CONVERSIONS}
NUMBERS, TRUTHS = {"aten::item", "aten::_local_scalar_dense"}, {"aten::is_nonzero", "aten::equal"}


def tensors(*values) -> list[torch.Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, torch.Tensor)]


class SimulatedCard(TorchDispatchMode):
    """AssertionError for an operation on tensors of several devices (a CPU tensor without dimensions may take part, as
    on a GPU), for float64 that is made on the card or sent to it, as MPS has none, and, unless it may `wait`, for
    a value that is asked of the card. With `wait`, made-up values come back.

    alone: every tensor of an operation has to be on the card; nothing is sent there.
    """

    def __init__(self, wait: bool = False, alone: bool = False):
        super().__init__()
        self.wait, self.alone = wait, alone
        # Values of the largest tensor that was made away from the card.
        self.largest_elsewhere = 0
        self.generator = torch.Generator().manual_seed(0)

    def values(self, shape, dtype) -> torch.Tensor:
        assert self.wait, "a value is asked of the card, which is waited for"
        return (torch.rand(shape, generator=self.generator) + 0.5).to(dtype)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function.name().split(".")[0]
        given = tensors(args, kwargs)
        devices = {value.device.type for value in given if value.ndim or value.is_meta}
        if name in COPIES:
            source, target = args[0], args[0]
            if name == "aten::copy_":
                source = args[1]
            elif len(given) > 1:
                target = given[1]
            settings = tree_leaves((args[1:], kwargs)) if name in CONVERSIONS else []
            device = next((value for value in settings if isinstance(value, torch.device)), target.device)
            dtype = next((value for value in settings if isinstance(value, torch.dtype)), target.dtype)
            if source.is_meta and dtype != source.dtype:
                assert dtype != torch.float64, f"{name} makes float64 of a tensor on the card"
            if source.is_meta and device.type == "cpu":
                values = self.values(source.shape, dtype)
                return args[0].copy_(values) if name == "aten::copy_" else values
        elif name in NUMBERS | TRUTHS and "meta" in devices:
            number = self.values((), given[0].dtype).item()
            return number if name in NUMBERS else bool(number)
        elif name != "aten::_has_compatible_shallow_copy_type":
            assert len(devices) < 2, f"{function} on {sorted(devices)}"
        out = function(*args, **kwargs)
        made = tensors(out)
        assert not any(value.is_meta and value.dtype == torch.float64 for value in made), f"{function}: float64"
        self.largest_elsewhere = max([self.largest_elsewhere, *(value.numel() for value in made if not value.is_meta)])
        if self.alone:
            assert all(value.is_meta for value in [*given, *made]), f"{function} away from the card"
        return out


class Held(TorchDispatchMode):
    """Counts the bytes that tensors made meanwhile hold at once, in blocks of 512 as CUDA's allocator has them."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.alive: set[int] = set()

    def free(self, storage: int, size: int) -> None:
        self.alive.remove(storage)
        self.now -= size

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        known = self.alive | {value.untyped_storage()._cdata for value in tensors(args, kwargs)}
        for value in tensors(out):
            storage = value.untyped_storage()
            if storage._cdata not in known:
                known.add(storage._cdata)
                size = -(-storage.nbytes() // 512) * 512
                self.alive.add(storage._cdata)
                weakref.finalize(storage, self.free, storage._cdata, size)
                self.now += size
                self.most = max(self.most, self.now)
        return out
