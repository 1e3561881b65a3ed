"""Uniform quantization between two bounds, with the gradient that each bound gets.

The formula of DDTB (arXiv:2203.03844) as its released code computes it; the gradients are derived
from it. Weights use the same formula with fixed bounds.
"""

import torch
from torch import Tensor

from compactnets.quant.quantizer import Grid, check_bits

SMALLEST_RANGE = 1e-3  # of upper - lower, in units of x: the step must not become 0


def steps_per_unit(upper: Tensor, lower: Tensor, bits: int) -> Tensor:
    """s = (2^bits - 1) / (upper - lower), of the bounds' shape; a range below 1e-3 counts as 1e-3.

    ValueError unless bits is 2 to 8.
    """
    return (2 ** check_bits(bits) - 1) / (upper - lower).clamp_min(SMALLEST_RANGE)


def clip(x: Tensor, upper: Tensor, lower: Tensor) -> Tensor:
    """max(min(x, upper), lower), a new tensor."""
    return torch.minimum(x, upper).maximum(lower)  # a third of the time of clamp with tensors


def gradients(
    grad: Tensor, x: Tensor, x_hat: Tensor, upper: Tensor, lower: Tensor, error_term: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """From the gradient of a loss at x_hat: its gradients at x, at upper and at lower.

        dx_hat/dx     = 1[lower < x < upper]
        dx_hat/dupper = 1[x > upper] + (x_hat - c) / (upper - lower),   c = clip(x)
        dx_hat/dlower = 1[x < lower] - (x_hat - c) / (upper - lower)

    The last two are summed to the shape of a bound. error_term=False leaves the indicators alone,
    as in PACT. Where x equals a bound and no derivative exists, it passes to x.
    """
    c = clip(x, upper, lower)
    outside = (x - c).sign_()  # 1 above, -1 below, 0 between
    at_x = grad * (1 - outside.abs())  # arithmetic: masks of bool cost three times as much
    above_less_below = (grad * outside).sum_to_size(upper.shape)
    at_upper = (grad * outside.clamp_min_(0)).sum_to_size(upper.shape)
    at_lower = at_upper - above_less_below
    if error_term:
        error = (grad * c.neg_().add_(x_hat)).sum_to_size(upper.shape)
        error = error / (upper - lower).clamp_min(SMALLEST_RANGE)
        at_upper, at_lower = at_upper + error, at_lower - error
    return at_x, at_upper, at_lower


class _Affine(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, upper: Tensor, lower: Tensor, bits: int, error_term: bool) -> Tensor:
        s = steps_per_unit(upper, lower, bits)
        return clip(x, upper, lower).mul_(s).round_().mul_(1 / s)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, upper, lower, _, ctx.error_term = inputs
        ctx.save_for_backward(x, output, upper, lower)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, x_hat, upper, lower = ctx.saved_tensors
        return *gradients(grad, x, x_hat, upper, lower, ctx.error_term), None, None


def affine(x: Tensor, upper: Tensor, lower: Tensor, bits: int, error_term: bool = True) -> Tensor:
    """x clipped to [lower, upper], then rounded to multiples of (upper - lower) / (2^bits - 1).

        c = max(min(x, upper), lower),  z = round(s lower) + 2^(bits-1),  q = round(s c - z),
        x_hat = (q + z) / s = round(s c) / s,   since the integer z passes through the rounding.

    At most 2^bits levels, 0 among them if lower <= 0 <= upper; the outermost lie within half a
    step of the bounds. Where s * lower is half an integer, as for every symmetric pair, rounding
    ties to even makes one level more or one less. Floating-point x; bounds are scalar tensors, or
    (N, 1, 1, 1) for one pair per image. Gradients: see `gradients`. ValueError unless bits is 2 to
    8.
    """
    return _Affine.apply(x, upper, lower, bits, error_term)


def affine_grid(upper: Tensor, lower: Tensor, bits: int) -> Grid:
    """The same levels as codes 0 .. 2^bits - 1; real zero has the code -round(s lower).

    Bounds scalar, or (N, 1, 1, 1): one grid per image. An extra level shares the highest code.
    """
    s = steps_per_unit(upper, lower, bits).detach()
    zero = -(lower * s).round().detach().int()
    if s.dim():
        s, zero = s.flatten(), zero.flatten()
    return Grid(s, zero, 2**bits - 1)
