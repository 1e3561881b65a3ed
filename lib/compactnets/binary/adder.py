"""AdderNet: convolutions that measure distance, y = -sum |x - w|, instead of products.

The layer and its gradients are arXiv:1912.13200 (the base of arXiv:2101.10015), compiled in
kernels.adder_conv2d. What is left to do here: which layers become adder layers, how their filters
start, and the local learning rate.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compactnets import seeds
from compactnets.kernels.adder_gradient import INPUT_GRADIENTS, WEIGHT_GRADIENTS, adder_conv2d
from compactnets.method import Hook, Progress
from compactnets.models.resnet import ResNetCifar, initialize, resnet_cifar

CLAMP = 1e-12  # of a gradient's norm, as in the released code


def local_rate(gradient: Tensor, eta: float = 0.2) -> Tensor:
    """eta sqrt(k) gradient / max(||gradient||_2, 1e-12) for k entries: a gradient of RMS eta.

    The factor alpha_l of the adaptive local learning rate (arXiv:1912.13200, section 3.3; the
    released code has eta = 1/5). A new tensor of gradient's shape.
    """
    return eta * gradient.numel() ** 0.5 / gradient.norm().clamp_min(CLAMP) * gradient


class AdderConv2d(nn.Conv2d):
    """y = -sum |x - w| over each window of the zero-padded x; a padded position adds -|w|.

    Made from a convolution, of which it takes the geometry; the filters are drawn from N(0, 1).
    Any floating x (N, in, H, W); half precision is computed in fp32, since |y| grows with the
    number of terms. ValueError for a convolution with groups, dilation, a bias (the normalization
    behind makes it idle) or padding other than a number of zeros.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        generator: torch.Generator | None = None,
        *,
        weight_gradient: str = "difference",
        input_gradient: str = "hardtanh",
    ):
        plain = conv.groups == 1 and conv.dilation == (1, 1) and conv.padding_mode == "zeros"
        if not plain or conv.bias is not None or isinstance(conv.padding, str):
            raise ValueError(
                f"cannot replace {conv}: an adder layer has no groups, dilation or bias, and pads "
                "with a number of zeros"
            )
        sizes = conv.in_channels, conv.out_channels, conv.kernel_size
        place = {"device": conv.weight.device, "dtype": conv.weight.dtype}
        super().__init__(*sizes, conv.stride, conv.padding, bias=False, **place)  # type: ignore[arg-type]
        self.weight_gradient, self.input_gradient = weight_gradient, input_gradient
        with torch.no_grad():
            self.weight.copy_(torch.randn(self.weight.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return adder_conv2d(
            x if x.dtype is torch.float64 else x.float(),
            self.weight,
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            weight_gradient=self.weight_gradient,
            input_gradient=self.input_gradient,
        )

    def get_extra_state(self) -> Tensor:
        return torch.tensor(list(b"AdderNet"), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """A filter and a convolution's weight have one shape: only the name tells them apart."""
        if (saved := bytes(state.tolist()).decode()) != "AdderNet":
            raise ValueError(f"the checkpoint is of {saved or 'no method'}, this is an adder layer")

    def cost_macs(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> int:
        """Terms |x - w| of one call, counted as nn.Conv2d counts products: 2 additions each."""
        return output_shape[0] * output_shape[2] * output_shape[3] * self.weight.numel()

    def extra_repr(self) -> str:
        rules = f"weight_gradient={self.weight_gradient}, input_gradient={self.input_gradient}"
        return f"{super().extra_repr()}, {rules}"


def adder_layers(model: nn.Module) -> Iterator[tuple[str, AdderConv2d]]:
    """(name, layer) of the adder layers, in the model's order."""
    return ((n, m) for n, m in model.named_modules() if isinstance(m, AdderConv2d))


def replaceable(model: nn.Module) -> list[str]:
    """Names of the convolutions that become adder layers: all but the first, 1x1 ones too.

    The classifier, a linear layer, stays. ValueError if there is none, or if another method has
    been at work.
    """
    convs = [(name, m) for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    if taken := [f"{name} ({type(m).__name__})" for name, m in convs if type(m) is not nn.Conv2d]:
        raise ValueError(f"{taken[0]} belongs to a method already: prepare a network of nn.Conv2d")
    if len(convs) < 2:
        raise ValueError(
            f"{type(model).__name__} has no convolution to replace: needs nn.Conv2d layers besides "
            "the first"
        )
    return [name for name, _ in convs[1:]]


class LocalLearningRate(Hook):
    """After each backward pass: every adder filter's gradient to RMS eta (None: left alone).

    Also the meter of what it removes: "filter_gradient", per epoch and layer, is the mean RMS of
    the raw gradient.
    """

    def __init__(self, eta: float | None = 0.2):
        self.eta = eta

    def start(self, progress: Progress) -> None:
        self._layers = dict(adder_layers(progress.model))
        self._sums = dict.fromkeys(self._layers, 0.0)
        self._steps = 0

    @torch.no_grad()
    def after_backward(self, progress: Progress) -> None:
        self._steps += 1
        for name, layer in self._layers.items():
            if (raw := layer.weight.grad) is not None:
                self._sums[name] += float(raw.norm()) / raw.numel() ** 0.5
                if self.eta is not None:
                    layer.weight.grad = local_rate(raw, self.eta)

    def epoch_end(self, progress: Progress) -> dict[str, Any]:
        line = {name: total / self._steps for name, total in self._sums.items()}
        self._sums, self._steps = dict.fromkeys(self._layers, 0.0), 0
        return {"filter_gradient": line}


@dataclass(frozen=True)
class AdderNet:
    """Adder layers in place of convolutions; rows of the ablation by one argument each.

    weight_gradient "sign" is the true one, input_gradient "difference" the unclipped one
    (kernels.adder_conv2d). eta: RMS of the local learning rate, None trains without. filter_lr:
    learning rate of adder filters relative to the rest. decay: whether the recipe's weight decay
    acts on the filters. seed: of the filters.

    The local learning rate acts after the backward pass, where the released code acts within it.
    One pass over one device cannot tell the two apart; but with accumulated gradients, several
    devices or a scaled loss only the gradient that the optimizer gets has a norm worth fixing, and
    outside of autograd the raw norm can be measured first.
    """

    weight_gradient: Literal["difference", "sign"] = "difference"
    input_gradient: Literal["hardtanh", "difference", "sign"] = "hardtanh"
    eta: float | None = 0.2
    filter_lr: float = 1.0
    decay: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name, known in (
            ("weight_gradient", WEIGHT_GRADIENTS),
            ("input_gradient", INPUT_GRADIENTS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        for name in ("eta", "filter_lr"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {value}")

    def prepare(self, model: nn.Module, example: Tensor) -> nn.Module:
        """A copy with adder layers; each should be followed by a normalization, since y <= 0.

        ValueError if there is nothing to replace, or a convolution that an adder layer cannot be.
        """
        names = replaceable(model)
        model = copy.deepcopy(model)
        generator = seeds.generator(self.seed, "adder", "filters")
        rules = {"weight_gradient": self.weight_gradient, "input_gradient": self.input_gradient}
        for name in names:
            conv: nn.Conv2d = model.get_submodule(name)  # type: ignore[assignment]
            model.set_submodule(name, AdderConv2d(conv, generator, **rules))
        return model

    def parameter_groups(self, model: nn.Module) -> list[dict]:
        """Everything else, then the adder filters with their own learning rate."""
        filters = [layer.weight for _, layer in adder_layers(model)]
        apart = {id(p) for p in filters}
        rest = [p for p in model.parameters() if id(p) not in apart]
        own: dict[str, Any] = {"params": filters, "lr_scale": self.filter_lr}
        return [{"params": rest}, own if self.decay else own | {"weight_decay": 0.0}]

    def hooks(self) -> tuple[Hook, ...]:
        """The local learning rate, or with eta None its meter alone."""
        return (LocalLearningRate(self.eta),)

    def deploy(self, model: nn.Module, images: Tensor | None = None, bits: int = 32) -> nn.Module:
        """The trained network on compiled kernels, normalizations folded (adder_quant.deploy).

        bits 32, or 8 with calibration images: integers with one step per layer.
        """
        from compactnets.binary.adder_quant import deploy  # here: not part of training's key

        return deploy(model, images, bits)


def adder_resnet_cifar(
    depth: int = 20, width: int = 16, classes: int = 10, stem_stride: int = 1
) -> ResNetCifar:
    """The CNN of the released code's layout: 1x1 shortcuts, a normalization on the logits.

    stem_stride = 2 halves all maps: a quarter of the cost for runs that must be short. ValueError
    unless depth = 6n + 2.
    """
    model = resnet_cifar(depth, width, classes, shortcut="B")
    model.stem.conv = nn.Conv2d(3, width, 3, stem_stride, padding=1, bias=False)  # type: ignore[index]
    model.fc = nn.Sequential(  # type: ignore[assignment]
        nn.Linear(model.fc.in_features, classes, bias=False), nn.BatchNorm1d(classes)
    )
    initialize(model)
    return model
