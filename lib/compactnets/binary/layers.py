"""1-bit layers as they are trained: signs of the input times scaled signs of the weights."""

from collections.abc import Callable
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from compactnets.binary.scales import Binarizer
from compactnets.binary.ste import Polynomial, Slope, sign

MakeBinarizer = Callable[[Tensor], Binarizer]


class Sign(nn.Module):
    """sign(x) with a surrogate gradient: what a 1-bit layer does to its input by default."""

    def __init__(self, slope: Slope | None = None):
        super().__init__()
        self.slope = slope or Polynomial()

    def forward(self, x: Tensor) -> Tensor:
        return sign(x, self.slope)

    def extra_repr(self) -> str:
        return f"slope={self.slope}"


class _Parts(nn.Module):
    """What the two 1-bit layers have in common; see them for the arguments."""

    shift: nn.Parameter | None
    binarizer: Binarizer
    activation: nn.Module
    rescale: nn.Module | None
    method = ""  # name of the method that made the layer; a checkpoint remembers it

    weight_bits = 1
    activation_bits = 1

    def get_extra_state(self) -> Tensor:
        return torch.tensor(list(self.method.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        saved = bytes(state.tolist()).decode()
        if saved != self.method:
            raise ValueError(
                f"the checkpoint is of {saved or 'no method'}, this layer was prepared by "
                f"{self.method or 'no method'}: prepare the network with the checkpoint's method"
            )

    def _add_parts(
        self,
        real: nn.Conv2d | nn.Linear,
        channels: int,
        make_binarizer: MakeBinarizer,
        slope: Slope | None,
        shift: bool,
        activation: nn.Module | None,
        rescale: nn.Module | None,
    ) -> None:
        if slope is not None and activation is not None:
            raise ValueError("give a slope or an activation, not both: the activation has its own")
        with torch.no_grad():
            self.weight.copy_(real.weight)  # type: ignore[operator,union-attr]
        zeros = real.weight.new_zeros(channels) if shift else None
        self.shift = None if zeros is None else nn.Parameter(zeros)
        self.binarizer = make_binarizer(self.weight)  # type: ignore[arg-type]
        self.activation = activation or Sign(slope)
        self.rescale = rescale


class BinaryConv2d(nn.Conv2d, _Parts):
    """rescale(conv(activation(x + shift), binarizer(weight)), x); padding adds zeros to the signs.

    Made from a real convolution, whose weights become the latent ones. shift: a learned bias per
    input channel (ReActNet's RSign, arXiv:2003.03488), started at 0, or none. activation: a module
    that in eval mode returns sign(x) exactly; default Sign(slope). rescale: a module (y, x) -> y
    for scales that depend on the input or on the place, or none. ValueError if the convolution
    has a bias (a normalisation that follows makes it idle) or pads with anything but zeros.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        make_binarizer: MakeBinarizer,
        slope: Slope | None = None,
        *,
        shift: bool = True,
        activation: nn.Module | None = None,
        rescale: nn.Module | None = None,
    ):
        if conv.bias is not None or conv.padding_mode != "zeros":
            raise ValueError(f"cannot binarize {conv}: it must have no bias and pad with zeros")
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            conv.groups,
            bias=False,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        self._add_parts(conv, conv.in_channels, make_binarizer, slope, shift, activation, rescale)

    def forward(self, x: Tensor) -> Tensor:
        shifted = x if self.shift is None else x + self.shift.to(x.dtype).view(1, -1, 1, 1)
        y = self._conv_forward(self.activation(shifted), self.binarizer(self.weight), None)
        return y if self.rescale is None else self.rescale(y, x)


class BinaryLinear(nn.Linear, _Parts):
    """rescale(activation(x + shift) @ binarizer(weight).T, x) + bias, for x (..., in).

    Made from a real linear layer, whose weights become the latent ones and whose bias stays real.
    The arguments are those of BinaryConv2d.
    """

    def __init__(
        self,
        linear: nn.Linear,
        make_binarizer: MakeBinarizer,
        slope: Slope | None = None,
        *,
        shift: bool = True,
        activation: nn.Module | None = None,
        rescale: nn.Module | None = None,
    ):
        super().__init__(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            device=linear.weight.device,
            dtype=linear.weight.dtype,
        )
        if linear.bias is not None:
            with torch.no_grad():
                self.bias.copy_(linear.bias)
        features = linear.in_features
        self._add_parts(linear, features, make_binarizer, slope, shift, activation, rescale)

    def forward(self, x: Tensor) -> Tensor:
        shifted = x if self.shift is None else x + self.shift.to(x.dtype)
        y = F.linear(self.activation(shifted), self.binarizer(self.weight))
        y = y if self.rescale is None else self.rescale(y, x)
        return y if self.bias is None else y + self.bias.to(y.dtype)


BinaryLayer = BinaryConv2d | BinaryLinear


def is_binary(module: nn.Module) -> TypeGuard[BinaryLayer]:
    """Is the module a trained 1-bit layer?"""
    return isinstance(module, BinaryConv2d | BinaryLinear)


def binarized(
    real: nn.Module, make_binarizer: MakeBinarizer, slope: Slope | None = None, **parts
) -> BinaryLayer:
    """The 1-bit layer for a real convolution or linear layer; TypeError for any other module.

    parts: shift, activation and rescale of BinaryConv2d.
    """
    if isinstance(real, nn.Conv2d):
        return BinaryConv2d(real, make_binarizer, slope, **parts)
    if isinstance(real, nn.Linear):
        return BinaryLinear(real, make_binarizer, slope, **parts)
    raise TypeError(f"only nn.Conv2d and nn.Linear become binary, got {type(real).__name__}")
