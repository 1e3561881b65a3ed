"""int8 peers: ONNX Runtime, OpenVINO, torch's quantized engine and torch._int_mm.

Each function returns a call without arguments that gives the output, or None where the peer is not
installed (pip install "compactnets[bench]" brings them). They all compute

    y = x_scale * (x - x_zero) * w_scale[o] * weight + bias[o]

from a uint8 x and an int8 weight with one scale per output. With y_scale the result is uint8,
clamp(round(y / y_scale) + y_zero), else float32. A float32 x is quantized inside the call, and a
result with y_scale is then turned back into float32.
Requantizing rounds in another order of operations in each of them: results differ by 1 at ties.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from kernels.bench.peers import Call, onnx_session
from torch import Tensor


@dataclass(frozen=True)
class Int8Layer:
    """What every peer is built from: quantized tensors and their scales.

    weight int8 (out, in) or (out, in / groups, kh, kw); w_scale (out,); bias (out,) float32.
    """

    x: Tensor
    weight: Tensor
    x_scale: float
    x_zero: int
    w_scale: Tensor
    bias: Tensor | None = None
    y_scale: float | None = None
    y_zero: int = 0
    relu: bool = False
    stride: int = 1
    padding: int = 0
    groups: int = 1

    def bias_int32(self) -> Tensor:
        """bias in units of x_scale * w_scale, as integer formats store it."""
        bias = torch.zeros(len(self.weight)) if self.bias is None else self.bias
        return (bias / (self.x_scale * self.w_scale)).round().to(torch.int32)

    def real_weight(self) -> Tensor:
        shape = (-1,) + (1,) * (self.weight.dim() - 1)
        return self.weight * self.w_scale.view(shape)


def onnx_int8_conv2d(layer: Int8Layer, threads: int, *, channels_last: bool = False) -> Call | None:
    """QLinearConv. A float32 x: QuantizeLinear before it and DequantizeLinear behind it.

    channels_last: ONNX Runtime's own operator on NHWC tensors, which is what is left of a network
    once the runtime has moved the transpositions between layers away; else they are part of the
    call, as for a model of one layer. y_scale is needed.
    """
    if layer.y_scale is None:
        raise ValueError("QLinearConv has no float32 output: give y_scale")
    attributes: dict[str, Any] = {
        "pads": [layer.padding] * 4,
        "strides": [layer.stride] * 2,
        "group": layer.groups,
        "kernel_shape": list(layer.weight.shape[2:]),
    }
    if channels_last:
        attributes |= {"channels_last": 1, "domain": "com.microsoft"}
    inputs = ["xq", "xs", "xz", "w", "ws", "wz", "ys", "yz", "b"]
    node = ("QLinearConv", inputs, ["yq"], attributes)
    x = layer.x.permute(0, 2, 3, 1) if channels_last else layer.x
    call = _onnx_quantized(layer, x, node, layer.bias_int32(), layer.weight, threads)
    if call is None or not channels_last:
        return call
    return lambda: call().permute(0, 3, 1, 2)


def onnx_int8_linear(layer: Int8Layer, threads: int) -> Call | None:
    """QLinearMatMul (no bias) for a uint8 output, else MatMulIntegerToFloat."""
    weight = layer.weight.t().contiguous()
    if layer.y_scale is None:
        inputs = ["xq", "w", "xs", "ws", "xz", "wz", "b"]
        node = ("MatMulIntegerToFloat", inputs, ["y"], {"domain": "com.microsoft"})
        bias = torch.zeros(len(layer.weight)) if layer.bias is None else layer.bias
        return _onnx_quantized(layer, layer.x, node, bias, weight, threads)
    if layer.bias is not None:
        raise ValueError("QLinearMatMul has no bias")
    inputs = ["xq", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    node = ("QLinearMatMul", inputs, ["yq"], {})
    return _onnx_quantized(layer, layer.x, node, None, weight, threads)


def onnx_dynamic_linear(layer: Int8Layer, threads: int) -> Call | None:
    """DynamicQuantizeMatMul: float32 in and out, one scale per tensor found in the call."""
    inputs = ["xq", "w", "ws", "wz"]
    node = ("DynamicQuantizeMatMul", inputs, ["y"], {"domain": "com.microsoft"})
    return _onnx_quantized(layer, layer.x, node, None, layer.weight.t().contiguous(), threads, True)


def _onnx_quantized(
    layer: Int8Layer,
    x: Tensor,
    node: tuple[str, list[str], list[str], dict[str, Any]],
    bias: Tensor | None,
    weight: Tensor,
    threads: int,
    dynamic: bool = False,
) -> Call | None:
    """A model around one quantized node; None without onnx or onnxruntime."""
    try:
        import onnx
        import onnxruntime  # noqa: F401
    except ImportError:
        return None
    constants = {
        "xs": np.float32(layer.x_scale),
        "xz": np.uint8(layer.x_zero),
        "w": weight.numpy(),
        "ws": layer.w_scale.numpy(),
        "wz": np.zeros(len(layer.w_scale), np.int8),
        "ys": np.float32(layer.y_scale or 1),
        "yz": np.uint8(layer.y_zero),
    }
    if bias is not None:
        constants["b"] = bias.numpy()
    operator, inputs, outputs, attributes = node
    quantizes = x.dtype == torch.float32 and not dynamic
    inputs = ["x" if name == "xq" and not quantizes else name for name in inputs]
    nodes = [onnx.helper.make_node(operator, inputs, outputs, **attributes)]
    if quantizes:
        nodes.insert(0, onnx.helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]))
        if outputs == ["yq"]:
            nodes.append(onnx.helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]))
    result = "y" if outputs == ["y"] or quantizes else "yq"
    needed = {name for one in nodes for name in one.input}
    array = x.contiguous().numpy()
    types = onnx.TensorProto
    graph = onnx.helper.make_graph(
        nodes,
        operator,
        [
            onnx.helper.make_tensor_value_info(
                "x", onnx.helper.np_dtype_to_tensor_dtype(array.dtype), list(array.shape)
            )
        ],
        [onnx.helper.make_tensor_value_info(result, getattr(types, _TYPES[result]), None)],
        [
            onnx.numpy_helper.from_array(np.asarray(v), k)
            for k, v in constants.items()
            if k in needed
        ],
    )
    opsets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9)
    return onnx_session(model.SerializeToString(), x, threads)


_TYPES = {"y": "FLOAT", "yq": "UINT8"}


def openvino_int8_conv2d(layer: Int8Layer, threads: int) -> Call | None:
    """A convolution between quantized tensors, which OpenVINO runs in int8; see openvino_int8."""
    return openvino_int8(layer, threads)


def openvino_int8_linear(layer: Int8Layer, threads: int) -> Call | None:
    """The same of a matrix product."""
    return openvino_int8(layer, threads)


def openvino_int8(layer: Int8Layer, threads: int) -> Call | None:
    """Quantize (if x is float32), product of real values, bias, ReLU, quantize (given y_scale).

    That is how its own tools write quantized models; the CPU plugin fuses all of it.
    """
    try:
        import openvino as ov
        import openvino.opset13 as ops
    except ImportError:
        return None
    array = layer.x.contiguous().numpy()
    x = ops.parameter(list(array.shape), array.dtype)
    real = _openvino_input(ops, layer, x)
    weight = _openvino_weight(ops, layer)
    if layer.weight.dim() == 4:
        if layer.groups != 1:
            raise ValueError("groups are not supported here")
        around, steps = [layer.padding] * 2, [layer.stride] * 2
        y = ops.convolution(real, weight, steps, around, around, [1, 1])
    else:
        y = ops.matmul(real, weight, False, True)
    if layer.bias is not None:
        shape = (1, -1, 1, 1) if layer.weight.dim() == 4 else (1, -1)
        y = ops.add(y, ops.constant(layer.bias.view(shape).numpy()))
    if layer.relu:
        y = ops.relu(y)
    if layer.y_scale is not None:
        low = -layer.y_zero * layer.y_scale
        high = (255 - layer.y_zero) * layer.y_scale
        floating = layer.x.dtype == torch.float32
        limits = [np.float32(v) for v in (low, high, *((low, high) if floating else (0, 255)))]
        y = ops.fake_quantize(y, *map(ops.constant, limits), 256)
        y = y if floating else ops.convert(y, "u8")
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = ov.Core().compile_model(_model(ov, x, y), "CPU", settings)
    request = compiled.create_infer_request()
    source = ov.Tensor(array, shared_memory=True)  # array has to live as long as the request
    request.set_input_tensor(source)
    output = request.get_output_tensor().data

    def call(alive: tuple = (array, source)) -> Tensor:
        request.infer()
        return torch.from_numpy(output)

    return call


def _model(ov: Any, x: Any, y: Any) -> Any:
    return ov.Model([y], [x], "layer")


def _openvino_input(ops: Any, layer: Int8Layer, x: Any) -> Any:
    """The real values of x, in a form that the plugin recognizes as quantized."""
    if layer.x.dtype == torch.float32:
        low = np.float32(-layer.x_zero * layer.x_scale)
        high = np.float32((255 - layer.x_zero) * layer.x_scale)
        limits = [ops.constant(v) for v in (low, high, low, high)]
        return ops.fake_quantize(x, *limits, 256)
    real = ops.convert(x, "f32")
    if layer.x_zero:
        real = ops.subtract(real, ops.constant(np.float32(layer.x_zero)))
    return ops.multiply(real, ops.constant(np.float32(layer.x_scale)))


def _openvino_weight(ops: Any, layer: Int8Layer) -> Any:
    """The real weight behind a quantization to its own levels: the mark of a quantized model."""
    scale = layer.w_scale.view((-1,) + (1,) * (layer.weight.dim() - 1)).numpy()
    limits = [ops.constant(np.float32(level) * scale) for level in (-128, 127)]
    return ops.fake_quantize(ops.constant(layer.real_weight().numpy()), *limits, *limits, 256)


def torch_quantized(layer: Int8Layer) -> Call:
    """torch's quantized engine ("x86": oneDNN and fbgemm), uint8 to uint8; needs y_scale."""
    if layer.y_scale is None:
        raise ValueError("the quantized engine has no float32 output: give y_scale")
    torch.backends.quantized.engine = "x86"
    real = layer.real_weight()
    zeros = torch.zeros(len(layer.w_scale), dtype=torch.int64)
    weight = torch.quantize_per_channel(real, layer.w_scale.double(), zeros, 0, torch.qint8)
    x = layer.x
    if x.dtype == torch.uint8:
        x = torch._make_per_tensor_quantized_tensor(  # pyright: ignore[reportPrivateImportUsage]
            x, layer.x_scale, layer.x_zero
        )
    ops, y_scale, y_zero = torch.ops.quantized, layer.y_scale, layer.y_zero
    floating = x.dtype == torch.float32

    def quantized(run: Callable[[Tensor], Tensor]) -> Call:
        if not floating:
            return lambda: run(x).int_repr()
        pick = (layer.x_scale, layer.x_zero, torch.quint8)
        return lambda: run(torch.quantize_per_tensor(x, *pick)).dequantize()

    if weight.dim() == 2:
        run = ops.linear_relu if layer.relu else ops.linear
        packed = ops.linear_prepack(weight, layer.bias)
        return quantized(lambda q: run(q, packed, y_scale, y_zero))
    x = x.contiguous(memory_format=torch.channels_last)
    pairs = [layer.stride] * 2, [layer.padding] * 2, [1, 1], layer.groups
    packed = ops.conv2d_prepack(weight, layer.bias, *pairs)
    run = ops.conv2d_relu if layer.relu else ops.conv2d
    return quantized(lambda q: run(q, packed, y_scale, y_zero))


def torch_int_mm(x: Tensor, weight: Tensor) -> Call:
    """torch._int_mm: int8 (rows, in) times int8 (out, in) transposed, int32 out, nothing more."""
    columns = weight.t().contiguous()
    return lambda: torch._int_mm(x, columns)  # pyright: ignore[reportPrivateImportUsage]
