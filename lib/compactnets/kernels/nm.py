"""Convolution and linear layers with N:M sparse int8 weights: one fused operator."""

import functools
from collections.abc import Sequence
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from compactnets.kernels import native
from compactnets.kernels.geometry import pair, positions
from compactnets.kernels.nm_pack import (
    check_pattern,
    dense_tiles,
    pack_nm,
    packed_shape,
    tiles_shape,
    unpack_nm,
)
from compactnets.kernels.operator import Operator
from compactnets.kernels.row_quantization import quantize_rows

__all__ = [
    "check_pattern",
    "dense_tiles",
    "nm_conv2d",
    "nm_conv2d_reference",
    "pack_nm",
    "unpack_nm",
]


def _output_shape(
    x: Sequence[int],
    packed: Sequence[int],
    scale: Sequence[int],
    weight_sums: Sequence[int],
    bias: Sequence[int] | None,
    x_scale: Sequence[int] | None,
    tiles: Sequence[int] | None,
    zero: int,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> tuple[int, int, int, int]:
    """(N, H', W', out), from shapes; ValueError that names the argument that does not fit."""
    if len(x) != 4 or x[1] == 0:
        raise ValueError(f"x must be (N, C, H, W) with channels, got shape {tuple(x)}")
    if len(scale) != 1:
        raise ValueError(f"scale must have shape (out,), got {tuple(scale)}")
    if not 0 <= zero <= 255:
        raise ValueError(f"zero must be 0 .. 255, got {zero}")
    outputs = scale[0]
    for name, value in (("weight_sums", weight_sums), ("bias", bias)):
        if value is not None and tuple(value) != (outputs,):
            raise ValueError(f"{name} must have shape ({outputs},), got {tuple(value)}")
    if x_scale is not None and tuple(x_scale) not in ((1,), (x[0],)):
        raise ValueError(f"x_scale must have shape (1,) or ({x[0]},), got {tuple(x_scale)}")
    quads = packed[2] if len(packed) == 4 else 0
    expected = packed_shape(outputs, x[1], kernel_size[0] * kernel_size[1], quads)
    if tuple(packed) != expected or not 0 < quads <= 16:
        raise ValueError(
            f"packed has shape {tuple(packed)}; {x[1]} inputs, {outputs} outputs and kernel "
            f"{kernel_size} need {(*expected[:2], '1 to 16', expected[3])}"
        )
    if tiles is not None and tuple(tiles) != tiles_shape(packed):
        raise ValueError(f"tiles must have shape {tiles_shape(packed)}, got {tuple(tiles)}")
    height, width = (
        positions(x[2 + axis], kernel_size[axis], stride[axis], padding[axis]) for axis in (0, 1)
    )
    return x[0], height, width, outputs


_output_shape_once = functools.lru_cache(maxsize=1024)(_output_shape)


def _check_tensors(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    weight_sums: Tensor,
    bias: Tensor | None,
    x_scale: Tensor | None,
    tiles: Tensor | None,
    zero: int,
) -> None:
    """TypeError for a wrong dtype, ValueError for tensors on different devices."""
    if packed.dtype is not torch.uint8:
        raise TypeError(f"packed must be uint8 from pack_nm, got {packed.dtype}")
    if weight_sums.dtype is not torch.int32:
        raise TypeError(f"weight_sums must be int32, got {weight_sums.dtype}")
    if x.dtype not in (torch.float32, torch.int8, torch.uint8):
        raise TypeError(f"x must be float32, int8 or uint8, got {x.dtype}")
    if (x.dtype is torch.float32) != (x_scale is None):
        raise ValueError("x_scale goes with an int8 or uint8 x, and only with it")
    if zero and x.dtype is not torch.uint8:
        raise ValueError(f"zero goes with a uint8 x only, got {zero}")
    if tiles is not None and tiles.dtype is not torch.int8:
        raise TypeError(f"tiles must be int8 from dense_tiles, got {tiles.dtype}")
    device = x.device
    for name, value in (("scale", scale), ("bias", bias), ("x_scale", x_scale)):
        if value is None:
            continue
        if value.dtype is not torch.float32:
            raise TypeError(f"{name} must be float32, got {value.dtype}")
        if value.device != device:
            raise ValueError(f"{name} is on {value.device}, x on {device}")
    for name, value in (("packed", packed), ("weight_sums", weight_sums), ("tiles", tiles)):
        if value is not None and value.device != device:
            raise ValueError(f"{name} is on {value.device}, x on {device}")


def _shapes(*tensors: Tensor | None) -> tuple[torch.Size | None, ...]:
    return tuple(None if tensor is None else tensor.shape for tensor in tensors)


def nm_conv2d_reference(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    weight_sums: Tensor,
    bias: Tensor | None = None,
    x_scale: Tensor | None = None,
    tiles: Tensor | None = None,
    *,
    zero: int = 0,
    kernel_size: Sequence[int] = (1, 1),
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
) -> Tensor:
    """y = x_scale * scale * conv2d(codes of x, weight) + bias with zero padding, in plain PyTorch.

    x (N, C, H, W): float32, made int8 image by image as in quantize_rows (one scale for an image);
    or int8; or uint8, that stands for x - zero; the last two with x_scale (1,) or (N,). packed from
    pack_nm, weight_sums (out,) int32 the sums of each output's weights, scale and bias (out,)
    float32. tiles: None, or dense_tiles of the same weight, a second copy for the kernel on the
    int8 matrix unit. Returns float32 (N, out, H', W'), channels_last. The convolution is an exact
    integer; then come the products with scale and with x_scale and the sum with bias, each rounded
    once, so all forms agree bit for bit. An image with a NaN or an infinity gives NaN. Any device;
    no gradient. TypeError for a wrong dtype, ValueError for shapes and devices that do not fit.
    """
    tensors = (x, packed, scale, weight_sums, bias, x_scale, tiles)
    _check_tensors(*tensors, zero)
    geometry = pair("kernel_size", kernel_size), pair("stride", stride), pair("padding", padding, 0)
    _output_shape(*_shapes(*tensors), zero, *geometry)  # type: ignore[arg-type]
    if x_scale is None:
        codes, scales = quantize_rows(x.flatten(1))
        codes = codes.view(x.shape).double()
    else:
        codes, scales = x.double() - zero, x_scale
    weight = unpack_nm(packed, scale.shape[0], x.shape[1], geometry[0]).double()
    dots = F.conv2d(codes, weight, None, geometry[1], geometry[2]).round()
    y = dots.float() * scale[:, None, None] * scales[:, None, None, None]
    y = y if bias is None else y + bias[:, None, None]
    return y.contiguous(memory_format=torch.channels_last)


_SCHEMA = (
    "(Tensor x, Tensor packed, Tensor scale, Tensor weight_sums, Tensor? bias=None, "
    "Tensor? x_scale=None, Tensor? tiles=None, *, int zero=0, int[2] kernel_size=1, "
    "int[2] stride=1, int[2] padding=0) -> Tensor"
)


def _fake(
    x,
    packed,
    scale,
    weight_sums,
    bias=None,
    x_scale=None,
    tiles=None,
    *,
    zero=0,
    kernel_size=(1, 1),
    stride=(1, 1),
    padding=(0, 0),
):
    tensors = (x, packed, scale, weight_sums, bias, x_scale, tiles)
    _check_tensors(*tensors, zero)
    geometry = tuple(kernel_size), tuple(stride), tuple(padding)
    n, height, width, out = _output_shape(*_shapes(*tensors), zero, *geometry)  # type: ignore
    shape = (n, out, height, width)
    return torch.empty(
        shape, dtype=torch.float32, device=x.device, memory_format=torch.channels_last
    )


def _kernel(module: ModuleType):
    """The operator on the compiled module."""
    dlpack, dense = native.dlpack, native.dense
    entries = {
        torch.float32: module.nm_conv2d_float32,
        torch.int8: module.nm_conv2d_int8,
        torch.uint8: module.nm_conv2d_uint8,
    }

    def run(
        x,
        packed,
        scale,
        weight_sums,
        bias=None,
        x_scale=None,
        tiles=None,
        *,
        zero=0,
        kernel_size=(1, 1),
        stride=(1, 1),
        padding=(0, 0),
    ):
        tensors = (x, packed, scale, weight_sums, bias, x_scale, tiles)
        _check_tensors(*tensors, zero)
        geometry = (
            pair("kernel_size", kernel_size),
            pair("stride", stride),
            pair("padding", padding, 0),
        )
        shape = _output_shape_once(*_shapes(*tensors), zero, *geometry)
        y = torch.empty(shape, dtype=torch.float32)
        entries[x.dtype](
            dense(x.permute(0, 2, 3, 1)),
            dense(x_scale),
            zero,
            dense(packed),
            dense(scale),
            dense(weight_sums),
            dense(bias),
            dense(tiles),
            dlpack(y),
            *geometry,
            torch.get_num_threads(),
        )
        return y.permute(0, 3, 1, 2)

    return run


# Arguments and result of nm_conv2d_reference; one int stands for two equal ones.
nm_conv2d = Operator(
    "nm_conv2d",
    nm_conv2d_reference,
    schema=_SCHEMA,
    fake=_fake,
    kernel=native.bind(_kernel),
)
