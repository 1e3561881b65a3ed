"""Adder convolution 3x3, batch 1, in 8 bits and fp32, and training steps of an adder layer.

What a user would otherwise call is torch.cdist with p = 1 on the unfolded input: the same function.
Convolutions of the same size compute another one (products in place of distances); they say what
it costs to replace multiplications on a machine whose multipliers are as fast as its adders. No
instruction takes the sum of absolute differences of fp32: a term is a maximum and an addition, two
operations where a product is one, so that half of the rate of a convolution is the most there is.
In 8 bits one instruction sums 128 differences, as many as two of a convolution's.

8-bit codes: uint8 in, fp32 out (scale and bias per output) on our side; uint8 in and out for ONNX
Runtime, once on its own NHWC operator, once with NCHW tensors as a model of one layer has them.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from kernels.bench import peers
from kernels.bench.contest import contest
from kernels.bench.entries import Entry, Settings
from kernels.bench.peers_int8 import Int8Layer, onnx_int8_conv2d
from torch import Tensor

from compactnets import kernels

SHAPES = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels, height and width
TRAINING = ((32, 16, 32), (32, 64, 16))  # batch, channels, height and width
ANOTHER = "a convolution: products, not distances"
TRUE_GRADIENT = "the true gradient (signs), which cdist has; ours is the paper's"


def _floats(*shape: int, seed: int) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return values.contiguous(memory_format=torch.channels_last)


def cdist_layer(x: Tensor, weight: Tensor) -> Tensor:
    """The 3x3 adder layer as one writes it with what torch has."""
    columns = F.unfold(x, weight.shape[2:], padding=1).transpose(1, 2)
    rows = -torch.cdist(columns, weight.flatten(1), p=1.0)
    return rows.transpose(1, 2).unflatten(2, x.shape[2:])


def inference(settings: Settings) -> Iterator[Entry]:
    """One layer on one image."""
    for channels, size in SHAPES:
        shape, count = f"3x3 {channels}x{size}x{size}", 9 * channels**2 * size**2
        x, weight = (_floats(*s, seed=len(s) + s[0]) for s in _sizes(channels, size))
        layer = kernels.AdderConv2d(weight, padding=1)
        yield from contest(
            "adder_conv2d fp32",
            shape,
            settings,
            partial(layer, x),
            {
                "torch fp32 conv": peers.torch_conv2d(x, weight, padding=1),
                "torch prepacked conv": peers.torch_conv2d_prepacked(x, weight, padding=1),
            },
            unequal={"torch fp32 conv": ANOTHER, "torch prepacked conv": ANOTHER},
            operations=count,
            unit="fp32 L1",
            traffic=4 * (2 * x.numel() + weight.numel()),
        )
        yield from contest(
            "adder_conv2d fp32",
            shape,
            replace(settings, rounds=min(settings.rounds, 5)),  # it takes a hundred times as long
            partial(layer, x),
            {"torch.cdist": partial(cdist_layer, x.contiguous(), weight)},
            tolerance=2e-5 * 2 * 9 * channels,  # relative to results of about 1.13 * 9 * channels
            operations=count,
        )
        yield from _codes(shape, settings, x, weight, count)


def _sizes(channels: int, size: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (1, channels, size, size), (channels, channels, 3, 3)


def _codes(
    shape: str, settings: Settings, x: Tensor, weight: Tensor, count: int
) -> Iterator[Entry]:
    """The same layer in 8 bits: codes in, fp32 out."""
    step, zero = 0.04, 128
    codes = (kernels.adder_codes(x, step).int() + zero).to(torch.uint8)
    codes = codes.contiguous(memory_format=torch.channels_last)
    filters = (kernels.adder_codes(weight, step).int() + zero).to(torch.uint8)
    packed = kernels.pack_adder_weight(filters)
    outputs = len(weight)
    scale, bias = torch.full((outputs,), step), torch.zeros(outputs)
    ours = partial(
        kernels.adder_conv2d_packed,
        codes,
        packed,
        scale,
        bias,
        out_channels=outputs,
        kernel_size=(3, 3),
        padding=(1, 1),
        zero_point=zero,
    )
    dense = Int8Layer(
        codes, kernels.adder_codes(weight, step), step, zero, scale, bias, y_scale=8.0, padding=1
    )
    nhwc = onnx_int8_conv2d(dense, settings.threads, channels_last=True)
    nchw = onnx_int8_conv2d(dense, settings.threads)
    convolutions: dict[str, Callable[[], Tensor] | None] = {
        "ort int8 conv NHWC": nhwc,
        "ort int8 conv NCHW": nchw,
        "torch prepacked conv": peers.torch_conv2d_prepacked(x, weight, padding=1),
    }
    yield from contest(
        "adder_conv2d 8 bit",
        shape,
        settings,
        ours,
        convolutions,
        unequal=dict.fromkeys(convolutions, ANOTHER),
        operations=count,
        unit="int8 L1",
        traffic=5 * x.numel() + filters.numel(),  # a byte in, an int32 out
    )
    real, filters = step * (codes.float() - zero).contiguous(), step * (filters.float() - zero)
    yield from contest(
        "adder_conv2d 8 bit",
        shape,
        replace(settings, rounds=min(settings.rounds, 5)),
        ours,
        {"torch.cdist": partial(cdist_layer, real, filters)},
        tolerance=2e-5 * 2 * 9 * x.shape[1],
        operations=count,
    )


def _step(layer: Callable[[Tensor, Tensor], Tensor], x: Tensor, weight: Tensor) -> Tensor:
    """Forward and backward; the gradient to the weight, and sums of the rest, to be compared."""
    with torch.inference_mode(False), torch.enable_grad():
        y = layer(x, weight)
        to_x, to_weight = torch.autograd.grad(y, (x, weight), torch.ones_like(y))
        sums = [part.detach().sum((2, 3)) for part in (y, to_x)]
        return torch.cat([part.flatten() for part in (to_weight, *sums)])


def training(settings: Settings) -> Iterator[Entry]:
    """Forward and backward of one layer on a batch."""
    few = replace(settings, rounds=min(settings.rounds, 3))  # cdist needs a second for each
    for batch, channels, size in TRAINING:
        shape = f"3x3 {batch}x{channels}x{size}x{size}"
        x = _floats(batch, channels, size, size, seed=1).requires_grad_()
        weight = _floats(channels, channels, 3, 3, seed=2).requires_grad_()
        layer = partial(kernels.adder_conv2d, padding=1)
        true = partial(layer, weight_gradient="sign", input_gradient="sign")
        cdist = partial(_step, cdist_layer, x, weight)
        count = 3 * 9 * batch * channels**2 * size**2
        yield from contest(
            "adder train, paper's",
            shape,
            few,
            partial(_step, layer, x, weight),
            {"torch.cdist": cdist},
            unequal={"torch.cdist": TRUE_GRADIENT},
            operations=count,
        )
        yield from contest(
            "adder train, signs",
            shape,
            few,
            partial(_step, true, x, weight),
            {"torch.cdist": cdist},
            tolerance=2e-5 * 2 * 9 * channels * size**2,  # sums over an image
            operations=count,
        )


def measure(settings: Settings) -> Iterator[Entry]:
    """Rows of every shape and peer."""
    yield from inference(settings)
    yield from training(settings)
