"""What one does to the real-valued layers of a network before it is shipped or timed."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compactnets import kernels
from compactnets.binary.convert import replace
from compactnets.binary.react import ReactBlock, ShiftedPReLU
from compactnets.models.graph import fold_norms


class FusedPReLU(nn.Module):
    """ShiftedPReLU for inference: torch's own PReLU between two sums, the last one in place."""

    before: Tensor | None
    slope: Tensor
    after: Tensor

    def __init__(self, activation: ShiftedPReLU):
        super().__init__()
        for name in ("before", "slope", "after"):
            self.register_buffer(name, getattr(activation, name).detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.before is None else x + self.before.view(1, -1, 1, 1)
        return F.prelu(y, self.slope).add_(self.after.view(1, -1, 1, 1))


class FusedBlock(nn.Module):
    """ReactBlock for inference: the sum with the shortcut in place; the activation's first shift
    part of the convolution's bias, if that has one and nothing comes between."""

    @torch.no_grad()
    def __init__(self, block: ReactBlock):
        super().__init__()
        self.conv = copy.deepcopy(block.conv)  # its bias will change
        self.norm, self.shortcut = block.norm, block.shortcut
        self.activation = FusedPReLU(block.activation)
        packed = isinstance(self.conv, nn.Conv2d | kernels.BinaryConv2d)
        bias = self.conv.bias if packed else None
        if bias is not None and isinstance(self.norm, nn.Identity):
            bias.add_(block.activation.before)  # type: ignore[operator]
            self.activation.before = None

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(self.norm(self.conv(x)).add_(self.shortcut(x)))


@torch.no_grad()
def fused(model: nn.Module) -> nn.Module:
    """A copy for inference, of a deployed network or of a full-precision one (a fair baseline).

    Batch normalizations are folded into the real convolutions that they alone read, ReActNet's
    blocks and activations take fewer passes over memory, weights are channels_last: give it
    channels_last images. Same outputs up to float32 rounding. ValueError in training mode.
    """
    model = fold_norms(model)  # a copy
    for name, module in list(model.named_modules()):
        if isinstance(module, ReactBlock):
            replace(model, name, FusedBlock(module))
    for name, module in list(model.named_modules()):
        if isinstance(module, ShiftedPReLU):
            replace(model, name, FusedPReLU(module))
    return model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
