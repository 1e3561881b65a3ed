"""Adder networks in few bits after training: one step per layer for inputs and filters.

|s qx - s qw| = s |qx - qw|: a distance of codes is a distance of numbers only if both have the same
step s (arXiv:2101.10015). Products are content with two, since their steps factor out. The paper's
clipping rule could not be had; here the largest magnitude decides, in every rule and for
convolutions too.
"""

import copy
import math
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from compactnets import kernels
from compactnets.binary.adder import AdderConv2d, adder_layers, replaceable
from compactnets.models.graph import affine, sole_readers

Steps = Literal["shared", "power of two", "separate", "factored"]
STEPS = ("shared", "power of two", "separate", "factored")
LOWEST, HIGHEST = 2, 16  # bits


def step_of(peak: float, bits: int, power_of_two: bool = False) -> float:
    """peak / (2^(bits-1) - 1), the step with which the largest code is peak; 1 for a peak of 0.

    power_of_two: the next larger one, so that rescaling is a shift. ValueError for a negative or
    infinite peak, and unless bits is 2 to 16.
    """
    if not isinstance(bits, int) or not LOWEST <= bits <= HIGHEST:
        raise ValueError(f"bits must be an integer from {LOWEST} to {HIGHEST}, got {bits!r}")
    if not 0 <= peak < math.inf:
        raise ValueError(f"peak must be finite and not negative, got {peak}")
    step = peak / (2 ** (bits - 1) - 1) or 1.0
    return 2.0 ** math.ceil(math.log2(step)) if power_of_two else step


def codes(values: Tensor, step: float, bits: int) -> Tensor:
    """clip(round(values / step), -2^(bits-1), 2^(bits-1) - 1): integers in values' dtype."""
    half = 2 ** (bits - 1)
    return torch.round(values / step).clamp(-half, half - 1)


def quantized_layers(model: nn.Module) -> dict[str, nn.Conv2d]:
    """What is quantized: the adder layers, or in a CNN the convolutions that could be ones."""
    found: dict[str, nn.Conv2d] = dict(adder_layers(model))
    return found or {n: model.get_submodule(n) for n in replaceable(model)}  # type: ignore[misc]


@torch.no_grad()
def input_peaks(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Largest magnitude that flows into each layer of quantized_layers, over images (N, C, H, W).

    ValueError if the model is in training mode, images are empty or have NaN in them.
    """
    if model.training:
        raise ValueError("the model is in training mode: call model.eval() before calibrating it")
    if len(images) == 0:
        raise ValueError("no images to calibrate on")
    peaks: dict[str, float] = {}

    def watch(name: str):
        return lambda layer, inputs: peaks.update({name: float(inputs[0].abs().max())})

    handles = [
        layer.register_forward_pre_hook(watch(name))
        for name, layer in quantized_layers(model).items()
    ]
    try:
        model(images)
    finally:
        for handle in handles:
            handle.remove()
    if wrong := [name for name, peak in peaks.items() if not math.isfinite(peak)]:
        raise ValueError(f"the input of {wrong[0]} is not finite on the calibration images")
    return peaks


class QuantizedLayer(nn.Module):
    """An adder layer or a convolution on codes of `bits` bits, simulated in floating point.

    With equal steps an adder layer is step * -sum |qx - qw|, on integers (exact in fp32 while the
    sum is below 2^24). With two steps codes are turned back into numbers first, a multiplication
    per element. factored: as if two steps factored out of a distance as out of a product, their
    geometric mean in front; they do not.
    """

    def __init__(self, layer: nn.Conv2d, x_step: float, w_step: float, bits: int, factored: bool):
        super().__init__()
        self.adds = isinstance(layer, AdderConv2d)
        self.x_step, self.w_step, self.bits = x_step, w_step, bits
        self.on_codes = self.adds and (factored or x_step == w_step)
        self.stride, self.padding = layer.stride, layer.padding
        weight = codes(layer.weight.detach(), w_step, bits)
        self.register_buffer("weight", weight if self.on_codes else w_step * weight)

    def forward(self, x: Tensor) -> Tensor:
        q = codes(x, self.x_step, self.bits)
        q = q if self.on_codes else self.x_step * q
        conv = kernels.adder_conv2d if self.adds else F.conv2d
        y = conv(q, self.weight, stride=self.stride, padding=self.padding)  # type: ignore[operator]
        return (self.x_step * self.w_step) ** 0.5 * y if self.on_codes else y

    def extra_repr(self) -> str:
        return f"{self.bits} bits, x_step={self.x_step:.3g}, w_step={self.w_step:.3g}"


def layer_steps(x_peak: float, w_peak: float, bits: int, steps: Steps) -> tuple[float, float]:
    """(x_step, w_step) by rule: equal for "shared" and "power of two", each its own otherwise.

    ValueError for an unknown rule.
    """
    if steps not in STEPS:
        raise ValueError(f"steps must be one of {STEPS}, got {steps!r}")
    if steps in ("shared", "power of two"):
        step = step_of(max(x_peak, w_peak), bits, steps == "power of two")
        return step, step
    return step_of(x_peak, bits), step_of(w_peak, bits)


def quantize(
    model: nn.Module, peaks: Mapping[str, float], bits: int, steps: Steps = "shared"
) -> nn.Module:
    """A copy with every layer of quantized_layers as a QuantizedLayer; the rest stays in fp32.

    peaks: of input_peaks. steps: "shared" is the paper's; "power of two" a shared one that is a
    shift; "separate" dequantizes before it subtracts (what a CNN needs); "factored" is the wrong
    one. ValueError for peaks of another network, bits beyond 2 to 16, an unknown rule.
    """
    layers = quantized_layers(model)
    if set(peaks) != set(layers):
        raise ValueError(f"peaks of {sorted(peaks)} do not fit the layers {sorted(layers)}")
    quantized = copy.deepcopy(model)
    for name, layer in layers.items():
        peak = float(layer.weight.detach().abs().max())
        both = layer_steps(peaks[name], peak, bits, steps)
        quantized.set_submodule(name, QuantizedLayer(layer, *both, bits, steps == "factored"))
    return quantized


def deploy(model: nn.Module, images: Tensor | None = None, bits: int = 32) -> nn.Module:
    """A copy in which every adder layer runs on its compiled kernel (kernels.AdderConv2d).

    bits 32: fp32. 8: integers with the shared step of images, the calibration set. A batch
    normalization that alone reads a layer folds into its scale and bias, never into the filters:
    |x - w| is not linear in w. Outputs equal those of the trained network (of its 8-bit simulation)
    up to fp32 rounding. ValueError for a model in training mode or without adder layers, for other
    bits, or 8 bits without images.
    """
    if model.training:
        raise ValueError("the model is in training mode: call model.eval() before deploying it")
    if not (layers := dict(adder_layers(model))):
        raise ValueError(f"{type(model).__name__} has no adder layer: prepare and train it first")
    if bits not in (8, 32):
        raise ValueError(f"bits must be 8 or 32, got {bits!r}; others are simulated by quantize()")
    if bits == 8 and images is None:
        raise ValueError("8 bits need calibration images for the shared step: give images")
    peaks = input_peaks(model, images) if bits == 8 and images is not None else {}
    deployed, norms = copy.deepcopy(model), _norms(model, set(layers))
    for name, layer in layers.items():
        peak = float(layer.weight.detach().abs().max())
        step = layer_steps(peaks[name], peak, bits, "shared")[0] if peaks else None
        gain, offset = affine(model.get_submodule(norms[name])) if name in norms else (None, None)
        geometry = {"stride": layer.stride, "padding": layer.padding}
        packed = kernels.AdderConv2d(layer.weight, gain, offset, step=step, **geometry)  # type: ignore[arg-type]
        deployed.set_submodule(name, packed)
        if name in norms:
            deployed.set_submodule(norms[name], nn.Identity())
    return deployed


@torch.no_grad()
def deploy_cnn(model: nn.Module, images: Tensor | None = None) -> nn.Module:
    """The baseline: a CNN with the same layers on prepacked fp32 or, given images, int8 kernels.

    Normalizations fold into the weights. Int8: one weight scale per output, one input scale
    per layer by max-abs over images, inputs non-negative as behind a ReLU. ValueError for a model
    in training mode, or one without a convolution besides the first.
    """
    if model.training:
        raise ValueError("the model is in training mode: call model.eval() before deploying it")
    names = replaceable(model)
    peaks = {} if images is None else input_peaks(model, images)
    deployed, norms = copy.deepcopy(model), _norms(model, set(names))
    for name in names:
        conv: nn.Conv2d = model.get_submodule(name)  # type: ignore[assignment]
        if name in norms:
            norm: nn.BatchNorm2d = model.get_submodule(norms[name])  # type: ignore[assignment]
            conv = fuse_conv_bn_eval(conv, norm)
            deployed.set_submodule(norms[name], nn.Identity())
        fast: nn.Module = kernels.PrepackedConv2d(conv)
        if peaks:
            fast = kernels.Int8Conv2d.from_float(conv, x_scale=(peaks[name] or 255.0) / 255)
        deployed.set_submodule(name, fast)
    return deployed


def _norms(model: nn.Module, names: set[str]) -> dict[str, str]:
    """Layer -> the batch normalization with running statistics that alone reads it."""
    readers = {n: r for n, r in sole_readers(model).items() if n in names}
    norms = {n: (r, model.get_submodule(r)) for n, r in readers.items()}
    return {
        n: r
        for n, (r, m) in norms.items()
        if isinstance(m, nn.BatchNorm2d) and m.running_var is not None
    }
