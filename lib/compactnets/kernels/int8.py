"""int8 products: linear layers and 2-D convolutions of bytes, exact sums, one scale per channel.

What they compute, bit for bit, stands in compactnets.kernels.int8_reference.
"""

import functools
from types import ModuleType

import torch

from compactnets.kernels import native
from compactnets.kernels.geometry import conv_geometry, memory_format
from compactnets.kernels.int8_pack import pack_int8, quantize_weight, unpack_int8
from compactnets.kernels.int8_reference import (
    check_arguments,
    check_devices,
    check_quantize,
    check_signature,
    conv_shape,
    int8_conv2d_reference,
    int8_linear_reference,
    int8_quantize_reference,
    linear_shape,
)
from compactnets.kernels.operator import Operator

__all__ = [
    "int8_conv2d",
    "int8_conv2d_reference",
    "int8_linear",
    "int8_linear_reference",
    "int8_quantize",
    "int8_quantize_reference",
    "pack_int8",
    "quantize_weight",
    "unpack_int8",
]

_SCHEMA = "(Tensor x, Tensor packed, Tensor scale, Tensor? bias=None, *, "
_OPTIONS = (
    "int x_zero=0, float? x_inverse=None, bool relu=False, ScalarType? out_dtype=None, "
    "int y_zero=0) -> Tensor"
)
_GEOMETRY = "int[2] kernel_size, int[2] stride=1, int[2] padding=0, int[2] dilation=1, int groups=1"


# What a call was accepted with once is looked up and not checked again. Not for torch.compile,
# whose sizes may be symbols. Devices are looked at in every call.
@functools.lru_cache(maxsize=1024)
def _linear_plan(x, packed, dtypes, scale, bias, x_zero, out_dtype, y_zero):
    """Shape and dtype of the result."""
    check_signature(dtypes, scale, bias, x_zero, out_dtype, y_zero)
    return linear_shape(x, packed, scale[0]), out_dtype or torch.float32


@functools.lru_cache(maxsize=1024)
def _conv_plan(x, packed, dtypes, scale, bias, sizes, groups, x_zero, out_dtype, y_zero):
    """Geometry of the convolution; shape, channels_last strides and dtype of the result."""
    check_signature(dtypes, scale, bias, x_zero, out_dtype, y_zero)
    geometry = conv_geometry(*sizes)
    shape = conv_shape(x, packed, scale[0], *geometry, groups)
    _, channels, height, width = shape
    strides = (channels * height * width, 1, channels * width, channels)
    return geometry, shape, strides, out_dtype or torch.float32


def _dtypes(x, packed, scale, bias):
    if not (packed.is_cpu and scale.is_cpu and (bias is None or bias.is_cpu)):
        check_devices(x, packed, scale, bias)
    return x.dtype, packed.dtype, scale.dtype, None if bias is None else bias.dtype


def _tuple(value):
    return value if isinstance(value, int) else tuple(value)


def _fake_quantize(x, inverse, zero=0):
    check_quantize(x, zero)
    return torch.empty_like(x, dtype=torch.uint8)


def _kernel_quantize(module: ModuleType):
    def run(x, inverse, zero=0):
        check_quantize(x, zero)
        y = torch.empty_like(x, dtype=torch.uint8)
        if x.stride() != y.stride():  # with gaps: empty_like has none
            x = torch.empty_like(y, dtype=torch.float32).copy_(x)
        flat = (y.numel(),), (1,)
        module.int8_quantize(
            native.dlpack(x.as_strided(*flat)),
            native.dlpack(y.as_strided(*flat)),
            inverse,
            zero,
            torch.get_num_threads(),
        )
        return y

    return run


def _fake_linear(
    x,
    packed,
    scale,
    bias=None,
    *,
    x_zero=0,
    x_inverse=None,
    relu=False,
    out_dtype=None,
    y_zero=0,
):
    check_arguments(x, packed, scale, bias, x_zero, out_dtype, y_zero)
    shape = linear_shape(tuple(x.shape), tuple(packed.shape), scale.shape[0])
    return torch.empty(shape, dtype=out_dtype or torch.float32, device=x.device)


def _kernel_linear(module: ModuleType):
    multiply = module.int8_linear

    def run(
        x,
        packed,
        scale,
        bias=None,
        *,
        x_zero=0,
        x_inverse=None,
        relu=False,
        out_dtype=None,
        y_zero=0,
    ):
        dtypes = _dtypes(x, packed, scale, bias)
        bias_shape = None if bias is None else bias.shape
        shape, dtype = _linear_plan(
            x.shape, packed.shape, dtypes, scale.shape, bias_shape, x_zero, out_dtype, y_zero
        )
        y = torch.empty(shape, dtype=dtype)
        if y.numel() == 0:
            return y
        matrix = len(shape) == 2
        multiply(
            native.dense(x if matrix else x.reshape(-1, x.shape[-1])),
            *map(native.dense, (packed, scale, bias)),
            native.dlpack(y if matrix else y.view(-1, shape[-1])),
            x_zero,
            0.0 if x_inverse is None else x_inverse,
            relu,
            y_zero,
            torch.get_num_threads(),
        )
        return y

    return run


def _fake_conv2d(
    x,
    packed,
    scale,
    bias=None,
    *,
    kernel_size,
    stride=(1, 1),
    padding=(0, 0),
    dilation=(1, 1),
    groups=1,
    x_zero=0,
    x_inverse=None,
    relu=False,
    out_dtype=None,
    y_zero=0,
):
    check_arguments(x, packed, scale, bias, x_zero, out_dtype, y_zero)
    geometry = conv_geometry(kernel_size, stride, padding, dilation)
    shape = conv_shape(tuple(x.shape), tuple(packed.shape), scale.shape[0], *geometry, groups)
    dtype = out_dtype or torch.float32
    return torch.empty(shape, dtype=dtype, device=x.device, memory_format=memory_format(x))


def _kernel_conv2d(module: ModuleType):
    convolve = module.int8_conv2d

    def run(
        x,
        packed,
        scale,
        bias=None,
        *,
        kernel_size,
        stride=(1, 1),
        padding=(0, 0),
        dilation=(1, 1),
        groups=1,
        x_zero=0,
        x_inverse=None,
        relu=False,
        out_dtype=None,
        y_zero=0,
    ):
        dtypes = _dtypes(x, packed, scale, bias)
        geometry, shape, strides, dtype = _conv_plan(
            x.shape,
            packed.shape,
            dtypes,
            scale.shape,
            None if bias is None else bias.shape,
            (_tuple(kernel_size), _tuple(stride), _tuple(padding), _tuple(dilation)),
            groups,
            x_zero,
            out_dtype,
            y_zero,
        )
        channels_last = x.stride(1) == 1
        if not channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        y = torch.empty_strided(shape, strides, dtype=dtype)
        convolve(
            native.dlpack(x),
            *map(native.dense, (packed, scale, bias)),
            native.dlpack(y),
            *geometry,
            groups,
            x_zero,
            0.0 if x_inverse is None else x_inverse,
            relu,
            y_zero,
            torch.get_num_threads(),
        )
        if channels_last:
            return y
        return torch.empty_like(y, memory_format=torch.contiguous_format).copy_(y)

    return run


# Arguments and results of the functions of the same names with _reference.
int8_quantize = Operator(
    "int8_quantize",
    int8_quantize_reference,
    schema="(Tensor x, float inverse, int zero=0) -> Tensor",
    fake=_fake_quantize,
    kernel=native.bind(_kernel_quantize),
)
int8_linear = Operator(
    "int8_linear",
    int8_linear_reference,
    schema=_SCHEMA + _OPTIONS,
    fake=_fake_linear,
    kernel=native.bind(_kernel_linear),
)
int8_conv2d = Operator(
    "int8_conv2d",
    int8_conv2d_reference,
    schema=_SCHEMA + _GEOMETRY + ", " + _OPTIONS,
    fake=_fake_conv2d,
    kernel=native.bind(_kernel_conv2d),
)
