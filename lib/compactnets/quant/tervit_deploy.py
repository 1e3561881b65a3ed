"""TerViT's trained network on packed weights: 2-bit codes, or bytes, on compiled kernels."""

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compactnets import kernels
from compactnets.quant.tervit import CodedLinear, CodedPatches


class BytePatches(nn.Module):
    """The patch convolution with its codes in memory, widened to float32 in each call."""

    codes: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, layer: CodedPatches):
        super().__init__()
        codes, scale = layer.coded()
        self.weight_bits, self.activation_bits = layer.weight_bits, layer.activation_bits
        self.stride = layer.stride
        self.register_buffer("codes", codes.to(torch.int8))
        self.register_buffer("scale", scale.clone())
        self.register_buffer("bias", None if layer.bias is None else layer.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.scale * self.codes, self.bias, self.stride)  # type: ignore[arg-type]

    def cost_weights(self) -> int:
        """Weights held in weight_bits (compactnets.cost)."""
        return self.codes.numel()

    def cost_macs(self, input_shape: Sequence[int], output_shape: Sequence[int]) -> int:
        """Multiply-adds of one call, as nn.Conv2d is counted."""
        return output_shape[0] * math.prod(output_shape[2:]) * self.codes.numel()


@torch.no_grad()
def deploy_linear(layer: CodedLinear) -> nn.Module:
    """The layer on packed codes: 2 bits for ternary and signs, 4 for 3 and 4 bits, else bytes.

    Same outputs as layer(x) but for the order of float operations; inference only.
    """
    codes, scale = layer.coded()
    integers, scale, bias = codes.to(torch.int8), scale.flatten(), layer.bias
    if layer.weight_bits <= 2:
        options = {"bits": 2, "ternary": True}
    elif layer.weight_bits <= 4:
        options = {"bits": 4}
    else:
        w_scale = scale.expand(len(integers)).contiguous()
        return kernels.Int8Linear(integers, w_scale=w_scale, bias=bias)
    return kernels.LowBitLinear.from_integers(integers, scale, bias=bias, **options)  # type: ignore[arg-type]


def deploy(model: nn.Module) -> nn.Module:
    """A copy for inference. Attention products stay float products of 8-bit values.

    ValueError for a network in training mode or without layers that TerViT.prepare made.
    """
    layers = [n for n, m in model.named_modules() if isinstance(m, CodedLinear)]
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no low-bit layer to deploy: prepare and train it with "
            "TerViT first"
        )
    if model.training:
        raise ValueError("the network is still in training mode: call model.eval() when it is done")
    model = copy.deepcopy(model).cpu()
    for name in layers:
        model.set_submodule(name, deploy_linear(model.get_submodule(name)))  # type: ignore[arg-type]
    for name, module in list(model.named_modules()):
        if isinstance(module, CodedPatches):
            model.set_submodule(name, BytePatches(module))
    return model.eval()
