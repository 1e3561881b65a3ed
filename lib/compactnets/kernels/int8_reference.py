"""References of the int8 products: what they compute, in plain PyTorch, and what they refuse.

With x ~ x_scale * (q - x_zero) and W[o] ~ w_scale[o] * w[o] a layer is

    y[o] = scale[o] * sum_k (q[k] - x_zero) w[o, k] + bias[o],   scale = x_scale * w_scale,

where the sum is an exact integer (arXiv:1712.05877, section 2). The result is float32, or, with
scale and bias divided by the result's own step, bytes: clamp(round(y) + y_zero), halves to even.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from compactnets.kernels.geometry import conv_geometry, memory_format, positions
from compactnets.kernels.int8_pack import packed_shape, unpack_int8

_LIMITS = {torch.uint8: (0, 255), torch.int8: (-128, 127)}
_DTYPES = (torch.float32, torch.uint8, torch.int8)


def _check_channels(outputs: int, channels: int, groups: int) -> None:
    if groups < 1 or channels % groups or outputs % groups:
        raise ValueError(f"groups={groups} does not divide {channels} inputs, {outputs} outputs")


def conv_shape(
    x: Sequence[int],
    packed: Sequence[int],
    outputs: int,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> tuple[int, int, int, int]:
    """Shape of a convolution's result; ValueError that names the argument that does not fit."""
    if len(x) != 4:
        raise ValueError(f"x must be (N, C, H, W), got shape {tuple(x)}")
    _check_channels(outputs, x[1], groups)
    expected = packed_shape(outputs, x[1], kernel_size, groups, dilation[1])
    if x[1] == 0 or tuple(packed) != expected:
        raise ValueError(
            f"packed has shape {tuple(packed)}; {x[1]} inputs, {outputs} outputs, kernel "
            f"{kernel_size}, groups={groups} and dilation={dilation} need {expected}"
        )
    height, width = (
        positions(x[2 + axis], kernel_size[axis], stride[axis], padding[axis], dilation[axis])
        for axis in (0, 1)
    )
    return x[0], outputs, height, width


def linear_shape(x: Sequence[int], packed: Sequence[int], outputs: int) -> tuple[int, ...]:
    """Shape of a linear layer's result."""
    if len(x) < 1 or x[-1] == 0:
        raise ValueError(f"x must be (..., in), got shape {tuple(x)}")
    expected = packed_shape(outputs, x[-1], (1, 1), 1, 1)
    if tuple(packed) != expected:
        raise ValueError(
            f"packed has shape {tuple(packed)}; {x[-1]} inputs and {outputs} outputs need "
            f"{expected}"
        )
    return (*x[:-1], outputs)


def check_signature(
    dtypes: tuple[torch.dtype | None, ...],
    scale: Sequence[int],
    bias: Sequence[int] | None,
    x_zero: int,
    out_dtype: torch.dtype | None,
    y_zero: int,
) -> None:
    """TypeError for a wrong dtype (of x, packed, scale, bias), ValueError for what does not fit."""
    if dtypes[0] not in _DTYPES:
        raise TypeError(f"x must be uint8, int8 or float32, got {dtypes[0]}")
    if dtypes[1] is not torch.int8:
        raise TypeError(f"packed must be int8 from pack_int8, got {dtypes[1]}")
    for name, dtype in zip(("scale", "bias"), dtypes[2:], strict=True):
        if dtype not in (None, torch.float32):
            raise TypeError(f"{name} must be float32, got {dtype}")
    if out_dtype is not None and out_dtype not in _DTYPES:
        raise TypeError(f"out_dtype must be float32, uint8 or int8, got {out_dtype}")
    if len(scale) != 1:
        raise ValueError(f"scale must have shape (out,), got {tuple(scale)}")
    if bias is not None and tuple(bias) != tuple(scale):
        raise ValueError(f"bias must have shape {tuple(scale)}, got {tuple(bias)}")
    for name, zero, dtype in (("x_zero", x_zero, dtypes[0]), ("y_zero", y_zero, out_dtype)):
        low, high = _LIMITS.get(dtype or torch.float32, (0, 255))
        if not low <= zero <= high:
            raise ValueError(f"{name} must lie in [{low}, {high}], got {zero}")


def check_devices(x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None) -> None:
    """ValueError for tensors on different devices."""
    device = x.device
    for name, value in (("packed", packed), ("scale", scale), ("bias", bias)):
        if value is not None and value.device != device:
            raise ValueError(f"{name} is on {value.device}, x on {device}")


def check_arguments(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    x_zero: int,
    out_dtype: torch.dtype | None,
    y_zero: int,
) -> None:
    """TypeError for a wrong dtype, ValueError for devices, sizes and zero points."""
    dtypes = (x.dtype, packed.dtype, scale.dtype, None if bias is None else bias.dtype)
    bias_shape = None if bias is None else bias.shape
    check_signature(dtypes, scale.shape, bias_shape, x_zero, out_dtype, y_zero)
    check_devices(x, packed, scale, bias)


def int8_quantize_reference(x: Tensor, inverse: float, zero: int = 0) -> Tensor:
    """clamp(round(x * inverse) + zero, 0, 255) as uint8, of x's shape and memory format.

    inverse: 1 / step, rounded to float32; the product is rounded to float32, then halves to even.
    NaN becomes 0. TypeError unless x is float32; ValueError unless 0 <= zero <= 255.
    """
    check_quantize(x, zero)
    value = (x * inverse).nan_to_num(nan=-zero, posinf=torch.inf, neginf=-torch.inf)
    return (value.clamp(-zero, 255 - zero).round() + zero).to(torch.uint8)


def check_quantize(x: Tensor, zero: int) -> None:
    if x.dtype is not torch.float32:
        raise TypeError(f"x must be float32, got {x.dtype}")
    if not 0 <= zero <= 255:
        raise ValueError(f"zero must lie in [0, 255], got {zero}")


def _as_integers(
    x: Tensor, x_zero: int, x_inverse: float | None, dims: tuple[int, ...]
) -> tuple[Tensor, Tensor | None]:
    """x less its zero point, as exact float64, and the scales of a dynamic quantization.

    dims: over which one scale holds.
    """
    if x.dtype is not torch.float32:
        return x.double() - x_zero, None
    if x_inverse is not None:
        return int8_quantize_reference(x, x_inverse, x_zero).double() - x_zero, None
    largest = x.abs().nan_to_num(nan=0, posinf=torch.inf).amax(dims, keepdim=True)
    inverse = torch.where(largest > 0, 127 / largest, torch.zeros_like(largest))
    q = (x * inverse).nan_to_num(nan=-128).clamp(-128, 127).round()
    return q.double(), largest / 127


def _finish(
    sums: Tensor,
    row_scale: Tensor | None,
    scale: Tensor,
    bias: Tensor | None,
    relu: bool,
    out_dtype: torch.dtype | None,
    y_zero: int,
) -> Tensor:
    """The results of exact sums; every step is rounded to float32. scale, bias: broadcastable."""
    value = sums.float() if row_scale is None else sums.float() * row_scale
    value = value * scale
    value = value if bias is None else value + bias
    if out_dtype in (None, torch.float32):
        return value.relu() if relu else value
    low, high = (limit - y_zero for limit in _LIMITS[out_dtype])
    low = max(low, 0) if relu else low
    value = value.nan_to_num(nan=low, posinf=torch.inf, neginf=-torch.inf).clamp(low, high)
    return (value.round() + y_zero).to(out_dtype)


def int8_linear_reference(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    x_zero: int = 0,
    x_inverse: float | None = None,
    relu: bool = False,
    out_dtype: torch.dtype | None = None,
    y_zero: int = 0,
) -> Tensor:
    """y = scale * ((x - x_zero) @ weight.T) + bias, in plain PyTorch; (..., in) -> (..., out).

    packed from pack_int8; scale, bias (out,) float32. x uint8 or int8, or float32, which is
    quantized first: with x_inverse as int8_quantize does, to uint8 with zero point x_zero; without
    it row by row ("dynamic"), to round(x * 127 / max |row|), and then the sum is multiplied by
    max |row| / 127 before scale. relu: negative values become 0. out_dtype uint8 or int8:
    clamp(round(y) + y_zero), halves to even, NaN to the lowest. The result is contiguous. Any
    device; no gradient. TypeError for a wrong dtype, ValueError for shapes, devices, zero points.
    """
    check_arguments(x, packed, scale, bias, x_zero, out_dtype, y_zero)
    shape = linear_shape(tuple(x.shape), tuple(packed.shape), scale.shape[0])
    weight = unpack_int8(packed, scale.shape[0], x.shape[-1]).flatten(1)
    rows, row_scale = _as_integers(x.reshape(-1, x.shape[-1]), x_zero, x_inverse, (-1,))
    sums = rows @ weight.double().T
    return _finish(sums, row_scale, scale, bias, relu, out_dtype, y_zero).reshape(shape)


def int8_conv2d_reference(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    x_zero: int = 0,
    x_inverse: float | None = None,
    relu: bool = False,
    out_dtype: torch.dtype | None = None,
    y_zero: int = 0,
) -> Tensor:
    """y = scale * conv2d(x - x_zero, weight) + bias, in plain PyTorch; padding adds exact zeros.

    x (N, C, H, W); the rest is as in int8_linear, with one scale per image where x is quantized
    dynamically. The result is channels_last if x has channel stride 1, else contiguous.
    """
    check_arguments(x, packed, scale, bias, x_zero, out_dtype, y_zero)
    geometry = conv_geometry(kernel_size, stride, padding, dilation)
    conv_shape(tuple(x.shape), tuple(packed.shape), scale.shape[0], *geometry, groups)
    weight = unpack_int8(
        packed, scale.shape[0], x.shape[1], geometry[0], groups, geometry[3][1]
    ).double()
    images, row_scale = _as_integers(x, x_zero, x_inverse, (1, 2, 3))
    with torch.autocast(x.device.type, enabled=False):
        sums = F.conv2d(images, weight, None, *geometry[1:], groups)
    channels = (-1, 1, 1)
    y = _finish(
        sums,
        row_scale,
        scale.view(channels),
        None if bias is None else bias.view(channels),
        relu,
        out_dtype,
        y_zero,
    )
    return torch.empty_like(y, memory_format=memory_format(x)).copy_(y)
