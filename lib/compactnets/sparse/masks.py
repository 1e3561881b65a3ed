"""Which weights stay: masks of every granularity, from one weight at one sparsity.

A mask is boolean with the shape of its weight, (out, in, kh, kw) or (out, in); True = keep. At
sparsity p the int(p * B) smallest of B groups go (a floating-point floor, as in lmbxmu/1xN), of
equal scores the one that comes first. The groups are single weights, kernels (out, in), blocks of
n kernels that share an input (arXiv:2105.14713), or filters (out).
"""

import torch
from torch import Tensor


def removed(sparsity: float, groups: int) -> int:
    """int(p * B), how many of B groups go: one less than p * B where that just misses an integer
    (p = 0.7, B = 90 gives 62). ValueError unless 0 <= sparsity < 1."""
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity must lie in [0, 1), got {sparsity}")
    return int(sparsity * groups)


def keep_largest(score: Tensor, sparsity: float) -> Tensor:
    """Boolean of score's shape, False at its removed(sparsity, size) smallest entries."""
    mask = torch.ones(score.numel(), dtype=torch.bool, device=score.device)
    lowest = score.flatten().argsort(stable=True)[: removed(sparsity, score.numel())]
    mask[lowest] = False
    return mask.view(score.shape)


def _spread(mask: Tensor, weight: Tensor) -> Tensor:
    """A mask of kernels (out, in) or filters (out,) in the shape of the weight, a copy."""
    ones = (1,) * (weight.dim() - mask.dim())
    return mask.reshape(*mask.shape, *ones).expand_as(weight).clone()


def kernel_norms(weight: Tensor) -> Tensor:
    """(out, in): the L1 norm of each kernel."""
    return weight.detach().abs().flatten(2).sum(2) if weight.dim() > 2 else weight.detach().abs()


def block_scores(weight: Tensor, n: int) -> Tensor:
    """(out / n, in): s_ji, the L1 norm of the n kernels of block j that read input i.

    ValueError unless n divides out: a plain reshape would mix inputs.
    """
    _check_divides(n, weight)
    return kernel_norms(weight).unflatten(0, (-1, n)).sum(1)


def filter_order(weight: Tensor) -> Tensor:
    """rho, (out,) int64: filters by rising L1 norm over all inputs and taps; equal ones in order.

    The paper's figure sorts downwards; where n divides out, the groups are the same.
    """
    return weight.detach().abs().flatten(1).sum(1).argsort(stable=True)


def weight_mask(weight: Tensor, sparsity: float) -> Tensor:
    """Single weights by magnitude: unstructured pruning."""
    return keep_largest(weight.detach().abs(), sparsity)


def kernel_mask(weight: Tensor, sparsity: float) -> Tensor:
    """Kernels by L1 norm; the same as single weights for 1x1 convolutions."""
    return _spread(keep_largest(kernel_norms(weight), sparsity), weight)


def filter_mask(weight: Tensor, sparsity: float) -> Tensor:
    """Whole filters by L1 norm."""
    return _spread(keep_largest(weight.detach().abs().flatten(1).sum(1), sparsity), weight)


def block_mask(weight: Tensor, n: int, sparsity: float, order: Tensor | None = None) -> Tensor:
    """1xN: blocks of n consecutive outputs (in the order rho, if given) that share an input.

    The mask is in the order of `weight`: row o of the sorted layer is row order[o] here.
    ValueError unless n divides out and order is a permutation.
    """
    order = checked_order(order, weight)
    kept = keep_largest(block_scores(weight[order], n), sparsity)
    return _spread(_scattered(kept, n, order), weight)


def random_block_mask(
    weight: Tensor, n: int, sparsity: float, generator: torch.Generator, replacement: bool = False
) -> Tensor:
    """1xN with blocks drawn at random.

    replacement: as in lmbxmu/1xN, whose draws may repeat, so that only a share of about
    1 - exp(-p) goes in place of p.
    """
    shape = block_scores(weight, n).shape
    count = removed(sparsity, shape.numel())
    if replacement:
        gone = torch.randint(shape.numel(), (count,), generator=generator)
    else:
        gone = torch.randperm(shape.numel(), generator=generator)[:count]
    kept = torch.ones(shape.numel(), dtype=torch.bool, device=weight.device)
    kept[gone.to(weight.device)] = False
    return _spread(_scattered(kept.view(shape), n, checked_order(None, weight)), weight)


def checked_order(order: Tensor | None, weight: Tensor) -> Tensor:
    """The order of the weight's outputs, on its device; None is the natural one.

    ValueError unless it is a permutation.
    """
    natural = torch.arange(weight.shape[0], device=weight.device)
    if order is None:
        return natural
    order = order.to(weight.device)
    if sorted(order.tolist()) != natural.tolist():
        raise ValueError(f"order must be a permutation of {weight.shape[0]} outputs")
    return order


def _check_divides(n: int, weight: Tensor) -> None:
    if n < 1 or weight.shape[0] % n:
        raise ValueError(
            f"blocks of n={n} do not divide {weight.shape[0]} outputs: leave the layer dense or "
            f"choose another n"
        )


def _scattered(kept: Tensor, n: int, order: Tensor) -> Tensor:
    """Blocks (out / n, in) as kernels (out, in), row o of the sorted layer at order[o]."""
    mask = torch.empty(kept.shape[0] * n, kept.shape[1], dtype=torch.bool, device=kept.device)
    mask[order] = kept.repeat_interleave(n, 0)
    return mask


def is_blocked(mask: Tensor, n: int, order: Tensor | None = None) -> bool:
    """Do the n kernels of every block share one truth value, all their taps included?

    ValueError unless n divides out and order is a permutation.
    """
    _check_divides(n, mask)
    kernels = mask[checked_order(order, mask)].flatten(1).view(*mask.shape[:2], -1)
    blocks = kernels.unflatten(0, (-1, n)).movedim(1, -1).flatten(2)  # (out / n, in, taps * n)
    return bool((blocks == blocks[..., :1]).all())


def norm_kept(weight: Tensor, mask: Tensor) -> float:
    """Share of the L1 norm that the mask keeps, in [0, 1]: R of the paper over the whole norm."""
    magnitude = weight.detach().abs().double()
    return float((magnitude * mask).sum() / magnitude.sum())
