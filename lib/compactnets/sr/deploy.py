"""A quantized EDSR as it is shipped: its body's convolutions on integer codes."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from compactnets.quant.deploy import CodedConv2d
from compactnets.sr.quantized import QuantizedBlock, QuantizedConv2d, Student


class CodedBlock(nn.Module):
    """A QuantizedBlock in integers: (N, features, H, W) -> the same shape, float32.

    The quantizers, with their gates, run as they were trained; the convolutions see only codes.
    """

    def __init__(self, block: QuantizedBlock):
        super().__init__()
        self.q1, self.q3 = block.q1, block.q3
        self.conv1 = _coded(block.conv1, block.q1, relu=True)
        self.conv2 = _coded(block.conv2, block.q2, nonnegative=True)
        self.res_scale = block.res_scale

    def forward(self, x: Tensor) -> Tensor:
        inner = self.conv2(self.conv1(x))
        return self.q3(inner).mul_(self.res_scale).add_(self.q1(x))


def _coded(conv: QuantizedConv2d, quantizer: Any, **options: bool) -> CodedConv2d:
    bits = conv.weight_bits
    return CodedConv2d.from_float(conv, conv.codes(), quantizer, weight_bits=bits, **options)


@torch.no_grad()
def deploy(student: nn.Module) -> Student:
    """A copy in which every quantized convolution multiplies integers; for inference.

    Head, last body convolution, up-sampler and tail stay real. TypeError if it is no Student;
    ValueError for a block in the released order, whose first convolution has no codes to work on.
    """
    if not isinstance(student, Student):
        raise TypeError(f"only a quantized EDSR can be deployed, got {type(student).__name__}")
    deployed = copy.deepcopy(student).eval()
    body = deployed.network.body
    for name, block in body.named_children():
        if not isinstance(block, QuantizedBlock) or block.order != "quantized":
            raise ValueError(
                f"block {name} feeds its first convolution with more levels than its bits have: "
                'prepare it with order="quantized"'
            )
        setattr(body, name, CodedBlock(block))
    return deployed
