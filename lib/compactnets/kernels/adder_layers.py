"""Adder layers for inference: packed when they are built, loadable, compilable."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compactnets.kernels.adder import adder_conv2d_packed
from compactnets.kernels.adder_pack import pack_adder_weight, unpack_adder_weight
from compactnets.kernels.channels import per_channel_if_any
from compactnets.kernels.geometry import pair


def adder_codes(values: Tensor, step: Tensor | float) -> Tensor:
    """int8 codes: round(values / step) to even, clipped to -128..127 (NaN becomes 0).

    x and w of a layer need the same step: |s qx - s qw| = s |qx - qw|. Post-training, per layer:
    step = max(|x| over calibration inputs, |w|) / 127 (arXiv:2101.10015 names the shared factor,
    not the clipping).
    """
    return torch.round(values / step).nan_to_num(0.0).clamp(-128, 127).to(torch.int8)


class AdderConv2d(nn.Module):
    """y = scale * -(sum |x - w|) + bias over each window; additions only.

    weight (out, in, kh, kw) of a trained adder layer. scale, bias (out,), None is 1, 0: where the
    batch normalization behind the layer folds in (with gamma / sigma and beta - mu gamma / sigma;
    it never folds into the weight). stride, padding as for nn.Conv2d; a padded position counts
    as x = 0 and adds -|w|. x (N, in, H, W), any strides (channels_last is fastest); float32.

    step None: fp32. A number: 8 bits, x and weight with this one step (adder_codes), exact integer
    sums, y in the units of x all the same; x may then come as int8 codes instead.

    All state is in buffers: packed, scale, bias, step. To load a state_dict without the weights at
    hand build the layer with `AdderConv2d.blank`. Inference only; to train use
    kernels.adder_conv2d. ValueError for shapes that do not fit.
    """

    packed: Tensor
    scale: Tensor | None
    bias: Tensor | None
    step: Tensor | None

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor | None = None,
        bias: Tensor | None = None,
        *,
        step: float | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
    ):
        super().__init__()
        self.stride = pair("stride", stride)
        self.padding = pair("padding", padding, least=0)
        if step is not None and not 0 < step < float("inf"):
            raise ValueError(f"step must be positive and finite, got {step}")
        weight = weight.detach().float()
        packed = pack_adder_weight(
            weight if step is None else adder_codes(weight, step), self.stride
        )
        self.out_channels, self.in_channels = weight.shape[:2]
        self.kernel_size = (weight.shape[2], weight.shape[3])
        self.weight_bits = self.activation_bits = 32 if step is None else 8
        self._geometry = {
            "out_channels": self.out_channels,
            "kernel_size": self.kernel_size,
            "stride": self.stride,
            "padding": self.padding,
        }
        if step is not None:
            scale = step * (torch.ones(self.out_channels) if scale is None else scale.detach())
        # Held as integers in fp32 too: neither .half() nor the count of parameters concerns it.
        self.register_buffer("packed", packed.view(torch.int32 if step is None else torch.int8))
        self.register_buffer("scale", per_channel_if_any("scale", scale, self.out_channels))
        self.register_buffer("bias", per_channel_if_any("bias", bias, self.out_channels))
        self.register_buffer("step", None if step is None else torch.tensor(float(step)))

    @classmethod
    def blank(
        cls,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        *,
        scale: bool = False,
        bias: bool = False,
        codes: bool = False,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
    ) -> "AdderConv2d":
        """A layer of zeros to load a state_dict into.

        scale, bias: whether the saved layer was given them; codes: whether it had a step.
        """
        return cls(
            torch.zeros(out_channels, in_channels, *pair("kernel_size", kernel_size)),
            torch.ones(out_channels) if scale else None,
            torch.zeros(out_channels) if bias else None,
            step=1.0 if codes else None,
            stride=stride,
            padding=padding,
        )

    def forward(self, x: Tensor) -> Tensor:
        packed = self.packed
        if self.step is None:
            x, packed = x.float() if x.is_floating_point() else x, packed.view(torch.float32)
        elif x.is_floating_point():
            x = adder_codes(x, self.step)
        return adder_conv2d_packed(x, packed, self.scale, self.bias, **self._geometry)

    def dense_weight(self) -> Tensor:
        """The weights in float32, (out, in, kh, kw): codes times step where there is one."""
        packed = self.packed.view(torch.float32) if self.step is None else self.packed
        weight = unpack_adder_weight(
            packed, self.out_channels, self.in_channels, self.kernel_size, self.stride
        )
        return weight if self.step is None else weight * self.step

    def cost_weights(self) -> int:
        """Weights held in weight_bits (compactnets.cost)."""
        return self.out_channels * self.in_channels * self.kernel_size[0] * self.kernel_size[1]

    def cost_macs(self, input_shape: Sequence[int], output_shape: Sequence[int]) -> int:
        """Terms |x - w| of one call, padding included, as nn.Conv2d counts its products.

        In an adder network each stands for two additions and no multiplication.
        """
        images, _, height, width = output_shape
        return images * height * width * self.cost_weights()

    def extra_repr(self) -> str:
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        text += "".join(
            f", {name}={getattr(self, name)}"
            for name, usual in (("stride", (1, 1)), ("padding", (0, 0)))
            if getattr(self, name) != usual
        )
        present = [name for name in ("scale", "bias", "step") if getattr(self, name) is not None]
        return text + "".join(f", {name}=True" for name in present)


class AdderLinear(nn.Module):
    """y = scale * -(sum |x - w|) + bias for x (..., in) and weight (out, in): (..., out).

    Runs as a 1x1 adder convolution over one row of pixels; the rest is as in AdderConv2d, which
    it holds as `conv`.
    """

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor | None = None,
        bias: Tensor | None = None,
        *,
        step: float | None = None,
    ):
        super().__init__()
        if weight.dim() != 2:
            raise ValueError(f"weight must be (out, in), got shape {tuple(weight.shape)}")
        self.out_features, self.in_features = weight.shape
        self.conv = AdderConv2d(weight[:, :, None, None], scale, bias, step=step)

    @classmethod
    def blank(
        cls,
        in_features: int,
        out_features: int,
        *,
        scale: bool = False,
        bias: bool = False,
        codes: bool = False,
    ) -> "AdderLinear":
        """A layer of zeros to load a state_dict into; arguments as for AdderConv2d.blank."""
        return cls(
            torch.zeros(out_features, in_features),
            torch.ones(out_features) if scale else None,
            torch.zeros(out_features) if bias else None,
            step=1.0 if codes else None,
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 1 or x.shape[-1] != self.in_features:
            raise ValueError(f"x must be (..., {self.in_features}), got shape {tuple(x.shape)}")
        if x.numel() == 0:
            return x.new_empty(*x.shape[:-1], self.out_features, dtype=torch.float32)
        rows = x.reshape(1, 1, -1, self.in_features).permute(0, 3, 1, 2)  # a view, channels last
        return self.conv(rows).permute(0, 2, 3, 1).reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"
