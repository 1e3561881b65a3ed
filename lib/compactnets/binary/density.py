"""Which channels RBONN's recurrence acts on: the paper's density gate, and what the code does.

Recurrent Bilinear Optimization for Binary Neural Networks, arXiv:2209.01542; equation numbers as in
rbonn.py. w (out, ...): latent weights, alpha (out,): scales. Every mask is bool (out,).
"""

import torch
from torch import Tensor


def dense(x: Tensor, tau: float) -> Tensor:
    """D of eq 3.134: True for all but the int(n tau) smallest of the n entries of x, bool (n,)."""
    ranks = x.argsort(stable=True).argsort()  # 0-based, ascending: ranking - 1
    return ranks >= int(len(x) * tau)


def density_mask(w: Tensor, alpha: Tensor, tau: float) -> Tensor:
    """The paper's gate, eq 3.133, (out,): A_ii is dense and the filter's l1 norm is not."""
    norms = w.flatten(1).abs().sum(1)
    return dense(-alpha, tau) & ~dense(norms, tau)  # ranks of -alpha are those of 1 / alpha


def rank_mask(alpha: Tensor, tau: float) -> Tensor:
    """The m = int(n (1 - tau)) channels of the smallest scales: what the released sort is for."""
    return alpha.argsort(stable=True).argsort() < int(len(alpha) * (1 - tau))


def index_mask(alpha: Tensor, tau: float) -> Tensor:
    """The released mask: channel k is on if the k-th smallest scale is that of one of channels
    0 .. m - 1. The indices that a sort returns are compared in place of ranks.
    """
    return alpha.argsort(stable=True) < int(len(alpha) * (1 - tau))


def random_mask(n: int, tau: float, generator: torch.Generator) -> Tensor:
    """A random set of m = int(n (1 - tau)) of n channels."""
    return torch.randperm(n, generator=generator) < int(n * (1 - tau))
