"""2-D convolution of signs with packed 1-bit weights: XNOR and population count.

Training computes scale * conv2d(sign(x + input_shift), sign(W)) + bias with zero padding; this is
the same function, bit for bit, for inference. arXiv:1603.05279 (section 3.2) has the idea; the
padding of zeros, which one bit cannot hold, is corrected for exactly. The input may come as packed
signs (binary_signs), and the result may leave as such: a threshold on the integer sum in place of
scale, bias and the next layer's sign.
"""

import functools
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from compactnets.kernels import native
from compactnets.kernels.binary_pack import LANES, blocks_and_steps, pack_weight, unpack_weight
from compactnets.kernels.binary_signs import pack_bits, unpack_signs, words_of
from compactnets.kernels.geometry import pair, positions
from compactnets.kernels.operator import Operator

__all__ = [
    "binary_conv2d",
    "binary_conv2d_reference",
    "binary_conv2d_signs",
    "binary_conv2d_signs_reference",
    "pack_weight",
    "unpack_weight",
]


class Geometry(NamedTuple):
    """Checked arguments of a convolution; in_channels is None for an input of floats."""

    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    in_channels: int | None


@functools.lru_cache(maxsize=1024)
def _geometry_of(kernel_size, stride, padding, dilation, groups, in_channels) -> Geometry:
    return Geometry(
        pair("kernel_size", kernel_size),
        pair("stride", stride),
        pair("padding", padding, least=0),
        pair("dilation", dilation),
        groups,
        in_channels,
    )


def _geometry(
    kernel_size, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1, in_channels=None
) -> Geometry:
    """ValueError that names the argument; one integer stands for two equal ones."""
    try:
        return _geometry_of(kernel_size, stride, padding, dilation, groups, in_channels)
    except TypeError:  # lists: not to be looked up
        sizes = (s if isinstance(s, int) else tuple(s) for s in (kernel_size, stride, padding))
        dilation = dilation if isinstance(dilation, int) else tuple(dilation)
        return _geometry_of(*sizes, dilation, groups, in_channels)


def _result_shape(
    x: torch.Size, outputs: int, geometry: Geometry, as_signs: bool
) -> tuple[tuple[int, ...], int]:
    """Shape of the result and the number of input channels; ValueError if x does not fit."""
    size = x[1:3] if geometry.in_channels is not None else x[2:4]
    channels = x[1] if geometry.in_channels is None else geometry.in_channels
    height, width = (
        positions(
            size[axis],
            geometry.kernel_size[axis],
            geometry.stride[axis],
            geometry.padding[axis],
            geometry.dilation[axis],
        )
        for axis in (0, 1)
    )
    if as_signs:
        return (x[0], height, width, words_of(outputs)), channels
    return (x[0], outputs, height, width), channels


_result_shape_cached = functools.lru_cache(maxsize=1024)(_result_shape)


def _check(x, packed, rule, bias, input_shift, geometry: Geometry, as_signs: bool) -> None:
    """TypeError for a wrong dtype, ValueError for shapes and devices that do not fit."""
    name = "threshold" if as_signs else "scale"
    floats = torch.float32
    if geometry.in_channels is None:
        if x.dim() != 4:
            raise ValueError(f"x must be (N, C, H, W), got shape {tuple(x.shape)}")
        channels = x.shape[1]
    else:
        channels = geometry.in_channels
        if x.dim() != 4 or x.shape[3] != words_of(channels):
            raise ValueError(
                f"x must be signs (N, H, W, {words_of(channels)}) of {channels} channels, "
                f"got shape {tuple(x.shape)}"
            )
        if input_shift is not None:
            raise ValueError("input_shift is for floats: signs are signs already")
    for what, value, dtype in (
        ("x", x, floats if geometry.in_channels is None else torch.int32),
        ("packed", packed, torch.int32),
        (name, rule, torch.int32 if as_signs else floats),
        ("bias", bias, floats),
        ("input_shift", input_shift, floats),
    ):
        if value is not None and value.dtype is not dtype:
            raise TypeError(f"{what} must be {str(dtype)[6:]}, got {value.dtype}")
        if value is not None and value.device != x.device:
            raise ValueError(f"{what} is on {value.device}, x on {x.device}")
    if rule.dim() != 1:
        raise ValueError(f"{name} must have shape (out,), got {tuple(rule.shape)}")
    outputs, groups = rule.shape[0], geometry.groups
    if groups < 1 or channels % groups or outputs % groups:
        raise ValueError(f"groups={groups} does not divide {channels} inputs, {outputs} outputs")
    for what, value, size in (("bias", bias, outputs), ("input_shift", input_shift, channels)):
        if value is not None and tuple(value.shape) != (size,):
            raise ValueError(f"{what} must have shape ({size},), got {tuple(value.shape)}")
    expected = (*blocks_and_steps(outputs, channels, geometry.kernel_size, groups), LANES)
    if channels == 0 or tuple(packed.shape) != expected:
        raise ValueError(
            f"packed has shape {tuple(packed.shape)}; {channels} inputs, {outputs} outputs, kernel "
            f"{geometry.kernel_size} and groups={groups} need {expected}"
        )
    _result_shape(x.shape, outputs, geometry, as_signs)


def _memory_format(x: Tensor) -> torch.memory_format:
    """The result's: channels_last if x has its channels side by side, else contiguous."""
    last = x.dtype is torch.int32 or x.stride(1) == 1
    return torch.channels_last if last else torch.contiguous_format


def _dots(x, packed, outputs, input_shift, geometry: Geometry) -> Tensor:
    """The convolution of signs, whole numbers in float32."""
    channels = geometry.in_channels or x.shape[1]
    weight = unpack_weight(packed, outputs, channels, geometry.kernel_size, geometry.groups)
    if geometry.in_channels is not None:
        signs = unpack_signs(x, channels)
    else:
        shifted = x if input_shift is None else x + input_shift[:, None, None]
        signs = torch.where(shifted >= 0, 1.0, -1.0)
    with torch.autocast(x.device.type, enabled=False):
        dots = F.conv2d(signs, weight, None, *geometry[1:5])
    return dots.round()  # an FFT or Winograd algorithm is not exact


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
    in_channels: int | None = None,
) -> Tensor:
    """y = scale * conv2d(sign(x + input_shift), weight) + bias with zero padding, in plain PyTorch.

    x (N, C, H, W) float32, any strides, or packed signs, int32 (N, H, W, words) of in_channels
    channels; packed from pack_weight; scale, bias (out,) and input_shift (C,) float32.
    sign(±0) = +1, sign(NaN) = -1. Returns float32 (N, out, H', W'), channels_last if x is packed or
    has channel stride 1, else contiguous. The convolution is an exact integer; the product with
    scale and the sum with bias are rounded once each. Any device; no gradient.
    TypeError for a wrong dtype, ValueError for shapes, devices and geometry that do not fit.
    """
    geometry = _geometry(kernel_size, stride, padding, dilation, groups, in_channels)
    _check(x, packed, scale, bias, input_shift, geometry, as_signs=False)
    y = _dots(x, packed, scale.shape[0], input_shift, geometry) * scale[:, None, None]
    y = y if bias is None else y + bias[:, None, None]
    return torch.empty_like(y, memory_format=_memory_format(x)).copy_(y)


def binary_conv2d_signs_reference(
    x: Tensor,
    packed: Tensor,
    threshold: Tensor,
    input_shift: Tensor | None = None,
    *,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
    in_channels: int | None = None,
) -> Tensor:
    """Packed signs of conv2d(sign(x + input_shift), weight) - threshold: -1 below the threshold.

    threshold (out,) int32; returns int32 (N, H', W', ceil(out / 32)). The rest is as in
    binary_conv2d_reference.
    """
    geometry = _geometry(kernel_size, stride, padding, dilation, groups, in_channels)
    _check(x, packed, threshold, None, input_shift, geometry, as_signs=True)
    dots = _dots(x, packed, threshold.shape[0], input_shift, geometry).to(torch.int32)
    return pack_bits(dots < threshold[:, None, None])


_SCHEMA = (
    "(Tensor x, Tensor packed, %s, Tensor? input_shift=None, *, int[2] kernel_size, "
    "int[2] stride=1, int[2] padding=0, int[2] dilation=1, int groups=1, int? in_channels=None) "
    "-> Tensor"
)


def _fake(x, packed, scale, bias=None, input_shift=None, **options):
    geometry = _geometry(**options)
    _check(x, packed, scale, bias, input_shift, geometry, as_signs=False)
    shape, _ = _result_shape(x.shape, scale.shape[0], geometry, False)
    return x.new_empty(shape, dtype=torch.float32).contiguous(memory_format=_memory_format(x))


def _fake_signs(x, packed, threshold, input_shift=None, **options):
    geometry = _geometry(**options)
    _check(x, packed, threshold, None, input_shift, geometry, as_signs=True)
    shape, _ = _result_shape(x.shape, threshold.shape[0], geometry, True)
    return x.new_empty(shape, dtype=torch.int32)


def _call(module: ModuleType, x, packed, rule, bias, input_shift, geometry, as_signs: bool):
    """The compiled operator; it refuses what does not fit, in less telling words than _check."""
    shape, channels = _result_shape_cached(x.shape, rule.shape[0], geometry, as_signs)
    memory_format = torch.channels_last
    if (x.dtype is torch.int32) != (geometry.in_channels is not None):
        raise TypeError("in_channels goes with int32 signs")
    if geometry.in_channels is not None:
        x = x.contiguous()
    elif x.stride(1) != 1:
        memory_format = torch.contiguous_format
        x = x.contiguous(memory_format=torch.channels_last)
    if as_signs:
        y = torch.empty(shape, dtype=torch.int32)
    else:
        _, outputs, height, width = shape  # channels_last, in the quickest words
        y = torch.empty_strided(shape, (height * width * outputs, 1, width * outputs, outputs))
    module.binary_conv2d(
        native.dlpack(x),
        native.dense(packed),
        native.dense(rule),
        native.dense(bias),
        native.dense(input_shift),
        native.dlpack(y),
        channels,
        *geometry[:5],
        torch.get_num_threads(),
    )
    if as_signs or memory_format is torch.channels_last:
        return y
    return torch.empty_like(y, memory_format=memory_format).copy_(y)


def _kernel(module: ModuleType):
    def run(x, packed, scale, bias=None, input_shift=None, **options):
        geometry = _geometry(**options)
        try:
            return _call(module, x, packed, scale, bias, input_shift, geometry, False)
        except Exception:
            _check(x, packed, scale, bias, input_shift, geometry, as_signs=False)
            raise

    return run


def _kernel_signs(module: ModuleType):
    def run(x, packed, threshold, input_shift=None, **options):
        geometry = _geometry(**options)
        try:
            return _call(module, x, packed, threshold, None, input_shift, geometry, True)
        except Exception:
            _check(x, packed, threshold, None, input_shift, geometry, as_signs=True)
            raise

    return run


# Arguments and result of binary_conv2d_reference; one int stands for two equal ones.
binary_conv2d = Operator(
    "binary_conv2d",
    binary_conv2d_reference,
    schema=_SCHEMA % "Tensor scale, Tensor? bias=None",
    fake=_fake,
    kernel=native.bind(_kernel),
)

# The same of binary_conv2d_signs_reference.
binary_conv2d_signs = Operator(
    "binary_conv2d_signs",
    binary_conv2d_signs_reference,
    schema=_SCHEMA % "Tensor threshold",
    fake=_fake_signs,
    kernel=native.bind(_kernel_signs),
)
