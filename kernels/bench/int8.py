"""int8 linear layers and convolutions, batch 1: uint8 in and out, and fp32 in and out.

uint8 to uint8 is what a layer costs inside a quantized network: same types, same function on both
sides (requantizing may differ by 1 at ties). fp32 to fp32 is a quantized layer between others:
quantizing is part of the call. ONNX Runtime's convolution has no fp32 output, nor has torch's:
they quantize the result and turn it back, ours does not, so those outputs differ by up to half a
step of the result. Peers: kernels/bench/peers_int8.py.
"""

import math
from collections.abc import Iterator
from functools import partial

import torch
from kernels.bench import peers_int8 as peers
from kernels.bench.contest import contest
from kernels.bench.entries import Entry, Settings
from kernels.bench.peers_int8 import Int8Layer

from compactnets import kernels

CONVS = (  # inputs, outputs, height and width, kernel, depthwise
    (64, 64, 56, 3, False),
    (128, 128, 28, 3, False),
    (256, 256, 14, 3, False),
    (512, 512, 7, 3, False),
    (256, 256, 14, 1, False),
    (512, 512, 14, 1, False),
    (96, 576, 14, 1, False),
    (576, 576, 14, 3, True),
)
LINEARS = ((1024, 1024, 1), (1024, 1024, 64), (1024, 1024, 197), (4096, 4096, 1))
X_SCALE, X_ZERO = 0.02, 128
NHWC = "onnxruntime int8 NHWC"


def _layer(x_shape: tuple[int, ...], w_shape: tuple[int, ...], groups: int = 1) -> Int8Layer:
    """Random bytes; the scale of the result is one that its values just fit in."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, x_shape, generator=generator, dtype=torch.uint8)
    weight = torch.randint(-127, 128, w_shape, generator=generator, dtype=torch.int8)
    w_scale = 0.01 * (torch.rand(w_shape[0], generator=generator) + 0.5)
    if len(x_shape) == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    deviation = X_SCALE * 74 * 74 * 0.015 * math.sqrt(math.prod(w_shape[1:]))
    return Int8Layer(
        x,
        weight,
        X_SCALE,
        X_ZERO,
        w_scale,
        y_scale=5.5 * deviation / 127,
        y_zero=128,
        padding=w_shape[2] // 2 if len(w_shape) == 4 else 0,
        groups=groups,
    )


def _floating(layer: Int8Layer, y_scale: float | None) -> Int8Layer:
    """The same layer for fp32 activations on the same grid; y_scale None: a result off any grid."""
    values = vars(layer) | {"x": (layer.x.float() - X_ZERO) * X_SCALE, "y_scale": y_scale}
    return Int8Layer(**values)


def _ours(layer: Int8Layer, y_scale: float | None):
    options = {
        "w_scale": layer.w_scale,
        "x_scale": layer.x_scale,
        "x_zero": layer.x_zero,
        "y_scale": y_scale,
        "y_zero": layer.y_zero if y_scale else 0,
    }
    if layer.weight.dim() == 2:
        return kernels.Int8Linear(layer.weight, **options)
    return kernels.Int8Conv2d(layer.weight, padding=layer.padding, groups=layer.groups, **options)


def _bytes(layer: Int8Layer, y_scale: float | None) -> int:
    """Of input, weight and output; stride is 1 and padding keeps the size."""
    outputs = layer.x.numel() // layer.x.shape[1] * layer.weight.shape[0]
    inputs = layer.x.numel() * layer.x.element_size()
    return inputs + layer.weight.numel() + outputs * (1 if y_scale else 4)


def _conv_rows(settings: Settings) -> Iterator[Entry]:
    for inputs, outputs, size, kernel, depthwise in CONVS:
        groups = inputs if depthwise else 1
        layer = _layer((1, inputs, size, size), (outputs, inputs // groups, kernel, kernel), groups)
        name = f"{'dw ' if depthwise else ''}{kernel}x{kernel} {inputs}->{outputs} @{size}"
        macs = layer.weight.numel() * size * size
        for one, y_scale in ((layer, layer.y_scale), (_floating(layer, layer.y_scale), None)):
            yield from contest(
                "int8_conv2d" if y_scale else "int8_conv2d_fp32",
                name,
                settings,
                partial(_ours(one, y_scale), one.x),
                _conv_peers(one, settings.threads),
                tolerance=1.0 if y_scale else 0.6 * (layer.y_scale or 0),
                operations=macs,
                unit="int8",
                traffic=_bytes(one, y_scale),
            )


def _conv_peers(layer: Int8Layer, threads: int) -> dict:
    calls = {
        "onnxruntime int8": peers.onnx_int8_conv2d(layer, threads),
        NHWC: peers.onnx_int8_conv2d(layer, threads, channels_last=True),
    }
    if layer.groups > 1:  # torch's depthwise sums saturate for bytes of full range
        return calls
    calls["openvino int8"] = peers.openvino_int8_conv2d(layer, threads)
    calls["torch quantized"] = peers.torch_quantized(layer)
    return calls


def _linear_rows(settings: Settings) -> Iterator[Entry]:
    for inputs, outputs, rows in LINEARS:
        layer = _layer((rows, inputs), (outputs, inputs))
        name, macs = f"{inputs}->{outputs} x{rows}", inputs * outputs * rows
        signed = (layer.x.to(torch.int16) - 128).to(torch.int8)
        yield from contest(
            "int8_linear",
            name,
            settings,
            partial(_ours(layer, layer.y_scale), layer.x),
            {
                "onnxruntime int8": peers.onnx_int8_linear(layer, settings.threads),
                "openvino int8": peers.openvino_int8_linear(layer, settings.threads),
                "torch quantized": peers.torch_quantized(layer),
                "torch._int_mm": peers.torch_int_mm(signed, layer.weight),
            },
            tolerance=1.0,
            unequal={"torch._int_mm": "int32 sums, without scales"},
            operations=macs,
            unit="int8",
            traffic=_bytes(layer, layer.y_scale),
        )
        floating = _floating(layer, None)
        yield from contest(
            "int8_linear_fp32",
            name,
            settings,
            partial(_ours(floating, None), floating.x),
            {
                "onnxruntime int8": peers.onnx_int8_linear(floating, settings.threads),
                "openvino int8": peers.openvino_int8_linear(floating, settings.threads),
            },
            tolerance=1e-3,
            operations=macs,
            unit="int8",
            traffic=_bytes(floating, None),
        )
        dynamic = kernels.Int8Linear(layer.weight, w_scale=layer.w_scale)
        yield from contest(
            "int8_linear_dynamic",
            name,
            settings,
            partial(dynamic, floating.x),
            {"onnxruntime int8": peers.onnx_dynamic_linear(floating, settings.threads)},
            unequal={"onnxruntime int8": "one scale per matrix; ours: one per row"},
            operations=macs,
            unit="int8",
            traffic=_bytes(floating, None),
        )


def measure(settings: Settings) -> Iterator[Entry]:
    """Rows of every layer, type and peer."""
    yield from _conv_rows(settings)
    yield from _linear_rows(settings)
