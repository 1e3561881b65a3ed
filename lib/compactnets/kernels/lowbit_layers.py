"""Layers for inference with weights of 4 or 2 bits: packed when they are built, loadable."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from compactnets.kernels import native
from compactnets.kernels.lowbit import lowbit_linear
from compactnets.kernels.lowbit_pack import pack_codes, quantize_weight, unpack_codes, zero_code

_NOTHING = ((), None, ())


class LowBitLinear(nn.Module):
    """y = x @ weight.T + bias with a weight of 4 or 2 bits and x in int8, made so row by row.

    weight (out, in) of a trained layer is quantized by its largest magnitude per output, or per
    group of 32, 64 or 128 inputs (compactnets.kernels.lowbit.quantize_weight); for integers and
    scales of another quantizer use `LowBitLinear.from_integers`. x (..., in) float32 (others are
    converted) -> (..., out) float32, by the arithmetic of lowbit_linear_reference; or x int8 with
    x_scale, one value or one per row. A row with a NaN or an infinity gives NaN.

    All state is in buffers: packed (uint8, `bits` per weight), scale (groups, out), bias. To load
    a state_dict build the layer with `LowBitLinear.blank`. Inference only: no gradient. ValueError
    for shapes that do not fit.
    """

    activation_bits = 8
    packed: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        *,
        bits: int = 4,
        ternary: bool = False,
        group: int | None = None,
        bias: Tensor | None = None,
    ):
        super().__init__()
        integers, scale = quantize_weight(weight, bits, ternary=ternary, group=group)
        self._fill(integers, scale, bits, ternary, bias)

    @classmethod
    def from_integers(
        cls,
        integers: Tensor,
        scale: Tensor,
        *,
        bits: int = 4,
        ternary: bool = False,
        bias: Tensor | None = None,
    ) -> "LowBitLinear":
        """The layer of the weight scale * integers, from any quantizer.

        integers (out, in), of any dtype that holds them: -8 .. 7 for 4 bits, -2 .. 1 for 2 bits,
        -1 .. 1 ternary. scale: one value, (out,), (out, 1) or (out, groups).
        """
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        if integers.dim() != 2:
            raise ValueError(f"integers must be (out, in), got shape {tuple(integers.shape)}")
        whole = integers.to(torch.int8)
        if not torch.equal(whole.to(integers.dtype), integers):
            raise ValueError("integers must be whole numbers of at most 8 bits")
        scale = scale.detach().float()
        if scale.numel() == 1:
            scale = scale.reshape(1, 1).expand(integers.shape[0], 1)
        elif scale.dim() == 1:
            scale = scale[:, None]
        layer._fill(whole, scale, bits, ternary, bias)
        return layer

    @classmethod
    def blank(
        cls,
        in_features: int,
        out_features: int,
        *,
        bits: int = 4,
        ternary: bool = False,
        group: int | None = None,
        bias: bool = False,
    ) -> "LowBitLinear":
        """A layer of zeros, to load a state_dict into."""
        return cls(
            torch.zeros(out_features, in_features),
            bits=bits,
            ternary=ternary,
            group=group,
            bias=torch.zeros(out_features) if bias else None,
        )

    def _fill(
        self, integers: Tensor, scale: Tensor, bits: int, ternary: bool, bias: Tensor | None
    ) -> None:
        self.out_features, self.in_features = integers.shape
        self.weight_bits = bits
        self.ternary = ternary
        if scale.dim() != 2 or scale.shape[0] != self.out_features:
            raise ValueError(
                f"scale must be (out, groups) with out={self.out_features}, "
                f"got shape {tuple(scale.shape)}"
            )
        groups = scale.shape[1]
        group = self.in_features // groups if groups and self.in_features % groups == 0 else 0
        if groups != 1 and group not in (32, 64, 128):
            raise ValueError(
                f"scale has {groups} groups of {self.in_features} inputs; a group must be of 32, "
                "64 or 128"
            )
        self.group = None if groups == 1 else group
        zero = zero_code(bits, ternary)
        self._held: tuple[tuple[int, ...], Any, tuple] = _NOTHING
        self._code = {"bits": bits, "zero": zero}
        packed = pack_codes(integers, bits, zero)
        if bias is not None:
            if bias.numel() != self.out_features:
                raise ValueError(
                    f"bias must have {self.out_features} values, got shape {tuple(bias.shape)}"
                )
            bias = bias.detach().reshape(-1).to(torch.float32, copy=True)
        self.register_buffer("packed", packed)
        self.register_buffer("scale", scale.t().contiguous())
        self.register_buffer("bias", bias)

    def _bound(self) -> Any:
        """The compiled module's hold on the buffers, made anew for other tensors or other memory.

        What is held stays allocated, so that an address cannot come to mean other numbers.
        """
        state = self._buffers
        packed, scale, bias = state["packed"], state["scale"], state["bias"]
        address = bias.data_ptr() if bias is not None else 0
        now = id(packed), id(scale), id(bias), packed.data_ptr(), scale.data_ptr(), address  # type: ignore[union-attr]
        if self._held[0] != now:
            # As a plain call does: whatever does not fit is an error that names it.
            nothing = torch.zeros(0, self.in_features)
            lowbit_linear(nothing, packed, scale, bias, **self._code)  # type: ignore[arg-type]
            arrays = native.dense(packed), native.dense(scale), native.dense(bias)
            module = cast(Any, native.load())
            weights = module.LowbitWeights(*arrays, self.in_features, *self._code.values())
            self._held = now, weights.multiply, (packed, scale, bias)
        return self._held[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": _NOTHING}  # copies and pickles bind their own

    def forward(self, x: Tensor, x_scale: Tensor | None = None) -> Tensor:
        if (
            x_scale is None
            and x.dim() == 2
            and x.dtype is torch.float32
            and x.shape[1] == self.in_features
            and lowbit_linear.is_plain(x)
            and self.packed.is_cpu
        ):
            y = torch.empty((x.shape[0], self.out_features), dtype=torch.float32)
            self._bound()(native.dense(x), native.dlpack(y), torch.get_num_threads())
            return y
        state = self._buffers
        rows = x if x.dim() == 2 else self._rows(x)
        if rows.dtype is not torch.float32 and rows.is_floating_point():
            rows = rows.float()
        y = lowbit_linear(
            rows, state["packed"], state["scale"], state["bias"], x_scale, **self._code
        )
        return y if rows is x else y.reshape(*x.shape[:-1], self.out_features)

    def _rows(self, x: Tensor) -> Tensor:
        if x.dim() < 1 or x.shape[-1] != self.in_features:
            raise ValueError(f"x must be (..., {self.in_features}), got shape {tuple(x.shape)}")
        return x.reshape(-1, self.in_features)

    def integers(self) -> Tensor:
        """The weight's integers, int8 (out, in)."""
        return unpack_codes(self.packed, self.out_features, self.in_features, **self._code)

    def dense_weight(self) -> Tensor:
        """scale * integers in float32, (out, in)."""
        groups = self.integers().float().reshape(self.out_features, self.scale.shape[0], -1)
        return (groups * self.scale.t()[..., None]).reshape(self.out_features, self.in_features)

    def cost_weights(self) -> int:
        """Weights held in `weight_bits` (compactnets.cost)."""
        return self.out_features * self.in_features

    def cost_macs(self, input_shape: Sequence[int], output_shape: Sequence[int]) -> int:
        """Multiply-adds of one call, as nn.Linear is counted."""
        return math.prod(output_shape[:-1]) * self.cost_weights()

    def extra_repr(self) -> str:
        kind = "ternary" if self.ternary else f"bits={self.weight_bits}"
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, {kind}, "
            f"group={self.group}, bias={self.bias is not None}"
        )


class LowBitConv2d(LowBitLinear):
    """A 1x1 convolution with weights of 4 or 2 bits: LowBitLinear over the channels of each pixel.

    weight (out, in, 1, 1) or (out, in); the other arguments as for LowBitLinear, x_scale too. x
    (N, in, H, W), channels_last preferred (others are copied) -> (N, out, H, W) channels_last.
    Each pixel has an int8 scale of its own.
    """

    kernel_size: ClassVar[tuple[int, int]] = (1, 1)

    def __init__(self, weight: Tensor, **options):
        if weight.dim() == 4:
            if tuple(weight.shape[2:]) != (1, 1):
                raise ValueError(f"weight must be (out, in, 1, 1), got {tuple(weight.shape)}")
            weight = weight.flatten(1)
        super().__init__(weight, **options)

    def forward(self, x: Tensor, x_scale: Tensor | None = None) -> Tensor:
        if x.dim() != 4 or x.shape[1] != self.in_features:
            raise ValueError(f"x must be (N, {self.in_features}, H, W), got {tuple(x.shape)}")
        return super().forward(x.permute(0, 2, 3, 1), x_scale).permute(0, 3, 1, 2)

    def cost_macs(self, input_shape: Sequence[int], output_shape: Sequence[int]) -> int:
        """Multiply-adds of one call, as nn.Conv2d is counted."""
        images, _, height, width = output_shape
        return images * height * width * self.cost_weights()
