"""Layers for inference with N:M sparse int8 weights: packed when they are built, loadable."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from compactnets.kernels import native
from compactnets.kernels.geometry import pair
from compactnets.kernels.nm import nm_conv2d
from compactnets.kernels.nm_pack import (
    check_pattern,
    dense_tiles,
    pack_nm,
    quads_of,
    unpack_nm,
)


def quantize_outputs(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(out, ...) floats -> int8 integers, float32 scales (out,): an output's max|w| becomes 127."""
    if not weight.is_floating_point() or not weight.isfinite().all():
        raise ValueError("weight must be finite floats")
    weight = weight.detach().float()
    scale = weight.abs().flatten(1).amax(1) / 127
    safe = torch.where(scale > 0, scale, 1.0).reshape(-1, *[1] * (weight.dim() - 1))
    return torch.round(weight / safe).clamp(-127, 127).to(torch.int8), scale


class NMConv2d(nn.Module):
    """y = conv2d(x, weight) + bias with at most n of every m neighbouring input channels kept.

    weight (out, in, kh, kw) of a trained, masked layer: zero where nothing is kept; m divides 64.
    It is quantized to int8 per output by its largest magnitude; for integers and scales of another
    quantizer use `NMConv2d.from_integers`. x (N, in, H, W), channels_last preferred (others are
    copied) -> float32 (N, out, H', W') channels_last. x in floats is made int8 by its largest
    magnitude, image by image; int8 and uint8 come with x_scale, one value or one per image (uint8
    stands for x - zero). No groups, no dilation.

    All state is in buffers: packed (uint8, 2 bytes a weight), scale (out,), weight_sums, bias; on a
    CPU with an int8 matrix unit also tiles, the weights dense, which are not part of the state_dict
    but made again after loading one (for 1:16 and sparser gathering is as fast: no tiles). To load
    a state_dict build the layer with `NMConv2d.blank`. Inference only: no gradient. ValueError for
    a weight that breaks the pattern (it names the output) and for shapes that do not fit.
    """

    weight_bits = 8
    activation_bits = 8
    packed: Tensor
    scale: Tensor
    weight_sums: Tensor
    bias: Tensor | None
    tiles: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        n: int,
        m: int,
        *,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
    ):
        super().__init__()
        if weight.dim() != 4:
            raise ValueError(f"weight must be (out, in, kh, kw), got {tuple(weight.shape)}")
        check_pattern(weight, n, m)
        self._fill(*quantize_outputs(weight), n, m, bias, stride, padding)

    @classmethod
    def from_integers(
        cls,
        integers: Tensor,
        scale: Tensor,
        n: int,
        m: int,
        *,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
    ) -> "NMConv2d":
        """The layer of scale * integers: int8 (out, in, kh, kw) and one or (out,) scales."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._fill(integers, scale, n, m, bias, stride, padding)
        return layer

    @classmethod
    def blank(
        cls,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        n: int,
        m: int,
        *,
        bias: bool = False,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
    ) -> "NMConv2d":
        """A layer of zeros, to load a state_dict into."""
        return cls(
            torch.zeros(out_channels, in_channels, *pair("kernel_size", kernel_size)),
            n,
            m,
            bias=torch.zeros(out_channels) if bias else None,
            stride=stride,
            padding=padding,
        )

    def _fill(
        self,
        integers: Tensor,
        scale: Tensor,
        n: int,
        m: int,
        bias: Tensor | None,
        stride: int | Sequence[int],
        padding: int | Sequence[int],
    ) -> None:
        if integers.dim() != 4:
            raise ValueError(f"integers must be (out, in, kh, kw), got {tuple(integers.shape)}")
        packed = pack_nm(integers, n, m)
        self.out_channels, self.in_channels = integers.shape[:2]
        self.kernel_size = (integers.shape[2], integers.shape[3])
        self.n, self.m = n, m
        self.stride = pair("stride", stride)
        self.padding = pair("padding", padding, 0)
        self._geometry = {"kernel_size": self.kernel_size, **self._unusual()}
        if scale.numel() == 1:
            scale = scale.reshape(1).expand(self.out_channels)
        self.register_buffer("packed", packed)
        self.register_buffer("scale", _outputs("scale", scale, self.out_channels))
        self.register_buffer("weight_sums", integers.flatten(1).sum(1, dtype=torch.int32))
        self.register_buffer("bias", _outputs("bias", bias, self.out_channels))
        self.register_buffer("tiles", None, persistent=False)
        self._lay_tiles(integers)
        self.register_load_state_dict_post_hook(_tiles_again)

    def _lay_tiles(self, integers: Tensor) -> None:
        """The second copy of the weights that the matrix unit reads; see kernels/src/nm/amx.cpp."""
        if native.isa() == "amx" and quads_of(self.n, self.m) >= 2 and integers.is_cpu:
            self.tiles = dense_tiles(integers)

    def _unusual(self) -> dict[str, Any]:
        """The geometry that differs from the operator's defaults."""
        defaults = {"stride": (1, 1), "padding": (0, 0)}
        return {k: getattr(self, k) for k, v in defaults.items() if getattr(self, k) != v}

    def forward(self, x: Tensor, x_scale: Tensor | None = None, zero: int = 0) -> Tensor:
        state = self._buffers
        if x.is_floating_point() and x.dtype is not torch.float32:
            x = x.float()
        return nm_conv2d(
            x,
            state["packed"],
            state["scale"],
            state["weight_sums"],
            state["bias"],
            x_scale,
            state["tiles"],
            zero=zero,
            **self._geometry,
        )

    def integers(self) -> Tensor:
        """The weight's integers, int8 (out, in, kh, kw), zeros included."""
        return unpack_nm(self.packed, self.out_channels, self.in_channels, self.kernel_size)

    def cost_weights(self) -> int:
        """Weights that are kept (compactnets.cost)."""
        taps = self.kernel_size[0] * self.kernel_size[1]
        return self.out_channels * self.in_channels * taps * self.n // self.m

    def cost_bytes(self) -> int:
        """Bytes of the state: indices and weights, sums, scale and bias."""
        return sum(b.numel() * b.element_size() for b in self.state_dict().values())

    def cost_macs(self, input_shape: Sequence[int], output_shape: Sequence[int]) -> int:
        """Multiply-adds with weights that are kept, padding included."""
        images, _, height, width = output_shape
        return images * height * width * self.cost_weights()

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        text += f", pattern={self.n}:{self.m}"
        text += "".join(f", {name}={value}" for name, value in self._unusual().items())
        return text + f", bias={self.bias is not None}"


class NMLinear(NMConv2d):
    """y = x @ weight.T + bias with at most n of every m neighbouring inputs kept.

    weight (out, in). x (..., in) -> (..., out) float32; each row of x has an int8 scale of its own
    (x_scale of int8 and uint8 rows: one value or one per row). The rest is as in NMConv2d.
    """

    def __init__(self, weight: Tensor, n: int, m: int, *, bias: Tensor | None = None):
        if weight.dim() != 2:
            raise ValueError(f"weight must be (out, in), got shape {tuple(weight.shape)}")
        super().__init__(weight[:, :, None, None], n, m, bias=bias)

    @classmethod
    def from_integers(  # type: ignore[override]
        cls, integers: Tensor, scale: Tensor, n: int, m: int, *, bias: Tensor | None = None
    ) -> "NMLinear":
        """The layer of the weight scale * integers: int8 (out, in) and one or (out,) scales."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        if integers.dim() != 2:
            raise ValueError(f"integers must be (out, in), got shape {tuple(integers.shape)}")
        layer._fill(integers[:, :, None, None], scale, n, m, bias, 1, 0)
        return layer

    @classmethod
    def blank(  # type: ignore[override]
        cls, in_features: int, out_features: int, n: int, m: int, *, bias: bool = False
    ) -> "NMLinear":
        """A layer of zeros, to load a state_dict into."""
        zeros = torch.zeros(out_features) if bias else None
        return cls(torch.zeros(out_features, in_features), n, m, bias=zeros)

    def forward(self, x: Tensor, x_scale: Tensor | None = None, zero: int = 0) -> Tensor:
        if x.dim() < 1 or x.shape[-1] != self.in_channels:
            raise ValueError(f"x must be (..., {self.in_channels}), got shape {tuple(x.shape)}")
        y = super().forward(x.reshape(-1, self.in_channels, 1, 1), x_scale, zero)
        return y.reshape(*x.shape[:-1], self.out_channels)

    def cost_macs(self, input_shape: Sequence[int], output_shape: Sequence[int]) -> int:
        """Multiply-adds with weights that are kept."""
        return math.prod(output_shape[:-1]) * self.cost_weights()


def _tiles_again(layer: NMConv2d, _keys: object) -> None:
    """After a state_dict was loaded."""
    layer._lay_tiles(layer.integers())


def _outputs(name: str, values: Tensor | None, outputs: int) -> Tensor | None:
    """A float32 copy of per-output values."""
    if values is None:
        return None
    if values.numel() != outputs:
        raise ValueError(f"{name} must have {outputs} values, got shape {tuple(values.shape)}")
    return values.detach().reshape(outputs).to(torch.float32, copy=True)
