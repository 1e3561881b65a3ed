"""Rounding with a straight-through gradient: what every uniform quantizer is made of."""

from torch import Tensor


def round_ste(x: Tensor) -> Tensor:
    """x rounded to the nearest integer, ties to even; the gradient passes unchanged.

    Same shape and dtype as x. Every term but the rounding itself stays differentiable.
    """
    return x + (x.round() - x).detach()
