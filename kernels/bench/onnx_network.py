"""Networks of convolutions as ONNX models, fp32 and int8, on ONNX Runtime."""

import contextlib
import io
import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from kernels.bench.peers import Call, onnx_session
from torch import Tensor, nn


class Graph:
    """An ONNX graph that grows node by node; every method returns the name of its result."""

    def __init__(self):
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, value: Tensor) -> str:
        from onnx import numpy_helper

        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value.detach().contiguous().numpy(), name))
        return name

    def node(self, operator: str, inputs: Sequence[str], **attributes) -> str:
        from onnx import helper

        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def conv(self, x: str, layer: nn.Conv2d, relu6: bool) -> str:
        inputs = [x, self.constant(layer.weight)]
        if layer.bias is not None:
            inputs.append(self.constant(layer.bias))
        y = self.node(
            "Conv",
            inputs,
            kernel_shape=list(layer.kernel_size),
            strides=list(layer.stride),
            pads=[*layer.padding, *layer.padding],  # type: ignore[list-item]
            group=layer.groups,
        )
        limits = [self.constant(torch.tensor(v)) for v in (0.0, 6.0)]
        return self.node("Clip", [y, *limits]) if relu6 else y

    def linear(self, x: str, layer: nn.Linear) -> str:
        return self.node(
            "Gemm", [x, self.constant(layer.weight), self.constant(layer.bias)], transB=1
        )

    def model(self, y: str, shape: Sequence[int]):
        """The model from input "x" of that shape to the result y."""
        from onnx import TensorProto, helper

        ends = [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape)),
            helper.make_tensor_value_info(y, TensorProto.FLOAT, None),
        ]
        graph = helper.make_graph(self.nodes, "network", ends[:1], ends[1:], self.constants)
        opset = [helper.make_opsetid("", 21)]
        return helper.make_model(graph, opset_imports=opset, ir_version=10)


def int8_session(model, x: Tensor, threads: int, calibration: Sequence[Tensor]) -> Call:
    """The model quantized statically: int8 weights per channel, uint8 activations."""
    import onnx
    from onnxruntime import quantization as q

    class Reader(q.CalibrationDataReader):
        images = iter(calibration)

        def get_next(self):
            image = next(self.images, None)
            return None if image is None else {"x": image.numpy()}

    logging.disable(logging.WARNING)
    try:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            paths = [str(Path(folder) / name) for name in ("float.onnx", "ready.onnx", "int8.onnx")]
            onnx.save(model, paths[0])
            q.shape_inference.quant_pre_process(paths[0], paths[1], skip_symbolic_shape=True)
            q.quantize_static(paths[1], paths[2], Reader(), per_channel=True)
            return onnx_session(paths[2], x, threads)
    finally:
        logging.disable(logging.NOTSET)
