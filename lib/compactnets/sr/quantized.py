"""EDSR with a quantized body: what DDTB and its baselines share (arXiv:2203.03844).

Head, last convolution of the body, up-sampler and tail stay real. Every residual block has three
activation quantizers and two convolutions with quantized weights.
"""

import copy
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compactnets.quant.affine import affine, affine_grid
from compactnets.quant.ddtb import DualBounds
from compactnets.quant.quantizer import Codes, check_bits, encode, percentile
from compactnets.sr.edsr import EDSR, ResidualBlock
from compactnets.sr.losses import structure_transfer

Order = Literal["quantized", "released"]
PERCENT = 99.0  # of a layer's weights, from both ends; outside of it they are clipped
STRUCTURE_WEIGHT = 1000.0


class QuantizedConv2d(nn.Conv2d):
    """A convolution whose weights are rounded to 2^bits levels between their 1st and 99th
    percentile, taken anew in every pass; no gradient reaches the clipped ones. Made from conv."""

    def __init__(self, conv: nn.Conv2d, bits: int):
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            bias=conv.bias is not None,
        )
        self.load_state_dict(conv.state_dict())
        self.weight_bits = self.activation_bits = check_bits(bits)  # for compactnets.cost

    def bounds(self) -> tuple[Tensor, Tensor]:
        """(upper, lower) of the weights now."""
        w = self.weight.detach()
        return percentile(w, PERCENT), percentile(w, 100 - PERCENT)

    def quantized_weight(self) -> Tensor:
        return affine(self.weight, *self.bounds(), self.weight_bits)

    def codes(self) -> Codes:
        """The quantized weights as integers (out, in, k, k) uint8, one step and zero for all."""
        return encode(self.weight.detach(), *affine_grid(*self.bounds(), self.weight_bits))

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.quantized_weight(), self.bias)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, bits={self.weight_bits}"


class Zero(nn.Module):
    """The quantizer that returns 0: switches a body off and leaves the long skip, the floor."""

    def __init__(self, bits: int):
        super().__init__()
        self.bits = check_bits(bits)

    def calibrate(self, x: Any) -> None:
        """Nothing to set."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    def codes(self, x: Tensor) -> Codes:
        step, zero = torch.ones((), device=x.device), torch.zeros((), dtype=torch.int32)
        return Codes(torch.zeros_like(x, dtype=torch.uint8), step, zero.to(x.device))


class QuantizedBlock(nn.Module):
    """q1(x) + res_scale q3(conv2(q2(relu(conv1(q1(x)))))): (N, features, H, W) -> the same.

    order="released": conv1 is given x itself, the sum of two quantized tensors, as in the released
    code; then it works on more than 2^bits levels.
    """

    def __init__(
        self, block: ResidualBlock, make: Callable[[], nn.Module], bits: int, order: Order
    ):
        super().__init__()
        self.q1, self.q2, self.q3 = make(), make(), make()
        self.conv1 = QuantizedConv2d(block.conv1, bits)
        self.conv2 = QuantizedConv2d(block.conv2, bits)
        self.res_scale, self.order = block.res_scale, order
        if order == "released":
            self.conv1.activation_bits = 32

    def forward(self, x: Tensor) -> Tensor:
        rounded = self.q1(x)
        inner = torch.relu(self.conv1(rounded if self.order == "quantized" else x))
        return rounded + self.res_scale * self.q3(self.conv2(self.q2(inner)))

    def extra_repr(self) -> str:
        return f"res_scale={self.res_scale}, order={self.order!r}"


class Student(nn.Module):
    """A quantized EDSR. Images (N, 3, H, W) in [0, 1] -> images, scale times as large.

    In training mode a dict: "images", "features" (before the up-sampler, for structure transfer)
    and "penalty" (mean square of the logits of gates that are still closed; 0 without gates).
    """

    def __init__(self, network: EDSR):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        features = self.network.features(images)
        restored = self.network.reconstruct(features)
        if not self.training:
            return restored
        return {"images": restored, "features": features, "penalty": self._penalty(images)}

    def _penalty(self, images: Tensor) -> Tensor:
        gates = [q for q in activation_quantizers(self) if isinstance(q, DualBounds)]
        found = [p for q in gates if (p := q.take_penalty()) is not None]
        return torch.stack(found).mean() if found else images.new_zeros(())


class Features(nn.Module):
    """What a teacher has to say: EDSR's features, without the cost of its up-sampler and tail."""

    def __init__(self, network: EDSR):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.features(images)


def student_loss(output: dict[str, Tensor], target: Tensor, teacher: Tensor) -> Tensor:
    """L1 in units of 255 + 1000 * structure transfer + the penalty on closed gates."""
    structure = structure_transfer(output["features"], teacher)
    return image_loss(output, target) + STRUCTURE_WEIGHT * structure


def image_loss(output: Any, target: Tensor, teacher: Tensor | None = None) -> Tensor:
    """L1 in units of 255, of images or of a student's output, there with the gates' penalty."""
    if isinstance(output, Tensor):
        return 255 * F.l1_loss(output, target)
    return 255 * F.l1_loss(output["images"], target) + output["penalty"]


def quantized(
    model: nn.Module, make: Callable[[], nn.Module], bits: int, order: Order = "quantized"
) -> Student:
    """A student with model's weights: make() builds each activation quantizer. The model is left
    as it was. TypeError if it is no EDSR; ValueError for an unknown order."""
    if not isinstance(model, EDSR):
        raise TypeError(f"only an EDSR can be quantized here, got {type(model).__name__}")
    if order not in ("quantized", "released"):
        raise ValueError(f'order must be "quantized" or "released", got {order!r}')
    network = copy.deepcopy(model)
    for name, block in network.body.named_children():
        setattr(network.body, name, QuantizedBlock(block, make, bits, order))  # type: ignore[arg-type]
    return Student(network)


def activation_quantizers(model: nn.Module) -> list[nn.Module]:
    """The quantizers q1, q2, q3 of every block, in the order of the forward pass."""
    blocks = [m for m in model.modules() if isinstance(m, QuantizedBlock)]
    return [q for block in blocks for q in (block.q1, block.q2, block.q3)]


@torch.no_grad()
def calibrate(student: Student, images: Tensor, start: Callable[[Any, Tensor], None]) -> None:
    """One pass over images (N, 3, h, w): start(quantizer, its inputs), each before it rounds.

    So a quantizer starts from what it will see: the outputs of those before it, already rounded.
    """

    def set_first(quantizer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        start(quantizer, inputs[0])

    handles = [q.register_forward_pre_hook(set_first) for q in activation_quantizers(student)]
    try:
        student.eval()(images)
    finally:
        for handle in handles:
            handle.remove()
        student.train()


@torch.no_grad()
def activations(model: EDSR, images: Tensor, see: Callable[[int, Tensor], None]) -> None:
    """Runs the real network: see(i, x) for what each activation quantizer i would be given.

    Three per block: its input, behind the ReLU, behind the second convolution.
    """

    def watch(index: int, block: Any) -> list[RemovableHandle]:
        return [
            block.register_forward_pre_hook(lambda _, x: see(index, x[0])),
            block.act.register_forward_hook(lambda _, __, y: see(index + 1, y)),
            block.conv2.register_forward_hook(lambda _, __, y: see(index + 2, y)),
        ]

    handles = [h for i, block in enumerate(model.body) for h in watch(3 * i, block)]
    try:
        model.features(images)
    finally:
        for handle in handles:
            handle.remove()


def extremes(model: EDSR, images: Tensor) -> tuple[Tensor, Tensor]:
    """(highest, lowest) activation of each image at each quantizer: (3 blocks, N) twice."""
    highest: dict[int, Tensor] = {}
    lowest: dict[int, Tensor] = {}

    def see(index: int, x: Tensor) -> None:
        highest[index], lowest[index] = x.amax(dim=(1, 2, 3)), x.amin(dim=(1, 2, 3))

    activations(model, images, see)
    layers = sorted(highest)
    return torch.stack([highest[i] for i in layers]), torch.stack([lowest[i] for i in layers])
