"""What a user would otherwise call, each as a function without arguments that returns the output.

None stands for a peer that is not installed (pip install "compactnets[bench]" brings them all).
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from compactnets.kernels import PrepackedConv2d

Call = Callable[[], Tensor]


def torch_conv2d(x: Tensor, weight: Tensor, *, padding: int = 0) -> Call:
    """As nn.Conv2d calls it, channels_last: the weight is laid out anew in every call."""
    x = x.contiguous(memory_format=torch.channels_last)
    weight = weight.contiguous(memory_format=torch.channels_last)
    return lambda: F.conv2d(x, weight, None, 1, padding)


def torch_conv2d_prepacked(x: Tensor, weight: Tensor, *, padding: int = 0) -> Call:
    """The same with the weight laid out beforehand: the honest form of torch."""
    layer = PrepackedConv2d.of_weight(weight, padding=padding, input_shape=x.shape)
    return partial(layer, x.contiguous(memory_format=torch.channels_last))


def onnx_conv2d(x: Tensor, weight: Tensor, threads: int, *, padding: int = 0) -> Call | None:
    """ONNX Runtime in fp32."""
    attributes = {"pads": [padding] * 4, "kernel_shape": list(weight.shape[2:])}
    return onnx_node("Conv", x, {"w": weight}, threads, attributes)


def torch_conv2d_bf16(x: Tensor, weight: Tensor, *, padding: int = 0) -> Call:
    """torch in bf16, input already in bf16; its output is rounded to 8 bits."""
    return torch_conv2d(x.bfloat16(), weight.bfloat16(), padding=padding)


def torch_linear(x: Tensor, weight: Tensor) -> Call:
    """As nn.Linear calls it."""
    return lambda: F.linear(x, weight)


def onnx_linear(x: Tensor, weight: Tensor, threads: int) -> Call | None:
    """ONNX Runtime in fp32: MatMul with the transposed weight as a constant."""
    return onnx_node("MatMul", x, {"w": weight.t()}, threads, {})


def openvino_conv(x: Tensor, weight: Tensor, threads: int, *, padding: int = 0) -> Call | None:
    """OpenVINO in fp32; 2-D or 3-D by the weight's dimensions."""
    try:
        import openvino
        from openvino import opset13
    except ImportError:
        return None
    parameter = opset13.parameter(list(x.shape), openvino.Type.f32)
    axes = weight.dim() - 2
    one, around = [1] * axes, [padding] * axes
    stored = opset13.constant(weight.contiguous().numpy())
    node = opset13.convolution(parameter, stored, one, around, around, one)
    return openvino_model(openvino.Model([node], [parameter]), x, threads)


def openvino_model(model: Any, x: Tensor, threads: int) -> Call:
    """A model of one input and one output, compiled for the CPU."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1}
    settings["INFERENCE_PRECISION_HINT"] = "f32"  # bf16 otherwise, where the CPU has it
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    array = x.contiguous().numpy()
    source = openvino.Tensor(array, shared_memory=True)
    request.set_input_tensor(source)

    def call(alive: tuple = (array, source)) -> Tensor:  # as long as the request that reads them
        request.infer()
        return torch.from_numpy(request.get_output_tensor().data)

    return call


def ncnn_conv2d(x: Tensor, weight: Tensor, threads: int, *, padding: int = 0) -> Call | None:
    """ncnn in fp32, one image: Winograd for 3x3, which nobody else here does."""
    try:
        import ncnn
    except ImportError:
        return None
    outputs, _, height, width = weight.shape
    if height != width or x.shape[0] != 1:
        raise ValueError("ncnn is asked for one image and a square kernel only")
    layer = f"0={outputs} 1={width} 4={padding} 5=0 6={weight.numel()}"
    text = f"7767517\n2 2\nInput x 0 1 x\nConvolution conv 1 1 x y {layer}\n"
    net = ncnn.Net()
    net.opt.num_threads = threads
    for half in ("fp16_storage", "fp16_arithmetic", "fp16_packed", "bf16_storage"):
        setattr(net.opt, f"use_{half}", False)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "net.param").write_text(text)
        flag = bytes(4)  # weights follow as fp32
        (Path(folder) / "net.bin").write_bytes(flag + weight.contiguous().numpy().tobytes())
        net.load_param(str(Path(folder) / "net.param"))
        net.load_model(str(Path(folder) / "net.bin"))
    image = ncnn.Mat(x[0].contiguous().numpy()).clone()

    def call() -> Tensor:
        extractor = net.create_extractor()
        extractor.input("x", image)
        return torch.from_numpy(extractor.extract("y")[1].numpy())[None]

    return call


def onnx_node(
    operator: str,
    x: Tensor,
    constants: dict[str, Tensor],
    threads: int,
    attributes: dict[str, Any],
    result: str = "FLOAT",
) -> Call | None:
    """A model of one node whose first input is x; None without onnx or onnxruntime.

    result: the output's type by its name in ONNX.
    """
    try:
        import onnxruntime  # noqa: F401
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        return None
    array = x.contiguous().numpy()
    node = helper.make_node(operator, ["x", *constants], ["y"], **attributes)
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    ends = [
        helper.make_tensor_value_info("x", kind, list(x.shape)),
        helper.make_tensor_value_info("y", getattr(TensorProto, result), None),
    ]
    stored = [numpy_helper.from_array(v.contiguous().numpy(), k) for k, v in constants.items()]
    graph = helper.make_graph([node], operator, ends[:1], ends[1:], stored)
    opset = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    return onnx_session(model.SerializeToString(), x, threads)


def onnx_session(model: bytes | str, x: Tensor, threads: int) -> Call:
    """A model with the input "x" and one output on ONNX Runtime; model: its bytes or a path."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)  # it warns of what it tidies up in a model
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    array = x.contiguous().numpy()
    return lambda: torch.from_numpy(session.run(None, {"x": array})[0])
