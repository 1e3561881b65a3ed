"""2-D convolution of signs with packed 1-bit weights: XNOR and population count.

Training computes scale * conv2d(sign(x + input_shift), sign(W)) + bias with zero padding; this is
the same function, bit for bit, for inference. arXiv:1603.05279 (section 3.2) has the idea; the
padding of zeros, which one bit cannot hold, is corrected for exactly.
"""

import functools
from collections.abc import Sequence
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from compactnets.kernels import native
from compactnets.kernels.binary_pack import LANES, blocks_and_steps, pack_weight, unpack_weight
from compactnets.kernels.geometry import pair, positions
from compactnets.kernels.operator import Operator

__all__ = ["binary_conv2d", "binary_conv2d_reference", "pack_weight", "unpack_weight"]


def _output_shape(
    x: Sequence[int],
    packed: Sequence[int],
    scale: Sequence[int],
    bias: Sequence[int] | None,
    input_shift: Sequence[int] | None,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> tuple[int, int, int, int]:
    """Shape of the result, from shapes; ValueError that names the argument that does not fit."""
    if len(x) != 4:
        raise ValueError(f"x must be (N, C, H, W), got shape {tuple(x)}")
    for name, value, least in (
        ("kernel_size", kernel_size, 1),
        ("stride", stride, 1),
        ("padding", padding, 0),
        ("dilation", dilation, 1),
    ):
        if len(value) != 2 or min(value) < least:
            raise ValueError(f"{name} must be two integers >= {least}, got {tuple(value)}")
    if len(scale) != 1:
        raise ValueError(f"scale must have shape (out,), got {tuple(scale)}")
    channels, outputs = x[1], scale[0]
    if groups < 1 or channels % groups or outputs % groups:
        raise ValueError(f"groups={groups} does not divide {channels} inputs, {outputs} outputs")
    for name, value, size in (("bias", bias, outputs), ("input_shift", input_shift, channels)):
        if value is not None and tuple(value) != (size,):
            raise ValueError(f"{name} must have shape ({size},), got {tuple(value)}")
    expected = (*blocks_and_steps(outputs, channels, kernel_size, groups), LANES)
    if channels == 0 or tuple(packed) != expected:
        raise ValueError(
            f"packed has shape {tuple(packed)}; {channels} inputs, {outputs} outputs, kernel "
            f"{tuple(kernel_size)} and groups={groups} need {expected}"
        )
    height, width = (
        positions(x[2 + axis], kernel_size[axis], stride[axis], padding[axis], dilation[axis])
        for axis in (0, 1)
    )
    return x[0], outputs, height, width


_output_shape_cached = functools.lru_cache(maxsize=1024)(_output_shape)


def _check_tensors(
    x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None, input_shift: Tensor | None
) -> None:
    """TypeError for a wrong dtype, ValueError for tensors on different devices."""
    if packed.dtype is not torch.int32:
        raise TypeError(f"packed must be int32 from pack_weight, got {packed.dtype}")
    device = x.device
    if packed.device != device:
        raise ValueError(f"packed is on {packed.device}, x on {device}")
    named = (("x", x), ("scale", scale), ("bias", bias), ("input_shift", input_shift))
    for name, value in named:
        if value is None:
            continue
        if value.dtype is not torch.float32:
            raise TypeError(f"{name} must be float32, got {value.dtype}")
        if value.device != device:
            raise ValueError(f"{name} is on {value.device}, x on {device}")


def _shapes(x, packed, scale, bias, input_shift):
    """The first arguments of _output_shape."""
    return (
        x.shape,
        packed.shape,
        scale.shape,
        None if bias is None else bias.shape,
        None if input_shift is None else input_shift.shape,
    )


def _memory_format(x: Tensor) -> torch.memory_format:
    """The result's: channels_last if x has its channels side by side, else contiguous."""
    return torch.channels_last if x.stride(1) == 1 else torch.contiguous_format


def binary_conv2d_reference(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    input_shift: Tensor | None = None,
    *,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """y = scale * conv2d(sign(x + input_shift), weight) + bias with zero padding, in plain PyTorch.

    x (N, C, H, W) float32, any strides; packed from pack_weight; scale, bias (out,) and
    input_shift (C,) float32. sign(±0) = +1, sign(NaN) = -1. Returns float32 (N, out, H', W'),
    channels_last if x has channel stride 1, else contiguous. The convolution is an exact integer;
    the product with scale and the sum with bias are rounded once each. Any device; no gradient.
    TypeError for a wrong dtype, ValueError for shapes, devices and geometry that do not fit.
    """
    tensors = (x, packed, scale, bias, input_shift)
    _check_tensors(*tensors)
    _output_shape(*_shapes(*tensors), kernel_size, stride, padding, dilation, groups)
    weight = unpack_weight(packed, scale.shape[0], x.shape[1], kernel_size, groups)
    shifted = x if input_shift is None else x + input_shift[:, None, None]
    signs = torch.where(shifted >= 0, 1.0, -1.0)
    with torch.autocast(x.device.type, enabled=False):
        conv = F.conv2d(signs, weight, None, tuple(stride), tuple(padding), tuple(dilation), groups)
    y = conv.round() * scale[:, None, None]  # rounded: an FFT or Winograd algorithm is not exact
    y = y if bias is None else y + bias[:, None, None]
    return torch.empty_like(y, memory_format=_memory_format(x)).copy_(y)


_SCHEMA = (
    "(Tensor x, Tensor packed, Tensor scale, Tensor? bias=None, Tensor? input_shift=None, *, "
    "int[2] kernel_size, int[2] stride=1, int[2] padding=0, int[2] dilation=1, int groups=1) "
    "-> Tensor"
)


def _fake(
    x,
    packed,
    scale,
    bias=None,
    input_shift=None,
    *,
    kernel_size,
    stride=(1, 1),
    padding=(0, 0),
    dilation=(1, 1),
    groups=1,
):
    tensors = (x, packed, scale, bias, input_shift)
    _check_tensors(*tensors)
    shape = _output_shape(*_shapes(*tensors), kernel_size, stride, padding, dilation, groups)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=_memory_format(x))


def _kernel(module: ModuleType):
    """The operator on the compiled module."""

    def run(
        x,
        packed,
        scale,
        bias=None,
        input_shift=None,
        *,
        kernel_size,
        stride=(1, 1),
        padding=(0, 0),
        dilation=(1, 1),
        groups=1,
    ):
        tensors = (x, packed, scale, bias, input_shift)
        _check_tensors(*tensors)
        geometry = (
            pair("kernel_size", kernel_size),
            pair("stride", stride),
            pair("padding", padding, least=0),
            pair("dilation", dilation),
            groups,
        )
        shape = _output_shape_cached(*_shapes(*tensors), *geometry)
        channels_last = x.stride(1) == 1
        if not channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        y = torch.empty(shape, memory_format=torch.channels_last)
        module.binary_conv2d(
            native.dlpack(x),
            *map(native.dense, (packed, scale, bias, input_shift)),
            native.dlpack(y),
            x.shape[1],
            *geometry,
            torch.get_num_threads(),
        )
        if channels_last:
            return y
        return torch.empty_like(y, memory_format=torch.contiguous_format).copy_(y)

    return run


# Arguments and result of binary_conv2d_reference; one int stands for two equal ones.
binary_conv2d = Operator(
    "binary_conv2d",
    binary_conv2d_reference,
    schema=_SCHEMA,
    fake=_fake,
    kernel=native.bind(_kernel),
)
