"""The 1-bit convolution as it is trained: sign(x + shift) convolved with alpha * sign(w)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from compactnets.binary.scales import Binarizer
from compactnets.binary.ste import Polynomial, Slope, sign


class BinaryConv2d(nn.Conv2d):
    """Convolves sign(x + shift) with binarizer(weight); padding adds zeros to the signs.

    Made from a real convolution, whose weights become the latent ones. shift is a learned bias per
    input channel (ReActNet's RSign, arXiv:2003.03488), started at 0. ValueError if the convolution
    has a bias (a normalisation that follows makes it idle) or pads with anything but zeros.
    """

    weight_bits = 1
    activation_bits = 1

    def __init__(
        self,
        conv: nn.Conv2d,
        make_binarizer: Callable[[Tensor], Binarizer],
        slope: Slope | None = None,
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
        with torch.no_grad():
            self.weight.copy_(conv.weight)
        self.shift = nn.Parameter(conv.weight.new_zeros(conv.in_channels))
        self.binarizer = make_binarizer(self.weight)
        self.slope = slope or Polynomial()

    def forward(self, x: Tensor) -> Tensor:
        signs = sign(x + self.shift.to(x.dtype).view(1, -1, 1, 1), self.slope)
        return self._conv_forward(signs, self.binarizer(self.weight), None)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, slope={self.slope}"
