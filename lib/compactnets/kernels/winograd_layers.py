"""A trained nn.Conv3d 3x3x3 as a layer on the Winograd kernel."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compactnets.kernels.geometry import triple
from compactnets.kernels.winograd import (
    POSITIONS,
    pack_transformed,
    transform_weight,
    unpack_transformed,
    winograd3d,
)


class Winograd3d(nn.Module):
    """conv3d(x, weight, bias) with a 3x3x3 kernel and stride 1, by Winograd's F(2x2x2, 3x3x3).

    weight (out, in, 3, 3, 3) of a trained layer, bias (out,) or None, padding as for nn.Conv3d.
    keep (64, in) bool: the input channels that take part at each of the 64 Winograd positions
    (16 * depth + 4 * row + column), all if None; the time falls with the columns that are dropped.
    x (N, in, D, H, W), channels_last_3d preferred (others are copied); floating dtypes other than
    float32 are converted; the result is float32, in x's memory format. winograd3d says how exact.

    All state is in buffers: packed (the kept columns of the transformed weight), keep, bias. To
    load a state_dict without the weights at hand build the layer with `Winograd3d.blank`.
    Inference only: no gradient. ValueError for shapes that do not fit.
    """

    packed: Tensor
    keep: Tensor
    bias: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        keep: Tensor | None = None,
        padding: int | Sequence[int] = 0,
    ):
        super().__init__()
        self._build(transform_weight(weight), bias, keep, padding)

    @classmethod
    def from_transformed(
        cls,
        transformed: Tensor,
        bias: Tensor | None = None,
        *,
        keep: Tensor | None = None,
        padding: int | Sequence[int] = 0,
    ) -> "Winograd3d":
        """From a weight (64, out, in) that was trained in the Winograd domain itself."""
        layer = cls.__new__(cls)
        nn.Module.__init__(layer)
        layer._build(transformed, bias, keep, padding)
        return layer

    @classmethod
    def from_conv(cls, conv: nn.Conv3d, *, keep: Tensor | None = None) -> "Winograd3d":
        """From a trained layer; ValueError unless 3x3x3, stride 1, one group, zero padding."""
        options = {
            "kernel_size": (conv.kernel_size, (3, 3, 3)),
            "stride": (conv.stride, (1, 1, 1)),
            "dilation": (conv.dilation, (1, 1, 1)),
            "groups": (conv.groups, 1),
            "padding_mode": (conv.padding_mode, "zeros"),
        }
        for name, (value, needed) in options.items():
            if value != needed:
                raise ValueError(f"conv must have {name}={needed}, got {value}")
        padding = {"same": 1, "valid": 0}.get(conv.padding, conv.padding)  # type: ignore[arg-type]
        return cls(conv.weight, conv.bias, keep=keep, padding=padding)

    @classmethod
    def blank(
        cls,
        in_channels: int,
        out_channels: int,
        *,
        columns: int | None = None,
        bias: bool = False,
        padding: int | Sequence[int] = 0,
    ) -> "Winograd3d":
        """A layer of zeros, to load a state_dict into.

        columns: True entries of the saved layer's keep, all 64 * in_channels if None. bias:
        whether it has one.
        """
        columns = POSITIONS * in_channels if columns is None else columns
        if not 0 <= columns <= POSITIONS * in_channels:
            raise ValueError(f"columns must be 0 .. {POSITIONS * in_channels}, got {columns}")
        keep = (torch.arange(POSITIONS * in_channels) < columns).unflatten(0, (POSITIONS, -1))
        return cls.from_transformed(
            torch.zeros(POSITIONS, out_channels, in_channels),
            torch.zeros(out_channels) if bias else None,
            keep=keep,
            padding=padding,
        )

    def _build(self, transformed, bias, keep, padding):
        if keep is None:
            keep = torch.ones(
                POSITIONS, transformed.shape[-1], dtype=torch.bool, device=transformed.device
            )
        packed = pack_transformed(transformed, keep)
        self.out_channels, self.in_channels = transformed.shape[1:]
        self.padding = triple("padding", padding, least=0)
        if bias is not None and tuple(bias.shape) != (self.out_channels,):
            raise ValueError(f"bias must be ({self.out_channels},), got shape {tuple(bias.shape)}")
        self.register_buffer("packed", packed)
        self.register_buffer("keep", keep.detach().clone())
        self.register_buffer(
            "bias", None if bias is None else bias.detach().to(torch.float32, copy=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        return winograd3d(
            x.float() if x.is_floating_point() else x,
            self.packed,
            self.keep,
            self.bias,
            out_channels=self.out_channels,
            padding=self.padding,
        )

    def transformed_weight(self) -> Tensor:
        """(64, out, in) float32, zero where keep is False."""
        return unpack_transformed(self.packed, self.keep, self.out_channels)

    def cost_weights(self) -> int:
        """Weights in the Winograd domain that are stored, 64/27 of the layer's without sparsity."""
        return int(self.keep.sum()) * self.out_channels

    def cost_bytes(self) -> int:
        """Four bytes a weight and a bias, one bit for each column of keep."""
        rest = 0 if self.bias is None else self.bias.numel()
        return 4 * (self.cost_weights() + rest) + -(-self.keep.numel() // 8)

    def cost_macs(self, input_shape: Sequence[int], output_shape: Sequence[int]) -> int:
        """Multiply-adds of the products at the 64 positions; the transforms only add."""
        images, _, *sizes = output_shape
        tiles = images
        for size in sizes:
            tiles *= -(-size // 2)
        return tiles * self.cost_weights()

    def extra_repr(self) -> str:
        kept = int(self.keep.sum()) / max(1, self.keep.numel())
        text = f"{self.in_channels}, {self.out_channels}, padding={self.padding}, kept={kept:.0%}"
        return text + (", bias=True" if self.bias is not None else "")
