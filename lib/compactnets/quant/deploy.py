"""The deployed low-bit convolution: codes of 2 to 8 bits, multiplied as bytes on the int8 kernel.

Integer weights k_w with w_hat = w_step * k_w and activation codes with x_hat = x_step * (q - zero)
make a convolution an exact integer one under a single factor:

    y = x_step * w_step * sum (q - zero) k_w + bias,   and padding inserts q = zero, that is 0.

Why bytes, when two bits would do: a kernel that multiplies 4- or 2-bit weights exists here for 1x1
convolutions (kernels.LowBitConv2d), where a layer at batch 1 waits for its weights and fewer bytes
are the gain. A 3x3 convolution of an image reuses every weight at every pixel and waits for
multiply-adds instead, of which a processor does the most on bytes; narrower operands would first
have to be widened to them.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compactnets.kernels.geometry import pair
from compactnets.kernels.int8 import int8_conv2d, pack_int8
from compactnets.quant.quantizer import Codes, Grid, Quantizer, check_bits


class CodedConv2d(nn.Module):
    """conv2d(x_hat, w_hat) + bias, executed on integers: x is coded by `quantizer` in every call.

    weight: the codes of a weight (out, in / groups, kh, kw), one step and zero or one per output
    channel. weight_bits, quantizer.bits: the widths that costs are counted with
    (compactnets.cost), whatever the kernel's operands are; in memory a weight takes 8 bits. stride,
    padding, dilation, groups as for nn.Conv2d. relu: negative results become 0. nonnegative: a
    promise that x has no negative values and no NaN, as after a ReLU. The kernel then codes x on
    its way in, because it saturates at one end of the byte and nothing is beyond the other; a
    quantizer without `grid`, or without a level of 0, goes the general way.

    x (N, in, H, W) float, channels_last preferred (others are copied) -> float32. Codes with a step
    and zero per image are multiplied image by image. Inference only: no gradient. ValueError for
    weights beyond int8, for shapes that do not fit, and for activation codes whose levels and real
    zero lie more than 255 steps apart.
    """

    packed: Tensor
    w_step: Tensor
    bias: Tensor | None

    def __init__(
        self,
        weight: Codes,
        quantizer: Quantizer,
        *,
        weight_bits: int,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        relu: bool = False,
        nonnegative: bool = False,
    ):
        super().__init__()
        integers = _int8(weight)
        self.quantizer = quantizer
        self.weight_bits, self.activation_bits = check_bits(weight_bits), quantizer.bits
        self.out_channels, in_each = integers.shape[:2]
        self.in_channels, self.groups = in_each * groups, groups
        self.kernel_size = (integers.shape[2], integers.shape[3])
        self.stride, self.dilation = pair("stride", stride), pair("dilation", dilation)
        self.padding = pair("padding", padding, least=0)
        self.relu, self.nonnegative = relu, nonnegative
        self.register_buffer("packed", pack_int8(integers, groups, self.dilation[1]))
        self.register_buffer("w_step", weight.step.detach().float().clone())
        self.register_buffer("bias", None if bias is None else bias.detach().float().clone())

    @classmethod
    def from_float(
        cls, conv: nn.Conv2d, weight: Codes, quantizer: Quantizer, **options
    ) -> "CodedConv2d":
        """Of a trained convolution and its weight's codes; options: weight_bits, relu, nonnegative.

        ValueError unless it pads with numbers of zeros and the codes have its weight's shape.
        """
        if isinstance(conv.padding, str) or conv.padding_mode != "zeros":
            raise ValueError(f"padding must be numbers of zeros: {conv.padding}, {conv!r}")
        if weight.values.shape != conv.weight.shape:
            found, expected = tuple(weight.values.shape), tuple(conv.weight.shape)
            raise ValueError(f"the codes have shape {found}, the weight of {conv!r} {expected}")
        return cls(
            weight,
            quantizer,
            bias=conv.bias,
            stride=conv.stride,  # type: ignore[arg-type]
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
            **options,
        )

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        if self.nonnegative and hasattr(self.quantizer, "grid"):
            y = self._from_above(x, self.quantizer.grid(x))  # type: ignore[operator]
            if y is not None:
                return y
        return self.multiply(self.quantizer.codes(x))

    @torch.no_grad()
    def multiply(self, codes: Codes) -> Tensor:
        """The convolution of codes (N, in, H, W) that the caller already has."""
        values, step, zero = codes
        if step.dim() == zero.dim() == 0:
            return self._from_codes(values, step, int(zero))
        steps, zeros = step.expand(len(values)), zero.expand(len(values)).tolist()
        parts = map(self._from_codes, values.split(1), steps, zeros)
        return torch.cat(list(parts)) if len(values) != 1 else next(parts)

    def _from_above(self, x: Tensor, grid: Grid) -> Tensor | None:
        """x >= 0 with one grid that has a level of 0: its highest level becomes byte 255."""
        inverse, zero, highest = grid
        if inverse.numel() != 1 or (isinstance(zero, Tensor) and zero.numel() != 1):
            return None
        top = highest - int(zero)
        if not 0 <= top <= highest <= 255:
            return None
        inverse = inverse.float().reshape(())
        return self._multiply(x.float(), 1 / inverse, 255 - top, x_inverse=inverse.item())

    def _from_codes(self, values: Tensor, step: Tensor, zero: int) -> Tensor:
        if zero > 255:
            raise ValueError(f"real zero is code {zero}, beyond a byte: the bounds are far from 0")
        highest = 2**self.activation_bits - 1 - zero
        if highest > 255:
            raise ValueError(f"level {highest} is beyond a byte: the bounds are far from 0")
        if zero < 0:  # real zero lies below the lowest level: every code moves up, to have it as 0
            values, zero = values - zero, 0
        return self._multiply(values, step, zero)

    def _multiply(self, x: Tensor, step: Tensor, zero: int, **options) -> Tensor:
        return int8_conv2d(
            x,
            self.packed,
            (self.w_step * step).expand(self.out_channels).contiguous(),
            self.bias,
            kernel_size=self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            groups=self.groups,
            x_zero=zero,
            relu=self.relu,
            **options,
        )

    def cost_weights(self) -> int:
        """Weights held in weight_bits (compactnets.cost)."""
        each = self.in_channels // self.groups
        return self.out_channels * each * math.prod(self.kernel_size)

    def cost_macs(self, input_shape: Sequence[int], output_shape: Sequence[int]) -> int:
        """Multiply-adds of one call, as nn.Conv2d is counted."""
        return output_shape[0] * output_shape[2] * output_shape[3] * self.cost_weights()

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        text += f", stride={self.stride}, padding={self.padding}, dilation={self.dilation}"
        return f"{text}, groups={self.groups}, weight_bits={self.weight_bits}"


def _int8(weight: Codes) -> Tensor:
    """The weight's integers as int8; ValueError if they are no (out, in, kh, kw) or do not fit."""
    integers = weight.integers()
    if integers.dim() != 4 or integers.numel() == 0:
        raise ValueError(f"weight must be (out, in / groups, kh, kw): {tuple(integers.shape)}")
    low, high = integers.amin().item(), integers.amax().item()
    if low < -128 or high > 127:
        raise ValueError(f"weight integers {low} to {high} do not fit int8: use 7 bits or signed")
    return integers.to(torch.int8)
