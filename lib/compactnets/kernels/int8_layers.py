"""Layers for inference on the int8 kernels: packed when they are built, loadable, compilable."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compactnets.kernels.channels import per_channel
from compactnets.kernels.geometry import pair
from compactnets.kernels.int8 import int8_conv2d, int8_linear
from compactnets.kernels.int8_pack import pack_int8, quantize_weight, unpack_int8


class _Int8Layer(nn.Module):
    """What the two layers share: the constants of quantization, all of them in buffers.

    packed: the weights; scale, bias: of a sum of products; grid: float64 (x_scale, x_zero, y_scale,
    y_zero, relu, signed), NaN where there is no scale.
    """

    weight_bits = 8
    activation_bits = 8
    packed: Tensor
    scale: Tensor
    bias: Tensor | None
    grid: Tensor

    def _quantized(self, weight: Tensor, w_scale: Tensor | None) -> tuple[Tensor, Tensor]:
        """int8 weights and their scales, from either form of the constructor's arguments."""
        if weight.dtype is torch.int8:
            if w_scale is None:
                raise ValueError("an int8 weight needs its w_scale")
            return weight.detach(), per_channel("w_scale", w_scale, len(weight))
        if w_scale is not None:
            raise ValueError(f"w_scale belongs to an int8 weight, got {weight.dtype}")
        return quantize_weight(weight)

    def _register(
        self,
        packed: Tensor,
        w_scale: Tensor,
        bias: Tensor | None,
        x_scale: float | None,
        x_zero: int,
        y_scale: float | None,
        y_zero: int,
        y_dtype: torch.dtype,
        relu: bool,
    ) -> None:
        for name, value in (("x_scale", x_scale), ("y_scale", y_scale)):
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be positive, got {value}")
        if y_dtype not in (torch.uint8, torch.int8):
            raise ValueError(f"y_dtype must be uint8 or int8, got {y_dtype}")
        if bias is not None:
            bias = (per_channel("bias", bias, len(w_scale)).double() / (y_scale or 1)).float()
        scale = w_scale.double() * (x_scale or 1) / (y_scale or 1)
        nan = float("nan")
        grid = (x_scale or nan, x_zero, y_scale or nan, y_zero, relu, y_dtype is torch.int8)
        self.register_buffer("packed", packed)
        self.register_buffer("scale", scale.float())
        self.register_buffer("bias", bias)
        self.register_buffer("grid", torch.tensor(grid, dtype=torch.float64, device=packed.device))
        self._read_grid()

    def _read_grid(self) -> None:
        """The operator's arguments, once and not in every call."""
        x_scale, x_zero, y_scale, y_zero, relu, signed = self.grid.tolist()
        self.x_scale = None if x_scale != x_scale else x_scale
        self.y_scale = None if y_scale != y_scale else y_scale
        self.x_zero, self.y_zero, self.relu = int(x_zero), int(y_zero), bool(relu)
        self.y_dtype = torch.int8 if signed else torch.uint8
        options: dict[str, object] = {}
        if self.x_zero:
            options["x_zero"] = self.x_zero
        if self.x_scale is not None:
            options["x_inverse"] = 1 / self.x_scale
        if self.relu:
            options["relu"] = True
        if self.y_scale is not None:
            options |= {"out_dtype": self.y_dtype, "y_zero": self.y_zero}
        self._options = options

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._read_grid()

    def _input(self, x: Tensor, channels: int, dim: int) -> Tensor:
        """float32 or bytes; ValueError for bytes where their scale is unknown, or another size."""
        if x.dim() < -dim or x.shape[dim] != channels:
            raise ValueError(f"x must have {channels} channels, got shape {tuple(x.shape)}")
        if x.is_floating_point():
            return x if x.dtype is torch.float32 else x.float()
        if self.x_scale is None:
            raise ValueError(f"a layer without x_scale takes floating-point x, got {x.dtype}")
        return x

    def _repr(self) -> str:
        parts = [] if self.bias is None else ["bias=True"]
        parts += [] if self.x_scale is None else [f"x_scale={self.x_scale:g}, x_zero={self.x_zero}"]
        if self.y_scale is not None:
            parts.append(f"y_scale={self.y_scale:g}, y_zero={self.y_zero}, y_dtype={self.y_dtype}")
        parts += ["relu=True"] if self.relu else []
        return "".join(f", {part}" for part in parts)


class Int8Linear(_Int8Layer):
    """y = x @ weight.T + bias in 8 bits: exact integer sums, one weight scale per output.

    weight (out, in): of a trained layer in floating point, quantized here (quantize_weight), or
    int8 with w_scale (out,). bias (out,) float. x (..., in): float, quantized in the call to uint8
    by x_scale and x_zero, or without x_scale row by row by its largest value ("dynamic"); or uint8
    or int8, with x_scale and x_zero. The result is float32; with y_scale bytes of y_dtype, on which
    the next layer may go on: clamp(round(y / y_scale) + y_zero). relu: negative y become 0.

    All state is in buffers; `blank` makes a layer to load a state_dict into. Inference only.
    ValueError for shapes, scales and zero points that do not fit.
    """

    def __init__(
        self,
        weight: Tensor,
        *,
        w_scale: Tensor | None = None,
        bias: Tensor | None = None,
        x_scale: float | None = None,
        x_zero: int = 0,
        y_scale: float | None = None,
        y_zero: int = 0,
        y_dtype: torch.dtype = torch.uint8,
        relu: bool = False,
    ):
        super().__init__()
        if weight.dim() != 2:
            raise ValueError(f"weight must be (out, in), got shape {tuple(weight.shape)}")
        self.out_features, self.in_features = weight.shape
        values, w_scale = self._quantized(weight, w_scale)
        packed = pack_int8(values)
        self._register(packed, w_scale, bias, x_scale, x_zero, y_scale, y_zero, y_dtype, relu)

    @classmethod
    def from_float(cls, layer: nn.Linear, **options) -> "Int8Linear":
        """Of a trained layer; options: x_scale, x_zero, y_scale, y_zero, y_dtype, relu."""
        return cls(layer.weight, bias=layer.bias, **options)

    @classmethod
    def blank(cls, in_features: int, out_features: int, *, bias: bool = False) -> "Int8Linear":
        """A layer of zeros to load a state_dict into, scales and all; bias: whether it has one."""
        weight = torch.zeros(out_features, in_features)
        return cls(weight, bias=torch.zeros(out_features) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        return int8_linear(
            self._input(x, self.in_features, -1),
            self.packed,
            self.scale,
            self.bias,
            **self._options,
        )

    def int8_weight(self) -> Tensor:
        """The weights, int8 (out, in)."""
        return unpack_int8(self.packed, self.out_features, self.in_features).flatten(1)

    def cost_weights(self) -> int:
        """Weights held in 8 bits (compactnets.cost)."""
        return self.out_features * self.in_features

    def cost_macs(self, input_shape: Sequence[int], output_shape: Sequence[int]) -> int:
        """8-bit multiply-adds of one call, as nn.Linear is counted."""
        return math.prod(output_shape[:-1]) * self.cost_weights()

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}{self._repr()}"


class Int8Conv2d(_Int8Layer):
    """y = conv2d(x, weight) + bias in 8 bits: exact integer sums, one weight scale per output.

    weight (out, in / groups, kh, kw), float or int8 with w_scale; stride, padding, dilation,
    groups as for nn.Conv2d, padding adds exact zeros; the rest is as in Int8Linear, with one scale
    per image where x is quantized dynamically. x (N, in, H, W), channels_last preferred (others are
    copied).
    """

    def __init__(
        self,
        weight: Tensor,
        *,
        w_scale: Tensor | None = None,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        x_scale: float | None = None,
        x_zero: int = 0,
        y_scale: float | None = None,
        y_zero: int = 0,
        y_dtype: torch.dtype = torch.uint8,
        relu: bool = False,
    ):
        super().__init__()
        if weight.dim() != 4:
            raise ValueError(f"weight must be (out, in / groups, kh, kw): {tuple(weight.shape)}")
        self.out_channels = weight.shape[0]
        self.in_channels = weight.shape[1] * groups
        self.kernel_size = (weight.shape[2], weight.shape[3])
        self.stride = pair("stride", stride)
        self.padding = pair("padding", padding, least=0)
        self.dilation = pair("dilation", dilation)
        self.groups = groups
        values, w_scale = self._quantized(weight, w_scale)
        packed = pack_int8(values, groups, self.dilation[1])
        self._register(packed, w_scale, bias, x_scale, x_zero, y_scale, y_zero, y_dtype, relu)

    @classmethod
    def from_float(cls, layer: nn.Conv2d, **options) -> "Int8Conv2d":
        """Of a trained layer; options: x_scale, x_zero, y_scale, y_zero, y_dtype, relu.

        ValueError for padding that is not zeros of a given width.
        """
        if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
            raise ValueError(f"padding must be numbers of zeros: {layer.padding}, {layer!r}")
        return cls(
            layer.weight,
            bias=layer.bias,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            **options,
        )

    @classmethod
    def blank(
        cls,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        *,
        bias: bool = False,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> "Int8Conv2d":
        """A layer of zeros to load a state_dict into, scales and all; bias: whether it has one."""
        if groups < 1 or in_channels % groups:
            raise ValueError(f"groups={groups} does not divide in_channels={in_channels}")
        return cls(
            torch.zeros(out_channels, in_channels // groups, *pair("kernel_size", kernel_size)),
            bias=torch.zeros(out_channels) if bias else None,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
        )

    def _geometry(self) -> dict[str, object]:
        """The arguments that differ from the operator's defaults: a call is shorter without."""
        unusual = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
        return {n: getattr(self, n) for n, usual in unusual.items() if getattr(self, n) != usual}

    def _read_grid(self) -> None:
        super()._read_grid()
        self._options |= {"kernel_size": self.kernel_size, **self._geometry()}

    def forward(self, x: Tensor) -> Tensor:
        return int8_conv2d(
            self._input(x, self.in_channels, -3),
            self.packed,
            self.scale,
            self.bias,
            **self._options,
        )

    def int8_weight(self) -> Tensor:
        """The weights, int8 (out, in / groups, kh, kw)."""
        sizes = (self.out_channels, self.in_channels, self.kernel_size)
        return unpack_int8(self.packed, *sizes, self.groups, self.dilation[1])

    def cost_weights(self) -> int:
        """Weights held in 8 bits (compactnets.cost)."""
        per_output = self.in_channels // self.groups * self.kernel_size[0] * self.kernel_size[1]
        return self.out_channels * per_output

    def cost_macs(self, input_shape: Sequence[int], output_shape: Sequence[int]) -> int:
        """8-bit multiply-adds of one call, as nn.Conv2d is counted."""
        positions = output_shape[0] * output_shape[2] * output_shape[3]
        return positions * self.cost_weights()

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        text += "".join(f", {name}={value}" for name, value in self._geometry().items())
        return text + self._repr()
