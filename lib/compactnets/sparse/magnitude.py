"""Magnitude pruning, layer by layer: the two ends of the line on which 1xN lies, and its middle."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from compactnets.method import Hook
from compactnets.sparse import masks
from compactnets.sparse.convert import with_masks
from compactnets.sparse.deploy import deploy

Granularity = Literal["weight", "kernel", "filter"]
_MASKS = {
    "weight": masks.weight_mask,
    "kernel": masks.kernel_mask,
    "filter": masks.filter_mask,
}


@dataclass(frozen=True)
class Magnitude:
    """Drops the smallest weights, kernels or filters (L1 norm) of every layer, share `sparsity`.

    The masks are fixed; what remains is trained on. n: layers whose outputs n does not divide stay
    dense, so that a table compares equal sets of layers. "filter" only zeroes outputs, as the
    baseline of lmbxmu/1xN does: the next layer keeps its inputs.
    """

    granularity: Granularity = "weight"
    sparsity: float = 0.5
    n: int = 1

    def __post_init__(self) -> None:
        if self.granularity not in _MASKS:
            raise ValueError(
                f"granularity must be one of {tuple(_MASKS)}, got {self.granularity!r}"
            )
        if self.n < 1:
            raise ValueError(f"n must be at least 1, got {self.n}")
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must lie in [0, 1), got {self.sparsity}")

    def prepare(self, model: nn.Module, example: Tensor) -> nn.Module:
        """A copy with masks on all prunable layers."""
        mask = _MASKS[self.granularity]
        return with_masks(model, lambda _, m: (mask(m.weight, self.sparsity), None), self.n)

    def hooks(self) -> Iterable[Hook]:
        """None: the masks are fixed and the layers apply them."""
        return ()

    def deploy(self, model: nn.Module) -> nn.Module:
        """The network on the CSR kernel, normalizations folded in."""
        return deploy(model, 1)
