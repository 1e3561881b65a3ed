"""Shift convolution: each channel of an image moves by whole pixels; no multiplication at all.

What a depthwise convolution with one-hot kernels computes (Shift, arXiv:1711.08141; the ghost
features of GhostSR, arXiv:2101.08525), at the speed of a copy.
"""

from types import ModuleType

import torch
from torch import Tensor, nn

from compactnets.kernels import native
from compactnets.kernels.operator import Operator


def _check(x: Tensor, shifts: Tensor) -> None:
    if x.dim() != 4:
        raise ValueError(f"x must be (N, C, H, W), got shape {tuple(x.shape)}")
    if shifts.dtype is not torch.int32:
        raise TypeError(f"shifts must be int32, got {shifts.dtype}")
    if shifts.shape != (x.shape[1], 2):
        raise ValueError(f"shifts must be ({x.shape[1]}, 2), got shape {tuple(shifts.shape)}")
    if shifts.device != x.device:
        raise ValueError(f"shifts is on {shifts.device}, x on {x.device}")


def _memory_format(x: Tensor) -> torch.memory_format:
    """The result's: channels_last where x has its channels side by side, else contiguous."""
    last = x.stride(1) == 1 and not x.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _stay(size: int, shift: int) -> slice:
    """Output positions whose source, `shift` further on, lies inside."""
    first = min(max(-shift, 0), size)
    return slice(first, max(min(size - shift, size), first))


def shift2d_reference(x: Tensor, shifts: Tensor) -> Tensor:
    """y[n, c, i, j] = x[n, c, i + dy, j + dx] with (dy, dx) = shifts[c]; zeros from outside.

    x (N, C, H, W) of any dtype and strides; shifts (C, 2) int32. Same shape and dtype,
    channels_last if x is, else contiguous. Differentiable in x: the gradient moves the opposite
    way. Any device. TypeError or ValueError for what does not fit.
    """
    _check(x, shifts)
    y = torch.zeros_like(x, memory_format=_memory_format(x))
    height, width = x.shape[2:]
    for dy, dx in shifts.unique(dim=0).tolist():
        channels = (shifts == torch.tensor((dy, dx), device=x.device)).all(1).nonzero()[:, 0]
        rows, columns = _stay(height, dy), _stay(width, dx)
        if rows.start < rows.stop and columns.start < columns.stop:
            source = x[:, channels, rows.start + dy : rows.stop + dy]
            y[:, channels, rows, columns] = source[..., columns.start + dx : columns.stop + dx]
    return y


def _fake(x, shifts):
    _check(x, shifts)
    return torch.empty_like(x, memory_format=_memory_format(x))


def _kernel(module: ModuleType):
    """The operator on the compiled module."""

    def run(x, shifts):
        _check(x, shifts)
        memory_format = _memory_format(x)
        x = x.contiguous(memory_format=memory_format)
        y = torch.empty_like(x, memory_format=memory_format)
        module.shift2d(
            native.dlpack(x),
            native.dense(shifts),
            native.dlpack(y),
            memory_format is torch.channels_last,
            torch.get_num_threads(),
        )
        return y

    return run


# Arguments and result of shift2d_reference.
shift2d = Operator(
    "shift2d",
    shift2d_reference,
    schema="(Tensor x, Tensor shifts) -> Tensor",
    fake=_fake,
    kernel=native.bind(_kernel),
)


def _remember(ctx, inputs, output):
    ctx.save_for_backward(inputs[1])


def _backward(ctx, gradient):
    (shifts,) = ctx.saved_tensors
    return shift2d(gradient, -shifts), None


shift2d.op.register_autograd(_backward, setup_context=_remember)


class ShiftConv2d(nn.Module):
    """Moves each channel by its (dy, dx): y[..., i, j] = x[..., i + dy, j + dx], zeros outside.

    shifts (C, 2) of integers. x (N, C, H, W) of any dtype, contiguous or channels_last (where runs
    of neighbouring channels that move together are fast). All state is in the buffer `shifts`.
    """

    shifts: Tensor

    def __init__(self, shifts: Tensor):
        super().__init__()
        if shifts.dim() != 2 or shifts.shape[1] != 2:
            raise ValueError(f"shifts must be (C, 2), got shape {tuple(shifts.shape)}")
        if shifts.is_floating_point() or shifts.dtype is torch.bool:
            raise TypeError(f"shifts must be integers, got {shifts.dtype}")
        self.register_buffer("shifts", shifts.detach().to(torch.int32, copy=True))

    @classmethod
    def from_kernel(cls, weight: Tensor) -> "ShiftConv2d":
        """From the one-hot kernels (C, 1, odd, odd) of a depthwise convolution, stride 1, padded
        to keep the size. ValueError if a kernel is not a single 1."""
        if weight.dim() != 4 or weight.shape[1] != 1 or not all(k % 2 for k in weight.shape[2:]):
            raise ValueError(f"weight must be (C, 1, odd, odd), got shape {tuple(weight.shape)}")
        flat = weight.detach().flatten(1)
        if not bool(((flat != 0).sum(1) == 1).all() and (flat.sum(1) == 1).all()):
            raise ValueError("weight must hold a single 1 in each kernel")
        height, width = weight.shape[2:]
        place = flat.argmax(1)
        dy = place.div(width, rounding_mode="floor") - height // 2
        return cls(torch.stack((dy, place % width - width // 2), 1))

    @classmethod
    def blank(cls, channels: int) -> "ShiftConv2d":
        """A layer that moves nothing, to load a state_dict into."""
        return cls(torch.zeros(channels, 2, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        return shift2d(x, self.shifts)

    def cost_macs(self, input_shape, output_shape) -> int:
        """None: memory moves, nothing is multiplied."""
        return 0

    def cost_weights(self) -> int:
        return 0

    def cost_bytes(self) -> int:
        """Two 32-bit integers a channel."""
        return 8 * len(self.shifts)

    def extra_repr(self) -> str:
        return f"{len(self.shifts)}, directions={len(self.shifts.unique(dim=0))}"
