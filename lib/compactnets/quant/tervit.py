"""TerViT as reconstructed: vision transformers with ternary weights, trained in two phases.

arXiv:2201.08050, of which only the abstract could be had: ternarization per channel and
8-bit-then-ternary training are the paper's, what fills them in is that of ternary weight networks
(quant.ternary) and is said on the page. Activations have 8 bits, one scale per token.
"""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compactnets.method import Hook, Progress
from compactnets.models.vit import Attention
from compactnets.quant.ternary import Granularity, Rule, ternarize

TINY = 2.0**-100  # of a token's largest magnitude: below it every code is 0


class _RoundTokens(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, dim: int) -> Tensor:
        x = x.float()
        largest = x.abs().amax(dim, keepdim=True).clamp_min_(TINY)
        return (x * (127 / largest)).round_().mul_(largest / 127)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.dtype = inputs[0].dtype

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad.to(ctx.dtype), None


def round_tokens(x: Tensor, dim: int = -1) -> Tensor:
    """x rounded to the multiples of max|x| / 127 along dim: 8-bit codes -127 .. 127, float32.

    The largest magnitude of a token (a row along dim) is a level itself, so nothing is clipped and
    the gradient passes everywhere. Along the last dimension these are the codes that the compiled
    kernels compute from float inputs (kernels.row_quantization).
    """
    return _RoundTokens.apply(x, dim)


class RoundTokens(nn.Module):
    """round_tokens as a module; dim: along which one scale is shared."""

    def __init__(self, dim: int = -1):
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        return round_tokens(x, self.dim)

    def extra_repr(self) -> str:
        return f"dim={self.dim}"


def integers_and_scale(
    w: Tensor, bits: int, granularity: Granularity = "channel", rule: Rule = "twn"
) -> tuple[Tensor, Tensor]:
    """(k, s) with w_hat = s k: integers as floats (out, ...), scales (out, 1, ...) or (1, 1, ...).

    bits 3 to 8: k = round(w / s), s = max|w| / (2^(bits-1) - 1); 2: ternary, by the rule; 1: the
    signs times the mean magnitude, sign(0) = +1. Constants for the gradient. ValueError for other
    bits.
    """
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 8:
        raise ValueError(f"bits must be an integer from 1 to 8, got {bits!r}")
    w = w.detach()
    if bits == 2:
        values, alpha, _ = ternarize(w, granularity, rule)
        return values, alpha
    dims = tuple(range(1 if granularity == "channel" else 0, w.dim()))
    if bits == 1:
        return torch.where(w >= 0, 1.0, -1.0).to(w.dtype), w.abs().mean(dims, keepdim=True)
    top = 2 ** (bits - 1) - 1
    scale = w.abs().amax(dims, keepdim=True).clamp_min(TINY) / top
    return (w / scale).round(), scale


class _Coded(nn.Module):
    """A latent weight and what the network computes with in its place."""

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, layer: nn.Module, bits: int, granularity: Granularity, rule: Rule):
        super().__init__()
        self.weight = nn.Parameter(layer.weight.detach().clone())  # type: ignore[union-attr]
        bias: Any = layer.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.weight_bits, self.activation_bits = bits, 8  # for compactnets.cost
        self.granularity: Granularity = granularity
        self.rule: Rule = rule
        integers_and_scale(self.weight, bits, granularity, rule)  # refuses bad options now

    def coded(self) -> tuple[Tensor, Tensor]:
        """(integers, scale) of the weight now."""
        return integers_and_scale(self.weight, self.weight_bits, self.granularity, self.rule)

    def quantized_weight(self) -> Tensor:
        """w_hat; the gradient passes to the latent weight unchanged (straight-through)."""
        k, s = self.coded()
        return self.weight + (s * k - self.weight).detach()

    def extra_repr(self) -> str:
        shape = tuple(self.weight.shape)
        return f"{shape}, bits={self.weight_bits}, {self.granularity}, {self.rule}"


class CodedLinear(_Coded):
    """y = round_tokens(x) @ w_hat.T + bias; made from nn.Linear or from another CodedLinear.

    learned: the scales of ternary weights are parameters, started at their least-squares values,
    with the gradient sum_j T_ij dL/dw_hat_ij; else they are computed from the weights in each step.
    """

    def __init__(
        self,
        layer: nn.Module,
        bits: int,
        granularity: Granularity = "channel",
        rule: Rule = "twn",
        learned: bool = False,
    ):
        super().__init__(layer, bits, granularity, rule)
        if learned and bits != 2:
            raise ValueError(f"only ternary weights (bits=2) have a learned scale, got bits={bits}")
        self.alpha = nn.Parameter(super().coded()[1].clone()) if learned else None

    def coded(self) -> tuple[Tensor, Tensor]:
        k, s = super().coded()
        return (k, s) if self.alpha is None else (k, self.alpha)

    def quantized_weight(self) -> Tensor:
        if self.alpha is None:
            return super().quantized_weight()
        return self.alpha * self.coded()[0] + (self.weight - self.weight.detach())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(round_tokens(x), self.quantized_weight(), self.bias)


class CodedPatches(_Coded):
    """A patch convolution with a low-bit weight; pixels are bytes already and stay as they are."""

    def __init__(self, conv: nn.Module, bits: int, granularity: Granularity, rule: Rule):
        super().__init__(conv, bits, granularity, rule)
        self.stride = conv.stride

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.quantized_weight(), self.bias, self.stride)  # type: ignore[arg-type]


def coded_layers(model: nn.Module, *, most_bits: int = 8) -> Iterator[tuple[str, CodedLinear]]:
    """(name, layer) of the model's low-bit linear layers with at most so many bits, in order."""
    for name, module in model.named_modules():
        if isinstance(module, CodedLinear) and module.weight_bits <= most_bits:
            yield name, module


def hard_distillation(output: Tensor, target: Tensor, teacher_output: Tensor) -> Tensor:
    """Half cross-entropy with the labels, half with the teacher's predictions (DeiT,
    arXiv:2012.12877, eq 3), on one output; nats, mean over the batch."""
    taught = F.cross_entropy(output, teacher_output.argmax(dim=1))
    return (F.cross_entropy(output, target) + taught) / 2


class TernaryMeter(Hook):
    """Per epoch: `zeros`, share of ternary weights that are 0 at its end, by layer; `flips`, share
    that changed per step, mean over steps and layers."""

    def start(self, progress: Progress) -> None:
        self._layers = list(coded_layers(progress.model, most_bits=2))
        self._before = [layer.coded()[0] for _, layer in self._layers]
        self._changed, self._steps = 0.0, 0

    def after_step(self, progress: Progress) -> None:
        now = [layer.coded()[0] for _, layer in self._layers]
        pairs = zip(now, self._before, strict=True)
        shares = [(new != old).float().mean() for new, old in pairs]
        if shares:
            self._changed += float(torch.stack(shares).mean())
        self._before, self._steps = now, self._steps + 1

    def epoch_end(self, progress: Progress) -> dict[str, Any]:
        zeros = {
            name: float((values == 0).float().mean())
            for (name, _), values in zip(self._layers, self._before, strict=True)
        }
        line = {"flips": self._changed / max(self._steps, 1), "zeros": zeros}
        self._changed, self._steps = 0.0, 0
        return line


@dataclass(frozen=True)
class TerViT:
    """One phase of the training: TerViT(bits=8) first, TerViT() from its network, then deploy.

    bits: of the weights in blocks; 8, ternary (2), one step between (3 to 7), or signs (1).
    granularity, rule: of ternarization, see quant.ternary. learned: scales are trained. ends: bits
    of patch embedding and classifier, 1 to 8, or 32 for real ones. Norms, biases, position
    embeddings, softmax and GELU stay real; the factors of the attention products have 8 bits.
    """

    bits: int = 2
    granularity: Granularity = "channel"
    rule: Rule = "twn"
    learned: bool = False
    ends: int = 8

    def prepare(self, model: nn.Module, example: Tensor) -> nn.Module:
        """A copy of a real transformer, or of one that this method prepared before, whose latent
        weights it then takes over. ValueError if there is no linear layer to convert."""
        model = copy.deepcopy(model)
        body, ends = _layers(model)
        if not body:
            raise ValueError(
                f"{type(model).__name__} has no linear layer to make ternary: TerViT needs "
                "nn.Linear layers besides the classifier"
            )
        for name in body:
            layer = model.get_submodule(name)
            coded = CodedLinear(layer, self.bits, self.granularity, self.rule, self.learned)
            model.set_submodule(name, coded)
        for name in ends if self.ends != 32 else ():
            layer = model.get_submodule(name)
            make = CodedPatches if layer.weight.dim() == 4 else CodedLinear  # type: ignore[operator]
            model.set_submodule(name, make(layer, self.ends, self.granularity, self.rule))
        for module in model.modules():
            if isinstance(module, Attention):
                _round_products(module)
        return model

    def parameter_groups(self, model: nn.Module) -> list[dict]:
        """Latent weights of at most 2 bits without decay (it would shrink threshold and weight
        alike, and change nothing but the step relative to them), then everything else."""
        latent = [layer.weight for _, layer in coded_layers(model, most_bits=2)]
        apart = {id(p) for p in latent}
        rest = [p for p in model.parameters() if id(p) not in apart]
        return [{"params": rest}, *([{"params": latent, "weight_decay": 0.0}] if latent else [])]

    def hooks(self) -> Iterable[Hook]:
        return ()

    def deploy(self, model: nn.Module) -> nn.Module:
        """The trained network on packed codes (quant.tervit_deploy)."""
        from compactnets.quant.tervit_deploy import deploy  # here: kernels must not enter the key

        return deploy(model)


def _layers(model: nn.Module) -> tuple[list[str], list[str]]:
    """Names of the linear layers between, and of patch embedding and classifiers.

    ValueError for layers that another method made.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and type(module) not in (nn.Linear, nn.Conv2d):
            raise ValueError(
                f"layer {name!r} is a {type(module).__name__} of another method: TerViT starts "
                "from a real network or from one of its own"
            )
    kinds = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear | CodedLinear)}
    heads = [n for n in kinds if n.startswith("head")] or list(kinds)[-1:]
    convs = (nn.Conv2d, CodedPatches)
    patches = [n for n, m in model.named_modules() if isinstance(m, convs)]
    return [n for n in kinds if n not in heads], patches + heads


def _round_products(attention: Attention) -> None:
    """Factors of both products to 8 bits, with scales that a product of integers can take out: per
    token of q, k and the map, per channel of v, whose tokens are summed over."""
    for name in ("q_act", "k_act", "attn_act"):
        attention.set_submodule(name, RoundTokens())
    attention.set_submodule("v_act", RoundTokens(-2))
    attention.weight_bits = attention.activation_bits = 8  # type: ignore[assignment]
