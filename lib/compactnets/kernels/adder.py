"""2-D adder convolution with packed weights: the negative L1 distance in place of the product.

y[n, o] = -sum |x - w[o]| over each window (AdderNet, arXiv:1912.13200, equation 2; in 8 bits with
one scale for x and w, arXiv:2101.10015): additions only. Zero padding is not neutral: a padded
position adds -|w|. In 8 bits s * (q - z) stands for a real number with the same s and z for x and
w, so -sum |s (qx - z) - s (qw - z)| = -s * sum |qx - qw|, an exact integer times s; with two
different scales nothing of the kind holds.
"""

import functools
from collections.abc import Sequence
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from compactnets.kernels import native
from compactnets.kernels.adder_pack import (
    CODES,
    pack_adder_weight,
    packed_shape,
    unpack_adder_weight,
)
from compactnets.kernels.geometry import memory_format, pair, positions
from compactnets.kernels.operator import Operator

__all__ = [
    "adder_conv2d_packed",
    "adder_conv2d_packed_reference",
    "adder_distances",
    "pack_adder_weight",
    "unpack_adder_weight",
]


def adder_distances(
    x: Tensor,
    weight: Tensor,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    zero_point: int = 0,
) -> Tensor:
    """-sum |x - w| in plain PyTorch, one filter after the other: the definition.

    x (N, C, H, W), weight (out, C, kh, kw), of one dtype: float (any precision; differentiable
    with the true gradient, signs) or int8, uint8 (-> int32, exact). Padding adds zero_point.
    Memory for C * kh * kw copies of x.
    """
    (up, left), steps = pair("padding", padding, least=0), pair("stride", stride)
    if not x.is_floating_point():
        x, weight = x.int(), weight.int()
    padded = F.pad(x, (left, left, up, up), value=zero_point)
    windows = padded.unfold(2, weight.shape[2], steps[0]).unfold(3, weight.shape[3], steps[1])
    axes, kept = (1, 4, 5), torch.int32 if not x.is_floating_point() else None
    filters = weight[:, :, None, None]  # (out, C, 1, 1, kh, kw)
    return torch.stack([-(windows - w).abs().sum(axes, dtype=kept) for w in filters], dim=1)


def _output_shape(
    dtype: torch.dtype,
    x: Sequence[int],
    packed: Sequence[int],
    scale: Sequence[int] | None,
    bias: Sequence[int] | None,
    out_channels: int,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    zero_point: int,
) -> tuple[int, int, int, int]:
    """Shape of the result, from shapes; ValueError that names the argument that does not fit."""
    if len(x) != 4:
        raise ValueError(f"x must be (N, C, H, W), got shape {tuple(x)}")
    for name, value, least in (
        ("kernel_size", kernel_size, 1),
        ("stride", stride, 1),
        ("padding", padding, 0),
    ):
        if len(value) != 2 or min(value) < least:
            raise ValueError(f"{name} must be two integers >= {least}, got {tuple(value)}")
    for name, value in (("scale", scale), ("bias", bias)):
        if value is not None and tuple(value) != (out_channels,):
            raise ValueError(f"{name} must have shape ({out_channels},), got {tuple(value)}")
    if bias is not None and scale is None and dtype in CODES:
        raise ValueError("bias needs a scale beside it: without one the result is int32")
    if out_channels < 1 or x[1] < 1:
        raise ValueError(f"x has {x[1]} channels, out_channels={out_channels}: both must be >= 1")
    expected = packed_shape(dtype, out_channels, x[1], kernel_size, stride)
    if tuple(packed) != expected:
        raise ValueError(
            f"packed has shape {tuple(packed)}; {x[1]} inputs, {out_channels} outputs, kernel "
            f"{tuple(kernel_size)} and stride {tuple(stride)} need {expected}"
        )
    low, high = (-128, 127) if dtype is torch.int8 else (0, 255 if dtype is torch.uint8 else 0)
    if not low <= zero_point <= high:
        raise ValueError(f"zero_point must be in {low}..{high} for {dtype}, got {zero_point}")
    height, width = (
        positions(x[2 + axis], kernel_size[axis], stride[axis], padding[axis]) for axis in (0, 1)
    )
    return x[0], out_channels, height, width


_output_shape_cached = functools.lru_cache(maxsize=1024)(_output_shape)


def _check_tensors(x: Tensor, packed: Tensor, scale: Tensor | None, bias: Tensor | None) -> None:
    """TypeError for a wrong dtype, ValueError for tensors on different devices."""
    if x.dtype is not torch.float32 and x.dtype not in CODES:
        raise TypeError(f"x must be float32, int8 or uint8, got {x.dtype}")
    if packed.dtype is not x.dtype:
        raise TypeError(f"packed must be {x.dtype} as x is, got {packed.dtype}")
    for name, value in (("packed", packed), ("scale", scale), ("bias", bias)):
        if value is not None and value.device != x.device:
            raise ValueError(f"{name} is on {value.device}, x on {x.device}")
    for name, value in (("scale", scale), ("bias", bias)):
        if value is not None and value.dtype is not torch.float32:
            raise TypeError(f"{name} must be float32, got {value.dtype}")


def _shapes(x, packed, scale, bias):
    """The first arguments of _output_shape."""
    scales, biases = (None if value is None else value.shape for value in (scale, bias))
    return x.dtype, x.shape, packed.shape, scales, biases


def _result_dtype(x: Tensor, scale: Tensor | None) -> torch.dtype:
    return torch.int32 if x.dtype in CODES and scale is None else torch.float32


def adder_conv2d_packed_reference(
    x: Tensor,
    packed: Tensor,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
    *,
    out_channels: int,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    zero_point: int = 0,
) -> Tensor:
    """y = scale * -(sum |x - w|) + bias, in plain PyTorch.

    x (N, C, H, W), any strides, float32 or 8-bit codes (int8, uint8) that share scale and zero
    point with the weight's; packed of the same dtype from pack_adder_weight at this stride; scale,
    bias (out,) float32: a batch normalization folds into them (never into w: |x - w| is not linear
    in w), and so does the codes' scale. zero_point: the code that padding adds (float32: 0).
    Returns (N, out, H', W'), channels_last if x has channel stride 1, else contiguous: float32, or
    int32 for codes without a scale, which is exact while C * kh * kw < 2^23. NaN and infinities
    act as they do in |x - w|. Any device; no gradient (adder_conv2d has one).
    TypeError for a wrong dtype, ValueError for shapes, devices and geometry that do not fit.
    """
    tensors = (x, packed, scale, bias)
    _check_tensors(*tensors)
    _output_shape(*_shapes(*tensors), out_channels, kernel_size, stride, padding, zero_point)
    weight = unpack_adder_weight(packed, out_channels, x.shape[1], kernel_size, stride)
    y = adder_distances(x, weight, tuple(stride), tuple(padding), zero_point)
    if scale is not None:
        y = y.float() * scale[:, None, None]
    if bias is not None:
        y = y + bias[:, None, None]
    return torch.empty_like(y, memory_format=memory_format(x)).copy_(y)


_SCHEMA = (
    "(Tensor x, Tensor packed, Tensor? scale=None, Tensor? bias=None, *, int out_channels, "
    "int[2] kernel_size, int[2] stride=1, int[2] padding=0, int zero_point=0) -> Tensor"
)


def _fake(
    x,
    packed,
    scale=None,
    bias=None,
    *,
    out_channels,
    kernel_size,
    stride=(1, 1),
    padding=(0, 0),
    zero_point=0,
):
    tensors = (x, packed, scale, bias)
    _check_tensors(*tensors)
    shape = _output_shape(
        *_shapes(*tensors), out_channels, kernel_size, stride, padding, zero_point
    )
    dtype = _result_dtype(x, scale)
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=memory_format(x))


def _kernel(module: ModuleType):
    """The operator on the compiled module."""

    def run(
        x,
        packed,
        scale=None,
        bias=None,
        *,
        out_channels,
        kernel_size,
        stride=(1, 1),
        padding=(0, 0),
        zero_point=0,
    ):
        tensors = (x, packed, scale, bias)
        _check_tensors(*tensors)
        geometry = (
            pair("kernel_size", kernel_size),
            pair("stride", stride),
            pair("padding", padding, least=0),
        )
        shape = _output_shape_cached(*_shapes(*tensors), out_channels, *geometry, zero_point)
        y = torch.empty(shape, dtype=_result_dtype(x, scale), memory_format=torch.channels_last)
        threads = torch.get_num_threads()
        others = (*map(native.dense, (scale, bias)), native.dlpack(y))
        if x.dtype is torch.float32:
            module.adder_floats(
                native.dlpack(x), native.dense(packed), *others, *geometry, False, threads
            )
        else:
            flip = 128 if x.dtype is torch.int8 else 0
            run_bytes = module.adder_bytes_int if scale is None else module.adder_bytes_float
            run_bytes(
                native.dlpack(x.view(torch.uint8)),
                native.dense(packed.view(torch.uint8)),
                *others,
                flip,
                zero_point + flip,
                *geometry,
                threads,
            )
        if x.stride(1) == 1:
            return y
        return torch.empty_like(y, memory_format=torch.contiguous_format).copy_(y)

    return run


# Arguments and result of adder_conv2d_packed_reference; one int stands for two equal ones.
adder_conv2d_packed = Operator(
    "adder_conv2d_packed",
    adder_conv2d_packed_reference,
    schema=_SCHEMA,
    fake=_fake,
    kernel=native.bind(_kernel),
)
