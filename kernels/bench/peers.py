"""What a user would otherwise call, each as a function without arguments that returns the output.

None stands for a peer that is not installed (pip install "compactnets[bench]" brings them all).
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Call = Callable[[], Tensor]


def torch_conv2d(x: Tensor, weight: Tensor, *, padding: int = 0) -> Call:
    """As nn.Conv2d calls it, channels_last: the weight is laid out anew in every call."""
    x = x.contiguous(memory_format=torch.channels_last)
    weight = weight.contiguous(memory_format=torch.channels_last)
    return lambda: F.conv2d(x, weight, None, 1, padding)


def torch_conv2d_prepacked(x: Tensor, weight: Tensor, *, padding: int = 0) -> Call:
    """The same with the weight laid out beforehand: the honest form of torch."""
    x = x.contiguous(memory_format=torch.channels_last)
    one, around = [1, 1], [padding, padding]
    packed = torch.ops.mkldnn._reorder_convolution_weight(
        weight, around, one, one, 1, list(x.shape)
    )
    return lambda: torch.ops.mkldnn._convolution_pointwise(
        x, packed, None, around, one, one, 1, "none", [], ""
    )


def onnx_conv2d(x: Tensor, weight: Tensor, threads: int, *, padding: int = 0) -> Call | None:
    """ONNX Runtime in fp32."""
    attributes = {"pads": [padding] * 4, "kernel_shape": list(weight.shape[2:])}
    return _onnx("Conv", x, {"w": weight}, threads, attributes)


def _onnx(
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
        import onnxruntime
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
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return lambda: torch.from_numpy(session.run(["y"], {"x": array})[0])
