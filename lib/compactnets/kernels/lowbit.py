"""Linear layers with weights of 4 or 2 bits and int8 activations: one fused operator."""

import functools
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from compactnets.kernels import native
from compactnets.kernels.lowbit_pack import (
    GROUPS,
    MOST_INPUTS,
    pack_codes,
    packed_shape,
    quantize_weight,
    unpack_codes,
    zero_code,
)
from compactnets.kernels.operator import Operator
from compactnets.kernels.row_quantization import quantize_rows

__all__ = [
    "lowbit_linear",
    "lowbit_linear_reference",
    "pack_codes",
    "quantize_rows",
    "quantize_weight",
    "unpack_codes",
    "zero_code",
]


def _check_shapes(
    x: Sequence[int],
    packed: Sequence[int],
    scale: Sequence[int],
    bias: Sequence[int] | None,
    x_scale: Sequence[int] | None,
    bits: int,
    zero: int,
) -> None:
    """ValueError that names the argument that does not fit."""
    if bits not in (2, 4):
        raise ValueError(f"bits must be 2 or 4, got {bits}")
    if not 0 <= zero < 2**bits:
        raise ValueError(f"zero must be one of the codes 0 .. {2**bits - 1}, got {zero}")
    if len(x) != 2 or not 0 < x[1] <= MOST_INPUTS:
        raise ValueError(f"x must be (rows, 1 to {MOST_INPUTS} inputs), got shape {tuple(x)}")
    rows, inputs = x
    if len(scale) != 2 or (scale[0] != 1 and inputs not in (scale[0] * g for g in GROUPS)):
        raise ValueError(
            f"scale must be (groups, out) with one group or groups of {GROUPS} of the "
            f"{inputs} inputs, got shape {tuple(scale)}"
        )
    outputs = scale[1]
    if tuple(packed) != packed_shape(outputs, inputs, bits):
        raise ValueError(
            f"packed has shape {tuple(packed)}; {inputs} inputs, {outputs} outputs and "
            f"{bits} bits need {packed_shape(outputs, inputs, bits)}"
        )
    if bias is not None and tuple(bias) != (outputs,):
        raise ValueError(f"bias must have shape ({outputs},), got {tuple(bias)}")
    if x_scale is not None and tuple(x_scale) not in ((1,), (rows,)):
        raise ValueError(f"x_scale must have shape (1,) or ({rows},), got {tuple(x_scale)}")


@functools.lru_cache(maxsize=1024)
def _check_shapes_once(*shapes) -> None:
    _check_shapes(*shapes)


def _check_tensors(
    x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None, x_scale: Tensor | None
) -> None:
    """TypeError for a wrong dtype, ValueError for tensors on different devices."""
    if packed.dtype is not torch.uint8:
        raise TypeError(f"packed must be uint8 from pack_codes, got {packed.dtype}")
    if x.dtype is not torch.float32 and x.dtype is not torch.int8:
        raise TypeError(f"x must be float32 or int8, got {x.dtype}")
    if (x.dtype is torch.int8) != (x_scale is not None):
        raise ValueError("x_scale goes with an int8 x, and only with it")
    for name, value in (("scale", scale), ("bias", bias), ("x_scale", x_scale)):
        if value is not None and value.dtype is not torch.float32:
            raise TypeError(f"{name} must be float32, got {value.dtype}")
    device = x.device
    named = (("packed", packed), ("scale", scale), ("bias", bias), ("x_scale", x_scale))
    for name, value in named:
        if value is not None and value.device != device:
            raise ValueError(f"{name} is on {value.device}, x on {device}")


def _shape(value: Tensor | None) -> torch.Size | None:
    return None if value is None else value.shape


def lowbit_linear_reference(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    x_scale: Tensor | None = None,
    *,
    bits: int,
    zero: int,
) -> Tensor:
    """y = x_scale * sum over groups of scale * (codes of x · integers of the weight) + bias.

    x (rows, in): float32, made int8 row by row as in quantize_rows; or int8 already, with
    x_scale (1,) or (rows,). packed from pack_codes(integers, bits, zero); scale (groups, out)
    float32, one group or groups of 32, 64 or 128 inputs; bias (out,) float32. Returns float32
    (rows, out). The dot products are exact integers; from there on every operation rounds once, in
    the order written (groups first to last), so all forms agree bit for bit. A row of x with a NaN
    or an infinity gives a row of NaN. Any device; no gradient. TypeError for a wrong dtype,
    ValueError for shapes and devices that do not fit.
    """
    _check_tensors(x, packed, scale, bias, x_scale)
    _check_shapes(x.shape, packed.shape, scale.shape, _shape(bias), _shape(x_scale), bits, zero)
    integers = unpack_codes(packed, scale.shape[1], x.shape[1], bits, zero)
    codes, row_scale = quantize_rows(x) if x_scale is None else (x, x_scale)
    parts = zip(codes.chunk(scale.shape[0], 1), integers.chunk(scale.shape[0], 1), strict=True)
    y = x.new_zeros(x.shape[0], scale.shape[1], dtype=torch.float32)
    for (left, right), of_group in zip(parts, scale, strict=True):
        dots = (left.double() @ right.double().t()).round().to(torch.int32)
        y = y + dots.float() * of_group
    y = y * row_scale[:, None]
    return y if bias is None else y + bias


_SCHEMA = (
    "(Tensor x, Tensor packed, Tensor scale, Tensor? bias=None, Tensor? x_scale=None, *, "
    "int bits, int zero) -> Tensor"
)


def _fake(x, packed, scale, bias=None, x_scale=None, *, bits, zero):
    _check_tensors(x, packed, scale, bias, x_scale)
    _check_shapes(x.shape, packed.shape, scale.shape, _shape(bias), _shape(x_scale), bits, zero)
    return x.new_empty((x.shape[0], scale.shape[1]), dtype=torch.float32)


def _kernel(module: ModuleType):
    """The operator on the compiled module."""
    dlpack, dense, threads = native.dlpack, native.dense, torch.get_num_threads

    def run(x, packed, scale, bias=None, x_scale=None, *, bits, zero):
        _check_tensors(x, packed, scale, bias, x_scale)
        shapes = (x.shape, packed.shape, scale.shape, _shape(bias), _shape(x_scale))
        _check_shapes_once(*shapes, bits, zero)
        y = torch.empty((x.shape[0], scale.shape[1]), dtype=torch.float32)
        rest = (dense(packed), dense(scale), dense(bias), dlpack(y), bits, zero, threads())
        if x_scale is None:
            module.lowbit_linear(dense(x), *rest)
        else:
            module.lowbit_linear_int8(dense(x), dense(x_scale), *rest)
        return y

    return run


# Arguments and result of lowbit_linear_reference.
lowbit_linear = Operator(
    "lowbit_linear",
    lowbit_linear_reference,
    schema=_SCHEMA,
    fake=_fake,
    kernel=native.bind(_kernel),
)
