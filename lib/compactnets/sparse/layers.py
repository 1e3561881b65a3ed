"""A convolution that wears a mask while it is trained."""

from collections.abc import Sequence
from typing import Self, TypeVar

import torch
from torch import Tensor, nn

Conv = TypeVar("Conv", bound=nn.Conv2d)


def _shell(kind: type[Conv], like: nn.Conv2d) -> Conv:
    """A convolution with the options of another and no memory: its weights are set by the caller,
    so that nothing is drawn from a random generator."""
    return kind(
        like.in_channels,
        like.out_channels,
        like.kernel_size,  # type: ignore[arg-type]
        like.stride,  # type: ignore[arg-type]
        like.padding,  # type: ignore[arg-type]
        like.dilation,  # type: ignore[arg-type]
        like.groups,
        like.bias is not None,
        like.padding_mode,
        device="meta",
    )


def _copied(parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach().clone(), parameter.requires_grad)


class MaskedConv2d(nn.Conv2d):
    """Convolves with weight * mask: dropped weights neither act nor get a gradient.

    mask: boolean, of weight's shape, True = keep. order: the permutation of outputs by which the
    blocks were formed (identity if none was), what deployment has to apply. Both are buffers.
    """

    mask: Tensor
    order: Tensor

    @classmethod
    def of(cls, conv: nn.Conv2d, mask: Tensor, order: Tensor | None = None) -> Self:
        """The masked form of a trained convolution; the weights are copied, frozen ones stay so."""
        if type(conv) is not nn.Conv2d:
            raise TypeError(f"only nn.Conv2d itself can be masked, not {type(conv).__name__}")
        if mask.shape != conv.weight.shape or mask.dtype != torch.bool:
            raise ValueError(
                f"mask must be boolean {tuple(conv.weight.shape)}, "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )
        layer = _shell(cls, conv)
        layer.weight = _copied(conv.weight)
        if conv.bias is not None:
            layer.bias = _copied(conv.bias)
        natural = torch.arange(conv.out_channels, device=conv.weight.device)
        layer.register_buffer("mask", mask.clone())
        layer.register_buffer("order", natural if order is None else order.clone())
        return layer.train(conv.training)

    def effective_weight(self) -> Tensor:
        """weight * mask, what the convolution uses."""
        return self.weight * self.mask

    def dense(self) -> nn.Conv2d:
        """A plain convolution that computes the same, with zeros where the mask is False."""
        conv = _shell(nn.Conv2d, self)
        conv.weight = nn.Parameter(self.effective_weight().detach())
        if self.bias is not None:
            conv.bias = _copied(self.bias)
        return conv.train(self.training)

    def forward(self, input: Tensor) -> Tensor:
        return self._conv_forward(input, self.effective_weight(), self.bias)

    def cost_weights(self) -> int:
        """Weights that are kept (compactnets.cost)."""
        return int(self.mask.sum())

    def cost_macs(self, input_shape: Sequence[int], output_shape: Sequence[int]) -> int:
        """Multiply-adds of the kept weights in one call: (1 - p) of the dense layer's."""
        images, _, height, width = output_shape
        return images * height * width * self.cost_weights()

    def extra_repr(self) -> str:
        kept = self.mask.float().mean().item()
        return f"{super().extra_repr()}, kept={kept:.4f}"
