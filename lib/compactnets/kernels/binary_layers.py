"""Layers for inference on the 1-bit kernels: packed when they are built, loadable, compilable."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compactnets.kernels.binary_conv import binary_conv2d, pack_weight, unpack_weight
from compactnets.kernels.binary_signs import words_of
from compactnets.kernels.channels import per_channel_if_any


def as_pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    """(vertical, horizontal); ValueError for anything but an integer or two of them."""
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or not all(isinstance(v, int) for v in pair):
        raise ValueError(f"{name} must be an integer or two of them, got {value!r}")
    return pair


class BinaryConv2d(nn.Module):
    """y = scale * conv2d(sign(x + input_shift), sign(weight)) + bias, 1 bit by 1 bit.

    weight (out, in / groups, kh, kw) of a trained layer: only its signs count (±0 is +1). scale
    and bias (out,), input_shift (in,); None is 1, 0, 0. stride, padding, dilation, groups as for
    nn.Conv2d; padding adds zeros to the signs, exactly. x (N, in, H, W), channels_last preferred
    (others are copied); floating dtypes other than float32 are converted; the result is float32.
    x may also be packed signs, int32 (N, H, W, ceil(in / 32)) of a layer chained before this one
    (binary_chain); input_shift then has done its work there.

    All state is in buffers: packed (int32, 1 bit a weight and a 32-bit sum per tap and output),
    scale, bias, input_shift. To load a state_dict without the weights at hand build the layer with
    `BinaryConv2d.blank`. Inference only: no gradient. ValueError for shapes that do not fit.
    """

    weight_bits = 1
    activation_bits = 1
    packed: Tensor
    scale: Tensor
    bias: Tensor | None
    input_shift: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor | None = None,
        *,
        bias: Tensor | None = None,
        input_shift: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ):
        super().__init__()
        packed = pack_weight(weight, groups)
        self.out_channels = weight.shape[0]
        self.in_channels = weight.shape[1] * groups
        self.kernel_size = (weight.shape[2], weight.shape[3])
        self.stride = as_pair("stride", stride)
        self.padding = as_pair("padding", padding)
        self.dilation = as_pair("dilation", dilation)
        self.groups = groups
        self._geometry = {"kernel_size": self.kernel_size, **self._unusual()}  # shorter calls
        if scale is None:
            scale = torch.ones(self.out_channels, device=weight.device)
        self.register_buffer("packed", packed)
        self.register_buffer("scale", per_channel_if_any("scale", scale, self.out_channels))
        self.register_buffer("bias", per_channel_if_any("bias", bias, self.out_channels))
        self.register_buffer(
            "input_shift", per_channel_if_any("input_shift", input_shift, self.in_channels)
        )

    @classmethod
    def blank(
        cls,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        *,
        bias: bool = False,
        input_shift: bool = False,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> "BinaryConv2d":
        """A layer of +1 weights and scale 1, to load a state_dict into.

        bias, input_shift: whether the saved layer has them.
        """
        if groups < 1 or in_channels % groups:
            raise ValueError(f"groups={groups} does not divide in_channels={in_channels}")
        return cls(
            torch.ones(out_channels, in_channels // groups, *as_pair("kernel_size", kernel_size)),
            bias=torch.zeros(out_channels) if bias else None,
            input_shift=torch.zeros(in_channels) if input_shift else None,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype is torch.int32:  # signs: what input_shift says is in them
            return binary_conv2d(
                x,
                self.packed,
                self.scale,
                self.bias,
                in_channels=self.in_channels,
                **self._geometry,
            )
        if x.dtype is not torch.float32 and x.is_floating_point():
            x = x.float()
        own = self._buffers  # nn.Module's own way to them takes half a microsecond each
        return binary_conv2d(
            x, own["packed"], own["scale"], own["bias"], own["input_shift"], **self._geometry
        )

    def sign_weight(self) -> Tensor:
        """The weights as ±1 in float32, (out, in / groups, kh, kw)."""
        return unpack_weight(
            self.packed, self.out_channels, self.in_channels, self.kernel_size, self.groups
        )

    def cost_weights(self) -> int:
        """Weights held in 1 bit (compactnets.cost)."""
        per_output = self.in_channels // self.groups * self.kernel_size[0] * self.kernel_size[1]
        return self.out_channels * per_output

    def cost_macs(self, input_shape: Sequence[int], output_shape: Sequence[int]) -> int:
        """1-bit multiply-adds of one call, padding included, as nn.Conv2d is counted."""
        images, _, height, width = output_shape
        return images * height * width * self.cost_weights()

    def _unusual(self) -> dict[str, Any]:
        """The geometry that differs from the operator's defaults."""
        defaults = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
        return {k: getattr(self, k) for k, v in defaults.items() if getattr(self, k) != v}

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        text += "".join(f", {name}={value}" for name, value in self._unusual().items())
        present = [name for name in ("bias", "input_shift") if getattr(self, name) is not None]
        return text + "".join(f", {name}=True" for name in present)


class BinaryLinear(nn.Module):
    """y = scale * sign(x + input_shift) @ sign(weight).T + bias, 1 bit by 1 bit.

    weight (out, in) of a trained layer: only its signs count. x (..., in), or int32 signs
    (..., ceil(in / 32)) of a layer chained before -> (..., out) float32.
    Runs as a 1x1 convolution over one row of pixels; the rest is as in BinaryConv2d.
    """

    weight_bits = 1
    activation_bits = 1
    packed: Tensor
    scale: Tensor
    bias: Tensor | None
    input_shift: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor | None = None,
        *,
        bias: Tensor | None = None,
        input_shift: Tensor | None = None,
    ):
        super().__init__()
        if weight.dim() != 2:
            raise ValueError(f"weight must be (out, in), got shape {tuple(weight.shape)}")
        self.out_features, self.in_features = weight.shape
        if scale is None:
            scale = torch.ones(self.out_features, device=weight.device)
        self.register_buffer("packed", pack_weight(weight[:, :, None, None]))
        self.register_buffer("scale", per_channel_if_any("scale", scale, self.out_features))
        self.register_buffer("bias", per_channel_if_any("bias", bias, self.out_features))
        self.register_buffer(
            "input_shift", per_channel_if_any("input_shift", input_shift, self.in_features)
        )

    @classmethod
    def blank(
        cls, in_features: int, out_features: int, *, bias: bool = False, input_shift: bool = False
    ) -> "BinaryLinear":
        """A layer of +1 weights and scale 1, to load a state_dict into."""
        return cls(
            torch.ones(out_features, in_features),
            bias=torch.zeros(out_features) if bias else None,
            input_shift=torch.zeros(in_features) if input_shift else None,
        )

    def forward(self, x: Tensor) -> Tensor:
        signs = x.dtype is torch.int32
        width = words_of(self.in_features) if signs else self.in_features
        if x.dim() < 1 or x.shape[-1] != width:
            raise ValueError(f"x must be (..., {width}), got shape {tuple(x.shape)}")
        x = x.float() if x.is_floating_point() else x
        if x.numel() == 0:
            return self.scale.new_empty(*x.shape[:-1], self.out_features)
        rows = x.reshape(1, 1, -1, width)
        y = binary_conv2d(
            rows if signs else rows.permute(0, 3, 1, 2),  # a view, channels last
            self.packed,
            self.scale,
            self.bias,
            None if signs else self.input_shift,
            kernel_size=(1, 1),
            in_channels=self.in_features if signs else None,
        )
        return y.permute(0, 2, 3, 1).reshape(*x.shape[:-1], self.out_features)

    def sign_weight(self) -> Tensor:
        """The weights as ±1 in float32, (out, in)."""
        shape = (self.out_features, self.in_features)
        return unpack_weight(self.packed, *shape, (1, 1)).flatten(1)

    def cost_weights(self) -> int:
        """Weights held in 1 bit (compactnets.cost)."""
        return self.out_features * self.in_features

    def cost_macs(self, input_shape: Sequence[int], output_shape: Sequence[int]) -> int:
        """1-bit multiply-adds of one call, as nn.Linear is counted."""
        return math.prod(output_shape[:-1]) * self.cost_weights()

    def extra_repr(self) -> str:
        present = [name for name in ("bias", "input_shift") if getattr(self, name) is not None]
        named = "".join(f", {name}=True" for name in present)
        return f"in_features={self.in_features}, out_features={self.out_features}{named}"
