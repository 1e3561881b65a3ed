"""Peers with weights of 4 and 2 bits: ONNX Runtime's MatMulNBits and PyTorch's own packed products.

None stands for a peer that is not installed or does not take the shape.
"""

from typing import Any

import torch
from kernels.bench.peers import Call, onnx_session
from torch import Tensor


def onnx_nbits(
    x: Tensor, integers: Tensor, scale: Tensor, threads: int, *, bits: int, accuracy: int = 4
) -> Call | None:
    """MatMulNBits: codes integers + 2^(bits - 1) with a scale per block of inputs.

    integers (out, in), scale (out, blocks); a block has 16, 32, ... inputs. accuracy 4 lets it
    multiply in int8, as ours does; 0 computes in fp32.
    """
    try:
        import onnxruntime  # noqa: F401
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        return None
    outputs, inputs = integers.shape
    blocks = scale.shape[1]
    codes = (integers + 2 ** (bits - 1)).to(torch.uint8).reshape(outputs, blocks, -1, 8 // bits)
    shifts = bits * torch.arange(8 // bits, dtype=torch.uint8)
    packed = (codes << shifts).sum(-1, dtype=torch.uint8)
    attributes: dict[str, Any] = {
        "K": inputs,
        "N": outputs,
        "bits": bits,
        "block_size": inputs // blocks,
    }
    node = helper.make_node(
        "MatMulNBits",
        ["x", "b", "s"],
        ["y"],
        domain="com.microsoft",
        accuracy_level=accuracy,
        **attributes,
    )
    ends = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x.shape)),
        helper.make_tensor_value_info("y", TensorProto.FLOAT, None),
    ]
    stored = [
        numpy_helper.from_array(packed.contiguous().numpy(), "b"),
        numpy_helper.from_array(scale.float().contiguous().flatten().numpy(), "s"),
    ]
    graph = helper.make_graph([node], "nbits", ends[:1], ends[1:], stored)
    opset = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    return onnx_session(model.SerializeToString(), x, threads)


def torch_int4pack(x: Tensor, integers: Tensor, scale: Tensor) -> Call:
    """torch._weight_int4pack_mm_for_cpu with bf16 activations; scale (out, blocks)."""
    group = integers.shape[1] // scale.shape[1]
    ops = torch.ops.aten
    packed = ops._convert_weight_to_int4pack_for_cpu((integers + 8).to(torch.int32), 1)
    zeros = torch.zeros_like(scale)
    both = torch.stack((scale, zeros), dim=-1).transpose(0, 1).contiguous().bfloat16()
    x = x.bfloat16()
    return lambda: ops._weight_int4pack_mm_for_cpu(x, packed, group, both)


def torch_int8pack(x: Tensor, integers: Tensor, scale: Tensor) -> Call:
    """torch._weight_int8pack_mm with bf16 activations; scale (out,)."""
    x, stored, scale = x.bfloat16(), integers.to(torch.int8).contiguous(), scale.bfloat16()
    return lambda: torch.ops.aten._weight_int8pack_mm(x, stored, scale)
