"""torch's own convolution with its weight laid out beforehand: the honest dense baseline.

nn.Conv2d reorders the weight for oneDNN in every call; a deployed network would not.
"""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn


class PrepackedConv2d(nn.Module):
    """A dense fp32 convolution on the CPU, weight packed once, with a clamp behind it if given.

    x (N, C, H, W) -> the same as nn.Conv2d followed by a clamp to [low, high] (both or none).
    channels_last inputs are the fast ones. input_shape: that of x, if it is known beforehand; the
    weight is then laid out for it, which gains some percent. Inference only; not for state_dict or
    torch.compile (the packed weight is opaque). ValueError for padding that is not numbers of
    zeros.
    """

    def __init__(
        self,
        layer: nn.Conv2d,
        low: float | None = None,
        high: float | None = None,
        input_shape: Sequence[int] | None = None,
    ):
        super().__init__()
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise ValueError(f"padding must be numbers of zeros, got {layer}")
        if (low is None) != (high is None):
            raise ValueError(f"give both bounds or none, got low={low}, high={high}")
        self._sizes = [list(v) for v in (layer.padding, layer.stride, layer.dilation)]
        self._groups = layer.groups
        self._bias = None if layer.bias is None else layer.bias.detach()
        self._packed = torch.ops.mkldnn._reorder_convolution_weight(
            layer.weight.detach(),
            *self._sizes,
            layer.groups,
            None if input_shape is None else list(input_shape),
        )
        self._then = ("none", []) if low is None else ("hardtanh", [low, high])

    @classmethod
    def of_weight(
        cls,
        weight: Tensor,
        *,
        padding: int = 0,
        stride: int = 1,
        input_shape: Sequence[int] | None = None,
    ) -> Self:
        """For a bare weight (out, in, kh, kw) without bias."""
        outputs, inputs, *size = weight.shape
        layer = nn.Conv2d(
            inputs,
            outputs,
            (size[0], size[1]),
            stride,
            padding,
            bias=False,
            device="meta",
        )
        layer.weight = nn.Parameter(weight.detach())
        return cls(layer, input_shape=input_shape)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            x, self._packed, self._bias, *self._sizes, self._groups, *self._then, ""
        )
