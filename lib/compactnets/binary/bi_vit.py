"""Bi-ViT: transformers with 1-bit linear layers and 1-bit attention (arXiv:2305.12354).

A scale and an integer offset per head put queries, keys, values and the attention map into the
window where the straight-through estimator lets gradients pass; a ranking-aware distillation
(binary.attention) keeps the order of keys. Equations: the released Bi_Quant.py.
"""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compactnets.binary.attention import Kept, WithMaps, attentions
from compactnets.binary.convert import replace
from compactnets.binary.layers import BinaryLinear, Sign
from compactnets.binary.scales import AnalyticScale
from compactnets.binary.ste import Polynomial
from compactnets.method import Hook

SMALLEST = 1e-6  # no scale counts as smaller
Scale = Literal["learned", "calibrated", "fixed"]


def per_head(value: Tensor, x: Tensor) -> Tensor:
    """(heads,) -> (heads, 1, 1) in x's dtype, so that it meets x (B, heads, N, M) head by head."""
    return value.to(x.dtype).view(-1, 1, 1)


def levels(x: Tensor, alpha: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """(upper, lower) value of head_binarize, alpha (+-1 - round(z)), each (heads, 1, 1)."""
    return per_head(alpha * (1 - z.round()), x), per_head(-alpha * (1 + z.round()), x)


def window(x: Tensor, alpha: Tensor, z: Tensor) -> Tensor:
    """Where gradients pass, |x / alpha_h + round(z_h)| <= 1: a mask of x's shape (B, heads, ., .).

    That is: between the two levels. With z = 0 it says |x| <= alpha_h, with z = -1
    0 <= x <= 2 alpha_h. alpha > 0 and z (heads,).
    """
    upper, lower = levels(x, alpha, z)
    return (x >= lower) & (x <= upper)


def gradients(g: Tensor, x: Tensor, alpha: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Straight-through gradients of head_binarize for x, alpha and z, from g = dL/dx_hat.

    With 1[.] the window and sums over all elements of a head:

        dx = g 1[.],   dalpha = sum(g x_hat - g 1[.] x) / alpha,   dz = alpha sum(g 1[.] - g).
    """
    passed = g * window(x, alpha, z)
    x_hat = _two_levels(x, alpha, z)
    of_alpha = (g * x_hat - passed * x).sum(dim=(0, 2, 3)) / alpha
    of_z = alpha * (passed - g).sum(dim=(0, 2, 3))
    return passed, of_alpha.to(alpha.dtype), of_z.to(z.dtype)


def _two_levels(x: Tensor, alpha: Tensor, z: Tensor) -> Tensor:
    return torch.where(x >= per_head(-alpha * z.round(), x), *levels(x, alpha, z))


class _HeadBinarize(torch.autograd.Function):
    @staticmethod
    def forward(x, alpha, z):
        return _two_levels(x, alpha, z)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g: Tensor):
        x, alpha, z = ctx.saved_tensors
        if not any(ctx.needs_input_grad[1:]):  # nothing to learn: one pass in place of five
            return g * window(x, alpha, z), None, None
        return gradients(g, x, alpha, z)


def head_binarize(x: Tensor, alpha: Tensor, z: Tensor) -> Tensor:
    """x_hat = alpha_h (sign(clamp(x / alpha_h + round(z_h), -1, 1)) - round(z_h)), like x.

    x (B, heads, N, M) float; alpha > 0 and z (heads,). Two levels per head, alpha (1 - round(z))
    from the threshold -alpha round(z) on and -alpha (1 + round(z)) below: +-alpha with z = 0, and
    2 alpha and 0 with z = -1. Gradients as in `gradients`. ValueError for shapes that do not fit.
    """
    if x.dim() != 4 or alpha.shape != x.shape[1:2] or z.shape != alpha.shape:
        raise ValueError(
            "x must be (B, heads, N, M) with alpha and z (heads,), got "
            f"{tuple(x.shape)}, {tuple(alpha.shape)} and {tuple(z.shape)}"
        )
    return _HeadBinarize.apply(x, alpha, z)


def short(scale: Tensor) -> Tensor:
    """Rounded to 8 bits of mantissa, so that float32 adds up 2^8 products of two scales exactly.

    Then a sum of signs that is 0 is 0 in any order of summation, and its sign +1 on every machine.
    """
    return scale.bfloat16().to(scale.dtype)


class ShortScale(AnalyticScale):
    """w_hat = beta_o sign(w), beta_o the mean of |w| of an output, in 8 bits of mantissa."""

    def scale(self, w: Tensor) -> Tensor:
        return short(super().scale(w))


class HeadBinarizer(nn.Module):
    """head_binarize with a scale and an offset of each head, (B, heads, N, M) -> the same.

    scale: "learned", "calibrated" (started in the same way, then fixed) or "fixed" (alpha = 1; of
    an attention map its mean). offset: where z starts, or "released": a tenth of (min x + alpha).
    Call calibrate before the first use. The gradients of alpha and z are multiplied by
    1 / sqrt(numel(x)) (LSQ); under Adam that factor is idle.
    """

    def __init__(
        self,
        heads: int,
        scale: Scale = "learned",
        offset: float | Literal["released"] = 0.0,
        is_map: bool = False,
    ):
        super().__init__()
        self.scale, self.offset, self.is_map = scale, offset, is_map
        self.alpha = nn.Parameter(torch.ones(heads), requires_grad=scale == "learned")
        start = 0.0 if isinstance(offset, str) else float(offset)
        self.z = nn.Parameter(torch.full((heads,), start), requires_grad=scale == "learned")

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> None:
        """Sets the start from a batch: one value, twice the mean of |x|, for all heads."""
        if self.scale != "fixed":
            self.alpha.fill_(float(2 * x.abs().mean()))
        elif self.is_map:
            self.alpha.fill_(float(x.mean()))
        if self.offset == "released":
            self.z.copy_(0.1 * (x.min() + self.alpha))

    def positive_alpha(self) -> Tensor:
        """max(alpha, 1e-6) with 8 bits of mantissa; the gradient passes unchanged."""
        return short(self.alpha.detach().clamp_min(SMALLEST)) + (self.alpha - self.alpha.detach())

    def forward(self, x: Tensor) -> Tensor:
        share = max(x.numel(), 1) ** -0.5
        alpha, z = (p.detach() + share * (p - p.detach()) for p in (self.positive_alpha(), self.z))
        return head_binarize(x, alpha, z)

    def window(self, x: Tensor) -> Tensor:
        """Where gradients pass, a mask like x."""
        return window(x, self.positive_alpha(), self.z)

    def extra_repr(self) -> str:
        return f"{len(self.alpha)}, scale={self.scale!r}, offset={self.offset}, map={self.is_map}"


class TwoLevels(nn.Module):
    """A trained HeadBinarizer for inference: one comparison; (B, heads, N, M) -> the same."""

    threshold: Tensor
    upper: Tensor
    lower: Tensor

    def __init__(self, trained: HeadBinarizer):
        super().__init__()
        alpha, z = trained.positive_alpha().detach(), trained.z.detach()
        upper, lower = levels(alpha, alpha, z)
        self.register_buffer("threshold", per_head(-alpha * z.round(), alpha))
        self.register_buffer("upper", upper)
        self.register_buffer("lower", lower)

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x >= self.threshold, self.upper, self.lower)


class BooleanScores(HeadBinarizer):
    """Attention without softmax: alpha_h 1[S >= 0] / N of scores S (B, heads, N, N).

    The gradient window is |S| <= alpha_h. Division by the number of keys, this book's choice, makes
    the product with the values an average in size; the next layer's sign does not see it.
    """

    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x) + per_head(self.positive_alpha(), x)) / (2 * x.shape[-1])


@dataclass(frozen=True)
class BiViT:
    """1-bit linear layers and 1-bit attention in every block; BiViT() is the paper's method.

    scale: as in HeadBinarizer; "fixed" is the baseline. offset: "shifted" starts the attention
    map's z at -1, "released" as the released code does, near 0. attention: "softmax"; "scores"
    binarizes the scores and has no softmax; "real" leaves attention and all activations real, only
    weights are binary. bias=False drops the linear layers' biases, as the released code does.
    The ranking loss is not part of the network: give fit loss=partial(distillation_loss, ...) and
    teacher=WithMaps(teacher). ValueError for an unknown option.
    """

    scale: Scale = "learned"
    offset: Literal["shifted", "released"] = "shifted"
    attention: Literal["softmax", "scores", "real"] = "softmax"
    bias: bool = True

    def __post_init__(self) -> None:
        for name, known in (
            ("scale", ("learned", "calibrated", "fixed")),
            ("offset", ("shifted", "released")),
            ("attention", ("softmax", "scores", "real")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")

    def prepare(self, model: nn.Module, example: Tensor) -> nn.Module:
        """A student with the model's weights, its scales started on example (n, 3, H, W).

        In training mode it returns {"logits", "maps"}, else logits. Only the blocks change: patch
        embedding, normalizations, softmax, residuals and heads stay real. LayerNorms over each
        head's channels, new and started at 1 and 0, precede the binarized queries and keys.
        TypeError if the network has no attention, ValueError if it is binary already.
        """
        attentions(model)
        if any(isinstance(m, BinaryLinear) for m in model.modules()):
            raise ValueError(f"{type(model).__name__} has binary layers already: give the real one")
        network = copy.deepcopy(model)
        for block in [m for m in network.modules() if hasattr(m, "attn") and hasattr(m, "mlp")]:
            self._binarize_linear(block)
        if self.attention != "real":
            for attention in attentions(network):
                self._binarize_attention(attention)
            _calibrate(network, example)
        return WithMaps(network, always=False).train()

    def _binarize_linear(self, block: nn.Module) -> None:
        for name, layer in list(block.named_modules()):
            if isinstance(layer, nn.Linear):
                replace(block, name, self._binary(layer))

    def _binary(self, layer: nn.Linear) -> nn.Module:
        if not self.bias:
            layer.bias = None  # type: ignore[assignment]
        signs = nn.Identity() if self.attention == "real" else Sign(Polynomial())
        binary = BinaryLinear(layer, lambda w: ShortScale(), shift=False, activation=signs)
        binary.method = type(self).__name__
        return binary

    def _binarize_attention(self, attention: Any) -> None:
        heads, width = attention.heads, attention.qkv.in_features // attention.heads
        offset = "released" if self.offset == "released" else 0.0
        for part in ("q_act", "k_act", "v_act"):
            quantizer = HeadBinarizer(heads, self.scale, offset)
            norm = nn.LayerNorm(width) if part != "v_act" else nn.Identity()
            setattr(attention, part, nn.Sequential(norm, quantizer))
        if self.attention == "scores":
            attention.softmax = nn.Identity()
            attention.attn_act = BooleanScores(heads, self.scale)
        else:
            offset = offset if self.offset == "released" else -1.0
            attention.attn_act = HeadBinarizer(heads, self.scale, offset, is_map=True)
        attention.weight_bits = attention.activation_bits = 1  # its two products, for the counter

    def parameter_groups(self, model: nn.Module) -> list[dict]:
        """Adam moves all parameters by about the same amount; scales start between 2/N and about
        2, so each has its start as learning rate factor. No decay on scales and offsets."""
        scales = [m for m in model.modules() if isinstance(m, HeadBinarizer)]
        learned = [m for m in scales if m.scale == "learned"]
        apart = {id(p) for m in scales for p in (m.alpha, m.z)}
        rest = [p for p in model.parameters() if p.requires_grad and id(p) not in apart]
        groups: list[dict] = [{"params": rest}]
        if learned:
            groups.append({"params": [m.z for m in learned], "weight_decay": 0.0})
        for m in learned:
            start = float(m.positive_alpha().detach().mean())
            groups.append({"params": [m.alpha], "lr_scale": start, "weight_decay": 0.0})
        return groups

    def hooks(self) -> tuple[Hook, ...]:
        """Nothing happens between steps."""
        return ()

    def deploy(self, model: nn.Module) -> nn.Module:
        """The trained network with its linear layers on packed bits (binary.deploy), its
        quantizers as comparisons.

        The products of attention stay floating-point products of few values (attention_bits).
        """
        from compactnets.binary.deploy import deploy  # here: kernels must not enter training's key

        network = deploy(model.network if isinstance(model, WithMaps) else model, self)
        for name, module in list(network.named_modules()):
            if isinstance(module, Kept):
                replace(network, name, module.inner)
            elif type(module) is HeadBinarizer:
                replace(network, name, TwoLevels(module))
        return network


def head_binarizers(network: nn.Module) -> list[HeadBinarizer]:
    """All head-wise quantizers, q, k, v and map of each block in order."""
    return [m for m in network.modules() if isinstance(m, HeadBinarizer)]


@torch.no_grad()
def _calibrate(network: nn.Module, example: Tensor) -> None:
    """One pass; each quantizer starts from what it is given by those before it."""

    def start(quantizer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        quantizer.calibrate(inputs[0])  # type: ignore[operator]

    handles = [m.register_forward_pre_hook(start) for m in head_binarizers(network)]
    try:
        network.eval()(example)
    finally:
        for handle in handles:
            handle.remove()
