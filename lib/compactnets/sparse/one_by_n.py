"""1xN: blocks of N output kernels that share an input channel (arXiv:2105.14713).

net = train.fit(model, images, recipe, seed=0).model
run = train.fit(net, images, short, seed=0, method=OneByN(n=4, sparsity=0.5))
fast = OneByN(n=4).deploy(run.model)  # the same function from packed blocks
"""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from compactnets import seeds
from compactnets.method import Hook
from compactnets.sparse.convert import with_masks
from compactnets.sparse.deploy import deploy
from compactnets.sparse.masks import block_mask, filter_order, random_block_mask
from compactnets.sparse.rearrange import rearrangeable


@dataclass(frozen=True)
class OneByN:
    """Masks of 1xn blocks, computed once from the trained network; then the survivors train.

    n: outputs of a block; it should be at most a quarter of a layer's outputs, else the pattern
    is close to dropping whole filters or inputs; the kernels that deploy runs on go up to 16.
    sparsity: p, the share of blocks that goes in
    every layer. rearrange: filters are sorted by L1 norm first, where that leaves the function
    unchanged; during training only the mask shows it, the weights move at deployment.
    """

    n: int = 4
    sparsity: float = 0.5
    rearrange: bool = True

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n must be at least 1, got {self.n}")
        if not 0 <= self.sparsity < 1:
            raise ValueError(f"sparsity must lie in [0, 1), got {self.sparsity}")

    def prepare(self, model: nn.Module, example: Tensor) -> nn.Module:
        """A copy with masks on all prunable layers whose outputs n divides."""
        sortable = rearrangeable(model) if self.rearrange else ()

        def make(name: str, layer: nn.Conv2d) -> tuple[Tensor, Tensor | None]:
            rho = filter_order(layer.weight) if name in sortable else None
            return block_mask(layer.weight, self.n, self.sparsity, rho), rho

        return with_masks(model, make, self.n)

    def hooks(self) -> Iterable[Hook]:
        """None: the masks are fixed and the layers apply them."""
        return ()

    def deploy(self, model: nn.Module) -> nn.Module:
        """The sorted network on the kernel of 1xn blocks, normalizations folded in."""
        return deploy(model, self.n)


@dataclass(frozen=True)
class RandomOneByN:
    """The random baseline: which 1xn blocks go is drawn, not scored.

    replacement: as in lmbxmu/1xN, whose draws may repeat, so that a share of about 1 - exp(-p) goes
    in place of p. seed: of the draws, another stream for every layer.
    """

    n: int = 4
    sparsity: float = 0.5
    replacement: bool = False
    seed: int = 0

    def prepare(self, model: nn.Module, example: Tensor) -> nn.Module:
        """A copy with masks on all prunable layers whose outputs n divides."""

        def make(name: str, layer: nn.Conv2d) -> tuple[Tensor, None]:
            draw = seeds.generator(self.seed, "blocks", name)
            weight = layer.weight
            return random_block_mask(weight, self.n, self.sparsity, draw, self.replacement), None

        return with_masks(model, make, self.n)

    def hooks(self) -> Iterable[Hook]:
        """None: the masks are fixed and the layers apply them."""
        return ()

    def deploy(self, model: nn.Module) -> nn.Module:
        """The network on the kernel of 1xn blocks, normalizations folded in."""
        return deploy(model, self.n)
