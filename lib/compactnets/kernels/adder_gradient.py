"""The adder convolution for training, with the gradients that AdderNet uses and the true ones.

y = -sum |x - w|, G the gradient of the loss with respect to y (AdderNet, arXiv:1912.13200,
section 3.2; sums over the windows, padding included):

    to w   "difference"  sum G (x - w)             what the paper trains with: the gradient of
                                                   -sum (x - w)^2 / 2
           "sign"        sum G sign(x - w)         the true one
    to x   "hardtanh"    sum G clip(w - x, -1, 1)  what the paper trains with: the gradient of the
                                                   negative Huber function
           "difference"  sum G (w - x)             unclipped
           "sign"        sum G sign(w - x)         the true one

The first is a convolution's own weight gradient less w * sum G, hence as fast as torch's products;
so is "difference" to x. The others need a pass over all pairs (x, w), which is compiled. The
official code (huawei-noah/AdderNet) scales the gradient to w within its backward pass to a common
norm per layer; that is left to the layer.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compactnets.kernels import native
from compactnets.kernels.adder import adder_conv2d_packed, adder_distances
from compactnets.kernels.adder_pack import pack_adder_weight
from compactnets.kernels.geometry import pair, positions
from compactnets.kernels.operator import Operator

LANES = 16  # input channels of a block
WEIGHT_GRADIENTS = ("difference", "sign")
INPUT_GRADIENTS = ("hardtanh", "difference", "sign")
_SQUASH = {"hardtanh": lambda d: d.clamp(-1, 1), "sign": torch.sign}


def _pairs(x: Tensor, weight: Tensor, grad: Tensor, stride, padding):
    """For each filter: its entries, all windows as columns, its part of grad."""
    columns = F.unfold(x, tuple(weight.shape[2:]), 1, tuple(padding), tuple(stride))
    for flat, part in zip(weight.flatten(1), grad.flatten(2).unbind(1), strict=True):
        yield flat[None, :, None], columns, part[:, None]


def adder_input_gradient_reference(
    x: Tensor,
    weight: Tensor,
    grad: Tensor,
    rule: str,
    *,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
) -> Tensor:
    """sum G h(w - x), h by rule ("hardtanh" or "sign"): of x's shape, channels_last.

    x (N, C, H, W), weight (out, C, kh, kw), grad (N, out, H', W'), one floating dtype. Where x or
    w is NaN the result is some number or NaN. Differences below 2^-126 have no sign of their own.
    """
    _check(x, weight, grad, rule, stride, padding)
    total = torch.zeros_like(F.unfold(x, tuple(weight.shape[2:]), 1, tuple(padding), tuple(stride)))
    for w, columns, part in _pairs(x, weight, grad, stride, padding):
        total += _SQUASH[rule](w - columns) * part
    size, kernel = tuple(x.shape[2:]), tuple(weight.shape[2:])
    result = F.fold(total, size, kernel, 1, tuple(padding), tuple(stride))
    return _channels_last_like(x).copy_(result)


def adder_weight_sign_gradient_reference(
    x: Tensor,
    weight: Tensor,
    grad: Tensor,
    *,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
) -> Tensor:
    """sum G sign(x - w), of weight's shape, contiguous; otherwise as adder_input_gradient."""
    _check(x, weight, grad, "sign", stride, padding)
    rows = [
        (torch.sign(columns - w) * part).sum((0, 2))
        for w, columns, part in _pairs(x, weight, grad, stride, padding)
    ]
    return torch.stack(rows).reshape(weight.shape)


def _check(x: Tensor, weight: Tensor, grad: Tensor, rule: str, stride, padding) -> None:
    """ValueError or TypeError that names the argument that does not fit."""
    for name, value in (("x", x), ("weight", weight), ("grad", grad)):
        if value.dim() != 4 or 0 in value.shape[1:]:
            raise ValueError(f"{name} must have 4 dimensions, not empty: got {tuple(value.shape)}")
        if value.dtype not in (torch.float32, torch.float64) or value.dtype is not x.dtype:
            raise TypeError(f"{name} must be float32 or float64 as x is, got {value.dtype}")
        if value.device != x.device:
            raise ValueError(f"{name} is on {value.device}, x on {x.device}")
    if rule not in _SQUASH:
        raise ValueError(f"rule must be one of {', '.join(_SQUASH)}, got {rule!r}")
    if weight.shape[1] != x.shape[1]:
        raise ValueError(f"weight has {weight.shape[1]} input channels, x {x.shape[1]}")
    steps, around = pair("stride", stride), pair("padding", padding, least=0)
    size = tuple(
        positions(x.shape[2 + i], weight.shape[2 + i], steps[i], around[i]) for i in (0, 1)
    )
    if tuple(grad.shape) != (x.shape[0], weight.shape[0], *size):
        raise ValueError(
            f"grad must have shape {(x.shape[0], weight.shape[0], *size)}, got {tuple(grad.shape)}"
        )


def _channels_last_like(x: Tensor) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _fake_input(x, weight, grad, rule, *, stride=(1, 1), padding=(0, 0)):
    _check(x, weight, grad, rule, stride, padding)
    return _channels_last_like(x)


def _fake_weight(x, weight, grad, *, stride=(1, 1), padding=(0, 0)):
    _check(x, weight, grad, "sign", stride, padding)
    return torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)


def _filters(weight: Tensor) -> Tensor:
    """(out, in, kh, kw) -> (blocks of 16 inputs, taps * out, 16), spare lanes 0."""
    lanes = F.pad(weight.permute(2, 3, 0, 1), (0, -weight.shape[1] % LANES)).flatten(0, 2)
    return lanes.unflatten(1, (-1, LANES)).transpose(0, 1).contiguous()


def _dense_channels_last(x: Tensor) -> Tensor:
    """The same values with the strides that the kernels read, ambiguous ones of size 1 included."""
    if x.is_contiguous(memory_format=torch.channels_last):
        return x.detach()
    return _channels_last_like(x).copy_(x.detach())


def _input_kernel(module: ModuleType):
    def run(x, weight, grad, rule, *, stride=(1, 1), padding=(0, 0)):
        if x.dtype is not torch.float32:
            return adder_input_gradient_reference(
                x, weight, grad, rule, stride=stride, padding=padding
            )
        _check(x, weight, grad, rule, stride, padding)
        result = _channels_last_like(x)
        module.adder_input_gradient(
            native.dlpack(_dense_channels_last(x)),
            native.dlpack(_filters(weight.detach())),
            native.dlpack(_dense_channels_last(grad)),
            native.dlpack(result),
            tuple(weight.shape[2:]),
            pair("stride", stride),
            pair("padding", padding, least=0),
            rule == "sign",
            torch.get_num_threads(),
        )
        return result

    return run


def _weight_kernel(module: ModuleType):
    def run(x, weight, grad, *, stride=(1, 1), padding=(0, 0)):
        if x.dtype is not torch.float32:
            return adder_weight_sign_gradient_reference(
                x, weight, grad, stride=stride, padding=padding
            )
        _check(x, weight, grad, "sign", stride, padding)
        if grad.numel() == 0:
            return torch.zeros(weight.shape)
        filters = _filters(weight.detach())
        lanes = torch.empty_like(filters)
        module.adder_weight_sign_gradient(
            native.dlpack(_dense_channels_last(x)),
            native.dlpack(filters),
            native.dlpack(_dense_channels_last(grad)),
            native.dlpack(lanes),
            tuple(weight.shape[2:]),
            pair("stride", stride),
            pair("padding", padding, least=0),
            torch.get_num_threads(),
        )
        outputs, channels, height, width = weight.shape
        taps = lanes.transpose(0, 1).flatten(1)[:, :channels]  # (taps * out, in)
        dense = taps.unflatten(0, (height, width, outputs)).permute(2, 3, 0, 1)
        return dense.contiguous()

    return run


_GEOMETRY = "*, int[2] stride=1, int[2] padding=0) -> Tensor"

adder_input_gradient = Operator(
    "adder_input_gradient",
    adder_input_gradient_reference,
    schema="(Tensor x, Tensor weight, Tensor grad, str rule, " + _GEOMETRY,
    fake=_fake_input,
    kernel=native.bind(_input_kernel),
)

adder_weight_sign_gradient = Operator(
    "adder_weight_sign_gradient",
    adder_weight_sign_gradient_reference,
    schema="(Tensor x, Tensor weight, Tensor grad, " + _GEOMETRY,
    fake=_fake_weight,
    kernel=native.bind(_weight_kernel),
)


def _products(x, weight, grad, stride, padding, to_input: bool) -> Tensor:
    """The gradient of an ordinary convolution to its input or its weight."""
    mask = [to_input, not to_input, False]
    one, none = [1, 1], [0, 0]
    results = torch.ops.aten.convolution_backward(
        grad, x, weight, None, list(stride), list(padding), one, False, none, 1, mask
    )
    return results[0 if to_input else 1]


class _AdderConv2d(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, weight: Tensor, stride, padding, rules) -> Tensor:
        if x.dtype is not torch.float32:
            return adder_distances(x, weight, stride, padding)
        return adder_conv2d_packed(
            x.detach(),
            pack_adder_weight(weight),
            out_channels=weight.shape[0],
            kernel_size=tuple(weight.shape[2:]),
            stride=stride,
            padding=padding,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs, output) -> None:
        x, weight, *ctx.options = inputs
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        stride, padding, (to_weight, to_input) = ctx.options
        geometry = {"stride": stride, "padding": padding}
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            if to_input == "difference":
                ones = torch.ones_like(weight[:1, :1])
                counts = _products(x[:, :1], ones, grad.sum(1, keepdim=True), stride, padding, True)
                grad_x = _products(x, weight, grad, stride, padding, True) - x * counts
            else:
                grad_x = adder_input_gradient(x, weight, grad, to_input, **geometry)
        if ctx.needs_input_grad[1]:
            if to_weight == "difference":
                total = grad.sum((0, 2, 3))[:, None, None, None]
                grad_weight = _products(x, weight, grad, stride, padding, False) - weight * total
            else:
                grad_weight = adder_weight_sign_gradient(x, weight, grad, **geometry)
        return grad_x, grad_weight, None, None, None


def adder_conv2d(
    x: Tensor,
    weight: Tensor,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    *,
    weight_gradient: str = "difference",
    input_gradient: str = "hardtanh",
) -> Tensor:
    """y = -sum |x - w| over each window of the zero-padded x, with AdderNet's gradients.

    x (N, C, H, W), weight (out, C, kh, kw), both float32 (compiled) or both float64 (the
    reference); y (N, out, H', W'), never positive. weight_gradient "difference" or "sign",
    input_gradient "hardtanh", "difference" or "sign": see the head of this module; the defaults
    are the paper's. No second derivatives. Like y, the gradients count padded positions: a window
    that reaches beyond the image pulls its filter to 0 there. A linear layer is a kernel of 1x1.
    TypeError for another dtype, ValueError for shapes or names that do not fit.
    """
    if weight_gradient not in WEIGHT_GRADIENTS:
        raise ValueError(
            f"weight_gradient must be one of {', '.join(WEIGHT_GRADIENTS)}, got {weight_gradient!r}"
        )
    if input_gradient not in INPUT_GRADIENTS:
        raise ValueError(
            f"input_gradient must be one of {', '.join(INPUT_GRADIENTS)}, got {input_gradient!r}"
        )
    for name, value in (("x", x), ("weight", weight)):
        if value.dim() != 4 or 0 in value.shape[1:]:
            raise ValueError(f"{name} must have 4 dimensions, not empty: got {tuple(value.shape)}")
        if value.dtype not in (torch.float32, torch.float64) or value.dtype is not x.dtype:
            raise TypeError(f"{name} must be float32 or float64 as x is, got {value.dtype}")
    if weight.shape[1] != x.shape[1]:
        raise ValueError(f"weight has {weight.shape[1]} input channels, x {x.shape[1]}")
    steps, around = ((v, v) if isinstance(v, int) else tuple(v) for v in (stride, padding))
    return _AdderConv2d.apply(x, weight, steps, around, (weight_gradient, input_gradient))
