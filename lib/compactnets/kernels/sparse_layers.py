"""Layers for inference with sparse weights: packed when they are built, loadable, compilable."""

from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor, nn

from compactnets.kernels.geometry import pair
from compactnets.kernels.sparse import sparse_conv2d, sparse_linear
from compactnets.kernels.sparse_pack import Packed, check_index, pack_blocks, unpack

_PATTERN = ("values", "index", "starts")


class _Sparse(nn.Module):
    """The packed weight and the bias as buffers, and what both kinds of layer say about them."""

    values: Tensor
    index: Tensor
    starts: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, n: int, low, high):
        super().__init__()
        packed = pack_blocks(weight, n)
        outputs = weight.shape[0]
        if bias is not None and bias.numel() != outputs:
            raise ValueError(f"bias must have {outputs} values, got shape {tuple(bias.shape)}")
        self.n = n
        self.low, self.high = low, high
        self._weight_shape = tuple(weight.shape)
        for name, tensor in zip(_PATTERN, packed, strict=True):
            self.register_buffer(name, tensor)
        copied = (
            None if bias is None else bias.detach().reshape(outputs).to(torch.float32, copy=True)
        )
        self.register_buffer("bias", copied)

    def weight(self) -> Tensor:
        """The dense weight in float32, zeros where nothing was kept."""
        return unpack(Packed(self.values, self.index, self.starts), self._weight_shape)

    def cost_bytes(self) -> int:
        """Bytes of values, indices, starts of rows and bias."""
        return sum(b.numel() * b.element_size() for b in self.buffers(recurse=False))

    def cost_weights(self) -> int:
        """Weights that are kept (compactnets.cost)."""
        return self.values.numel()

    def _load_from_state_dict(self, state_dict, prefix, *args):
        """The saved weight may have kept another number of blocks, of the same n and shape."""
        saved = [state_dict.get(prefix + name) for name in _PATTERN]
        values, index, starts = saved
        if (
            all(isinstance(tensor, Tensor) for tensor in saved)
            and values.shape[1:] == self.values.shape[1:]
            and starts.shape == self.starts.shape
            and index.shape == values.shape[:1]
        ):
            check_index(index, starts, torch.Size(self._weight_shape[1:]).numel())
            self.values = self.values.new_empty(values.shape)
            self.index = self.index.new_empty(index.shape)
            self.starts = torch.empty_like(self.starts)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _sparse_repr(self) -> str:
        dense = torch.Size(self._weight_shape).numel()
        text = f", n={self.n}" if self.n > 1 else ""
        text += f", kept={self.values.numel() / dense:.1%}"
        text += ", bias=True" if self.bias is not None else ""
        limits = (("low", self.low), ("high", self.high))
        return text + "".join(f", {name}={v:g}" for name, v in limits if v is not None)


class BlockSparseConv2d(_Sparse):
    """y = clamp(conv2d(x, weight) + bias, low, high) for a weight of 1xn blocks (arXiv:2105.14713).

    weight (out, in, kh, kw) of a masked dense layer, n dividing out: pack_blocks keeps blocks of n
    consecutive outputs that have a nonzero. bias (out,) or None. low=0 is a fused ReLU, low=0,
    high=6 a ReLU6, None no limit. stride, padding (zeros), dilation, groups as for nn.Conv2d
    (n divides the outputs of a group).
    x (N, in, H, W), contiguous or channels_last (others are copied; contiguous is the faster one
    for 1x1: pixels already lie side by side); floating dtypes other than float32 are converted; the
    result is float32, channels_last if x is.

    All state is in buffers: values, index, starts, bias. load_state_dict takes over any number of
    kept blocks; build the layer to load into with `blank`. Inference only: no gradient. ValueError
    for shapes that do not fit.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        n: int = 4,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        low: float | None = None,
        high: float | None = None,
    ):
        if weight.dim() != 4:
            raise ValueError(f"weight must be (out, in, kh, kw), got shape {tuple(weight.shape)}")
        super().__init__(weight, bias, n, low, high)
        if groups < 1 or weight.shape[0] // n % groups:
            raise ValueError(
                f"groups={groups} does not divide {weight.shape[0] // n} rows of blocks"
            )
        self.out_channels, group_channels, *size = weight.shape
        self.in_channels = group_channels * groups
        self.groups = groups
        self.kernel_size = (size[0], size[1])
        self.stride = pair("stride", stride)
        self.padding = pair("padding", padding, least=0)
        self.dilation = pair("dilation", dilation)
        self._options = {"kernel_size": self.kernel_size, **self._unusual()}  # shorter calls

    @classmethod
    def of(
        cls, layer: nn.Conv2d, *, low: float | None = None, high: float | None = None, **pattern
    ) -> Self:
        """The layer for a trained nn.Conv2d whose dropped weights are zero. pattern: n."""
        if layer.padding_mode != "zeros" or isinstance(layer.padding, str):
            raise ValueError(f"padding must be numbers of zeros, got {layer}")
        return cls(
            layer.weight,
            layer.bias,
            stride=layer.stride,
            padding=layer.padding,
            dilation=layer.dilation,
            groups=layer.groups,
            low=low,
            high=high,
            **pattern,
        )

    @classmethod
    def blank(
        cls,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        *,
        bias: bool = False,
        groups: int = 1,
        **options,
    ) -> Self:
        """A layer that kept nothing, to load a state_dict into. bias: whether the saved one has."""
        if groups < 1 or in_channels % groups:
            raise ValueError(f"groups={groups} does not divide in_channels={in_channels}")
        weight = torch.zeros(out_channels, in_channels // groups, *pair("kernel_size", kernel_size))
        return cls(weight, torch.zeros(out_channels) if bias else None, groups=groups, **options)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype is not torch.float32 and x.is_floating_point():
            x = x.float()
        if x.dim() == 4 and x.shape[1] != self.in_channels:
            raise ValueError(f"x must have {self.in_channels} channels, got shape {tuple(x.shape)}")
        return sparse_conv2d(x, self.values, self.index, self.starts, self.bias, **self._options)

    def cost_macs(self, input_shape: Sequence[int], output_shape: Sequence[int]) -> int:
        """Multiply-adds of the kept weights in one call, padding included."""
        images, _, height, width = output_shape
        return images * height * width * self.values.numel()

    def _unusual(self) -> dict:
        """The options that differ from the operator's defaults."""
        defaults: dict = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1}
        defaults |= {"low": None, "high": None}
        return {k: getattr(self, k) for k, v in defaults.items() if getattr(self, k) != v}

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        sizes = {k: v for k, v in self._unusual().items() if k not in ("low", "high")}
        text += "".join(f", {name}={value}" for name, value in sizes.items())
        return text + self._sparse_repr()


class BlockSparseLinear(_Sparse):
    """y = clamp(x @ weight.T + bias, low, high) for a weight of 1xn blocks.

    weight (out, in) of a masked dense layer; x (..., in) -> (..., out) float32, contiguous. The
    rest is as in BlockSparseConv2d. Tokens lie in vector lanes: 16 or more at a time pay.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None = None,
        *,
        n: int = 4,
        low: float | None = None,
        high: float | None = None,
    ):
        if weight.dim() != 2:
            raise ValueError(f"weight must be (out, in), got shape {tuple(weight.shape)}")
        super().__init__(weight, bias, n, low, high)
        self.out_features, self.in_features = weight.shape
        self._options = {k: v for k, v in (("low", low), ("high", high)) if v is not None}

    @classmethod
    def of(
        cls, layer: nn.Linear, *, low: float | None = None, high: float | None = None, **pattern
    ) -> Self:
        """The layer for a trained nn.Linear whose dropped weights are zero. pattern: n."""
        return cls(layer.weight, layer.bias, low=low, high=high, **pattern)

    @classmethod
    def blank(cls, in_features: int, out_features: int, *, bias: bool = False, **options) -> Self:
        """A layer that kept nothing, to load a state_dict into. bias: whether the saved one has."""
        weight = torch.zeros(out_features, in_features)
        return cls(weight, torch.zeros(out_features) if bias else None, **options)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype is not torch.float32 and x.is_floating_point():
            x = x.float()
        if x.dim() < 1 or x.shape[-1] != self.in_features:
            raise ValueError(f"x must be (..., {self.in_features}), got shape {tuple(x.shape)}")
        return sparse_linear(x, self.values, self.index, self.starts, self.bias, **self._options)

    def cost_macs(self, input_shape: Sequence[int], output_shape: Sequence[int]) -> int:
        """Multiply-adds of the kept weights in one call."""
        return torch.Size(output_shape[:-1]).numel() * self.values.numel()

    def extra_repr(self) -> str:
        text = f"in_features={self.in_features}, out_features={self.out_features}"
        return text + self._sparse_repr()


class CSRConv2d(BlockSparseConv2d):
    """BlockSparseConv2d for unstructured sparsity: every nonzero by itself, with its index."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, n: int = 1, **options):
        if n != 1:
            raise ValueError(f"n must be 1 for CSR, got {n}; BlockSparseConv2d has blocks")
        super().__init__(weight, bias, n=1, **options)


class CSRLinear(BlockSparseLinear):
    """BlockSparseLinear for unstructured sparsity: every nonzero by itself, with its index."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, n: int = 1, **options):
        if n != 1:
            raise ValueError(f"n must be 1 for CSR, got {n}; BlockSparseLinear has blocks")
        super().__init__(weight, bias, n=1, **options)
