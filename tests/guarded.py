"""Tensors beside memory that nobody may touch: reading one byte too far ends the process."""

import ctypes
import mmap
import sys

import torch
from torch import Tensor, nn

PAGE = mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)
_kept: list[mmap.mmap] = []  # mapped until the process ends


def guarded(x: Tensor, at_the_end: bool) -> Tensor:
    """A dense copy of x, strides kept, that ends before (or begins after) a forbidden page."""
    size = x.numel() * x.element_size()
    if size == 0:
        return x
    pages = -(-size // PAGE)
    region = mmap.mmap(-1, (pages + 2) * PAGE)
    _kept.append(region)
    address = ctypes.addressof(ctypes.c_char.from_buffer(region))
    for page in (0, pages + 1):
        if _libc.mprotect(ctypes.c_void_p(address + page * PAGE), PAGE, 0):  # PROT_NONE
            raise OSError(ctypes.get_errno(), "mprotect")
    offset = (pages + 1) * PAGE - size if at_the_end else PAGE
    flat = torch.frombuffer(region, dtype=x.dtype, count=x.numel(), offset=offset)
    order = sorted(range(x.dim()), key=lambda d: (x.stride(d), x.shape[d] == 1), reverse=True)
    dense = flat.view([x.shape[d] for d in order])
    copy = dense.permute([order.index(d) for d in range(x.dim())])
    return copy.copy_(x)


def guard_buffers(module: nn.Module, at_the_end: bool) -> nn.Module:
    """All buffers of a module beside forbidden pages."""
    for child in module.modules():
        for name, value in child.named_buffers(recurse=False):
            setattr(child, name, guarded(value, at_the_end))
    return module


def check(module: nn.Module, x: Tensor, **tolerance: float) -> None:
    """Runs a module with everything it reads beside forbidden pages; the result stays the same."""
    expected = module(x)
    for at_the_end in (True, False):
        y = guard_buffers(module, at_the_end)(guarded(x, at_the_end))
        torch.testing.assert_close(y, expected, equal_nan=True, **(tolerance or _EXACT))


_EXACT = {"rtol": 0.0, "atol": 0.0}


if __name__ == "__main__":  # does the guard bite?
    victim = guarded(torch.zeros(8), at_the_end=True)
    print("within", flush=True)
    ctypes.string_at(victim.data_ptr() + (int(sys.argv[1]) if len(sys.argv) > 1 else 0), 32)
    print("read", flush=True)
