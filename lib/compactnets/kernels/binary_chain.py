"""Chains of 1-bit layers that hand on signs: no floats, no normalisation, no sign between them.

Between two 1-bit layers a trained network computes sign(between(scale * dot + bias) + input_shift)
of a whole number dot; between is what lies there, mostly a batch normalisation. Every step of it
is monotone per channel, rounding included, so all of it is one comparison of dot with a threshold
(FINN, arXiv:1612.07119, section 4.2.2). The threshold is found by computing the expression in
float32 for every possible dot: results equal the unchained network's bit for bit.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from compactnets.kernels.binary_conv import binary_conv2d_signs, pack_weight
from compactnets.kernels.binary_layers import BinaryConv2d, BinaryLinear, as_pair
from compactnets.kernels.binary_signs import words_of

Between = Callable[[Tensor], Tensor]


@torch.no_grad()
def thresholds(
    layer: BinaryConv2d | BinaryLinear, between: Between | None = None, shift: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """(threshold int32 (out,), falling bool (out,)) of sign(between(layer(x)) + shift).

    With d the whole number that the layer multiplies by its scale: the sign is -1 where
    d < threshold, or, in a falling channel, where -d < threshold. between maps (N, out, 1, 1) to
    the same shape (a linear layer's: (N, out)), channel by channel. ValueError if it is not
    monotone in some channel, changes the shape, or is a module in training mode.
    """
    if isinstance(between, nn.Module) and any(m.training for m in between.modules()):
        raise ValueError("between is in training mode: call eval() first")
    depth = layer.cost_weights() // layer.scale.shape[0]  # |d| is at most that
    tail = (1, 1) if isinstance(layer, BinaryConv2d) else ()
    scale = layer.scale.view(-1, *tail)
    bias, shift = (None if v is None else v.view(-1, *tail) for v in (layer.bias, shift))
    parts = []
    for dots in torch.arange(-depth, depth + 1, device=layer.scale.device).split(1024):
        y = dots.float().view(-1, 1, *tail) * scale
        y = y if bias is None else y + bias
        z = y if between is None else between(y)
        if z.shape != y.shape:
            raise ValueError(f"between changes the shape {tuple(y.shape)} to {tuple(z.shape)}")
        parts.append((z if shift is None else z + shift).flatten(1) >= 0)
    positive = torch.cat(parts)  # (2 depth + 1, out), NaN is -1
    if between is not None and tail:
        _check_pointwise(between, layer.scale.shape[0], depth)
    steps = positive[1:].int() - positive[:-1].int()
    falling = (steps < 0).any(0)
    if (falling & (steps > 0).any(0)).any():
        raise ValueError("between is not monotone: its sign changes more than once")
    count = positive.sum(0)
    return (depth + 1 - count).to(torch.int32), falling


def _check_pointwise(between: Between, channels: int, depth: int) -> None:
    """ValueError if between mixes pixels, which a threshold of single pixels cannot follow."""
    image = torch.arange(9.0).sub(4).mul(depth / 4).view(1, 1, 3, 3).expand(1, channels, 3, 3)
    alone = between(image.permute(2, 3, 0, 1).reshape(9, channels, 1, 1))
    together = between(image)
    if together.shape != image.shape or not torch.allclose(
        together.permute(2, 3, 0, 1).reshape(9, channels, 1, 1), alone, equal_nan=True
    ):
        raise ValueError("between mixes neighbouring pixels (pooling?): keep it outside the chain")


def _negated(weight: Tensor, falling: Tensor) -> Tensor:
    return torch.where(falling.view(-1, *(1,) * (weight.dim() - 1)), -weight, weight)


class BinaryConv2dSigns(nn.Module):
    """Packed signs of conv2d(sign(x + input_shift), sign(weight)) - threshold.

    As BinaryConv2d, but -1 where the whole-number sum is below threshold (out,) and +1 elsewhere,
    as int32 (N, H', W', ceil(out / 32)) that the next 1-bit layer reads (binary_signs). x is float
    (N, in, H, W) or signs (N, H, W, ceil(in / 32)). Usually made by `chain` or `of`.
    """

    weight_bits = 1
    activation_bits = 1
    packed: Tensor
    threshold: Tensor
    input_shift: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        threshold: Tensor,
        *,
        input_shift: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ):
        super().__init__()
        self.register_buffer("packed", pack_weight(weight, groups))
        self.out_channels, self.in_channels = weight.shape[0], weight.shape[1] * groups
        self.kernel_size = (weight.shape[2], weight.shape[3])
        self._geometry = {
            "kernel_size": self.kernel_size,
            "stride": as_pair("stride", stride),
            "padding": as_pair("padding", padding),
            "dilation": as_pair("dilation", dilation),
            "groups": groups,
        }
        for name, values, size, dtype in (
            ("threshold", threshold, self.out_channels, torch.int32),
            ("input_shift", input_shift, self.in_channels, torch.float32),
        ):
            if values is not None and values.numel() != size:
                raise ValueError(f"{name} must have {size} values, got {tuple(values.shape)}")
            copy = None if values is None else values.detach().reshape(size).to(dtype, copy=True)
            self.register_buffer(name, copy)

    @classmethod
    def of(
        cls, layer: BinaryConv2d, between: Between | None = None, shift: Tensor | None = None
    ) -> "BinaryConv2dSigns":
        """sign(between(layer(x)) + shift), exactly; a falling channel's weights are negated."""
        threshold, falling = thresholds(layer, between, shift)
        return cls(
            _negated(layer.sign_weight(), falling),
            threshold,
            input_shift=layer.input_shift,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
        )

    @classmethod
    def blank(
        cls, in_channels: int, out_channels: int, kernel_size: int | Sequence[int], **options
    ) -> "BinaryConv2dSigns":
        """A layer of +1 weights to load a state_dict into; input_shift: whether it has one."""
        groups, shift = options.get("groups", 1), options.pop("input_shift", False)
        if groups < 1 or in_channels % groups:
            raise ValueError(f"groups={groups} does not divide in_channels={in_channels}")
        return cls(
            torch.ones(out_channels, in_channels // groups, *as_pair("kernel_size", kernel_size)),
            torch.zeros(out_channels, dtype=torch.int32),
            input_shift=torch.zeros(in_channels) if shift else None,
            **options,
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype is torch.int32:
            return binary_conv2d_signs(
                x, self.packed, self.threshold, in_channels=self.in_channels, **self._geometry
            )
        x = x.float() if x.is_floating_point() else x
        return binary_conv2d_signs(
            x, self.packed, self.threshold, self.input_shift, **self._geometry
        )

    def cost_weights(self) -> int:
        """Weights held in 1 bit (compactnets.cost)."""
        per_output = self.in_channels // self._geometry["groups"]
        return self.out_channels * per_output * self.kernel_size[0] * self.kernel_size[1]

    def cost_macs(self, input_shape: Sequence[int], output_shape: Sequence[int]) -> int:
        """1-bit multiply-adds of one call, padding included."""
        images, height, width, _ = output_shape
        return images * height * width * self.cost_weights()

    def extra_repr(self) -> str:
        geometry = ", ".join(f"{name}={value}" for name, value in self._geometry.items())
        return f"{self.in_channels}, {self.out_channels}, {geometry}"


class BinaryLinearSigns(nn.Module):
    """Packed signs of sign(x + input_shift) @ sign(weight).T - threshold.

    x (..., in) float or (..., ceil(in / 32)) int32 signs -> int32 (..., ceil(out / 32)).
    """

    def __init__(self, weight: Tensor, threshold: Tensor, *, input_shift: Tensor | None = None):
        super().__init__()
        if weight.dim() != 2:
            raise ValueError(f"weight must be (out, in), got shape {tuple(weight.shape)}")
        self.out_features, self.in_features = weight.shape
        self.conv = BinaryConv2dSigns(weight[:, :, None, None], threshold, input_shift=input_shift)

    @classmethod
    def of(
        cls, layer: BinaryLinear, between: Between | None = None, shift: Tensor | None = None
    ) -> "BinaryLinearSigns":
        """sign(between(layer(x)) + shift), exactly; between maps (N, out)."""
        threshold, falling = thresholds(layer, between, shift)
        weight = _negated(layer.sign_weight(), falling)
        return cls(weight, threshold, input_shift=layer.input_shift)

    def forward(self, x: Tensor) -> Tensor:
        width = words_of(self.in_features) if x.dtype is torch.int32 else self.in_features
        if x.dim() < 1 or x.shape[-1] != width:
            raise ValueError(f"x must be (..., {width}), got shape {tuple(x.shape)}")
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], words_of(self.out_features), dtype=torch.int32)
        rows = x.reshape(1, 1, -1, width)
        y = self.conv(rows if x.dtype is torch.int32 else rows.permute(0, 3, 1, 2))
        return y.reshape(*x.shape[:-1], words_of(self.out_features))


def chain(modules: Iterable[nn.Module]) -> nn.Sequential:
    """The same network with signs handed on between neighbouring 1-bit layers, bit for bit.

    modules in the order of their calls, in eval mode, among them kernels.BinaryConv2d or
    BinaryLinear (not both); what lies between two of them must act channel by channel and be
    monotone (batch normalisation, PReLU, Hardtanh, ...). What lies before the first and behind the
    last one stays as it is. ValueError if a threshold cannot take a module's place, or there are
    no two 1-bit layers.
    """
    modules = list(modules)
    places = [i for i, m in enumerate(modules) if isinstance(m, BinaryConv2d | BinaryLinear)]
    if len(places) < 2:
        raise ValueError(f"a chain needs two 1-bit layers, got {len(places)}")
    chained = modules[: places[0]]
    for here, there in itertools.pairwise(places):
        layer, reader = modules[here], modules[there]
        inner = modules[here + 1 : there]
        if any(part.training for module in inner for part in module.modules()):
            raise ValueError("a module of the chain is in training mode: call eval() first")
        between = nn.Sequential(*inner).eval() if inner else None
        kind = BinaryConv2dSigns if isinstance(layer, BinaryConv2d) else BinaryLinearSigns
        chained.append(kind.of(layer, between, reader.input_shift))  # type: ignore[arg-type]
    return nn.Sequential(*chained, *modules[places[-1] :])
