"""A quantized EDSR as it is shipped: its body's convolutions on integer codes."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from compactnets.kernels import PrepackedConv2d
from compactnets.quant.deploy import CodedConv2d
from compactnets.sr.quantized import QuantizedBlock, QuantizedConv2d, Student


class CodedBlock(nn.Module):
    """A QuantizedBlock in integers: (N, features, H, W) -> the same shape, float32.

    The quantizers, with their gates, place the levels as they were trained to; the convolutions see
    only codes. For inference.
    """

    def __init__(self, block: QuantizedBlock):
        super().__init__()
        self.q1, self.q3 = block.q1, block.q3
        self.conv1 = _coded(block.conv1, block.q1, relu=True)
        self.conv2 = _coded(block.conv2, block.q2, nonnegative=True)
        self.res_scale = block.res_scale

    def forward(self, x: Tensor) -> Tensor:
        codes = self.q1.codes(x)  # type: ignore[operator]
        inner = self._rounded(self.conv2(self.conv1.multiply(codes)))
        step, zero = _per_image((codes.step, codes.zero))
        return inner.add_((codes.values.float() - zero).mul_(step))

    def _rounded(self, inner: Tensor) -> Tensor:
        """res_scale * q3(inner), in place where q3 has a grid."""
        if not hasattr(self.q3, "grid"):
            return self.res_scale * self.q3(inner)
        inverse, zero, highest = _per_image(self.q3.grid(inner))  # type: ignore[operator]
        inner = inner.mul_(inverse).round_().clamp_(-zero, highest - zero)
        return inner.mul_(self.res_scale / inverse)


def _per_image(parts: Iterable[Any]) -> list[Any]:
    """Tensors of one number as numbers, which cost less; (N,) as (N, 1, 1, 1)."""
    return [_of_one(part) if isinstance(part, Tensor) else part for part in parts]


def _of_one(part: Tensor) -> Any:
    return part.item() if part.numel() == 1 else part.view(-1, 1, 1, 1)


def _coded(conv: QuantizedConv2d, quantizer: Any, **options: bool) -> CodedConv2d:
    bits = conv.weight_bits
    return CodedConv2d.from_float(conv, conv.codes(), quantizer, weight_bits=bits, **options)


@torch.no_grad()
def deploy(student: nn.Module) -> Student:
    """A copy in which every quantized convolution multiplies integers; for inference on a CPU.

    Head, last body convolution, up-sampler and tail stay real, with weights laid out beforehand.
    TypeError if it is no Student; ValueError for a block in the released order, whose first
    convolution has no codes to work on.
    """
    if not isinstance(student, Student):
        raise TypeError(f"only a quantized EDSR can be deployed, got {type(student).__name__}")
    deployed = copy.deepcopy(student).eval()
    for name, module in list(deployed.named_modules()):
        if isinstance(module, QuantizedBlock):
            if module.order != "quantized":
                raise ValueError(
                    f"{name} feeds its first convolution with more levels than its bits have: "
                    'prepare it with order="quantized"'
                )
            _put(deployed, name, CodedBlock(module))
        elif type(module) is nn.Conv2d:
            _put(deployed, name, PrepackedConv2d(module))
    return deployed


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)
