"""Which channel of a 1-bit layer to compute from which: spanning trees over Hamming distances.

A kernel is a row of signs. Two kernels that differ in d of n places give outputs that differ by
twice the inputs at those places, so a channel costs d one-bit products once its parent is known.
MST-compression, arXiv:2308.13735; the identity is derived on the page.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from compactnets.binary.ste import hard_sign

_NEVER = np.iinfo(np.int64).max


def kernels_of(weight: Tensor) -> np.ndarray:
    """Signs of a layer's weight (N, ...) -> (N, n) int64 of -1 and +1; sign(0) = +1."""
    if weight.ndim < 2 or weight.numel() == 0:
        raise ValueError(f"weight must be (out, ...), not empty, got {tuple(weight.shape)}")
    return hard_sign(weight.detach()).flatten(1).cpu().numpy().astype(np.int64)


def hamming(kernels: np.ndarray) -> np.ndarray:
    """d_ij = (n - <w_i, w_j>) / 2, the places in which kernels differ: (N, n) -> (N, N) int64."""
    rows = kernels.astype(np.float32)  # sums stay exact below 2^24
    return (kernels.shape[1] - (rows @ rows.T).astype(np.int64)) // 2


@dataclass(frozen=True, eq=False)
class Tree:
    """A rooted spanning tree of a layer's output channels.

    parent (N,) int64, -1 at the root; distance (N,) int64 to the parent, 0 at the root; order: the
    channels breadth first; level (N,): edges from the root. negated (N,) bool: reuses its parent
    with the opposite sign (no tree of the paper does).
    """

    parent: np.ndarray
    distance: np.ndarray
    order: Sequence[int] = field(repr=False)
    level: np.ndarray = field(repr=False)
    negated: np.ndarray = field(repr=False)

    @property
    def weight(self) -> int:
        """Sum of the distances along the edges."""
        return int(self.distance.sum())

    @property
    def depth(self) -> int:
        """Edges from the root to the farthest channel; depth + 1 stages follow each other."""
        return int(self.level.max())

    def cost(self, n: int) -> int:
        """One-bit products per output position: the root in full, every other its differences."""
        return n + self.weight

    def ratio(self, n: int) -> float:
        """How many times fewer products than N n."""
        return len(self.parent) * n / self.cost(n)

    def stored_bits(self, n: int, *, wired: bool) -> int:
        """Bits that the layer's kernels take along the tree.

        wired: places are wires, only signs are stored. Else each place is an index of
        ceil(log2 n) bits (its sign is implied: the opposite of the parent's) and each channel
        names its parent.
        """
        if wired:
            return n + self.weight
        channels = len(self.parent)
        return n + self.weight * _index_bits(n) + channels * _index_bits(channels)


def _index_bits(values: int) -> int:
    return (values - 1).bit_length()  # ceil(log2(values))


def rooted(parent: np.ndarray, root: int, distances: np.ndarray) -> Tree:
    """The tree with these edges, whatever their direction, hung up at a root."""
    order, above = _walk(_neighbors(parent), root)
    level = np.zeros(len(parent), dtype=np.int64)
    for j in order[1:]:
        level[j] = level[above[j]] + 1
    children = above >= 0
    distance = np.where(children, distances[np.arange(len(parent)), above], 0)
    return Tree(above, distance, order, level, np.zeros(len(parent), dtype=bool))


def _neighbors(parent: np.ndarray) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in parent]
    for j, i in enumerate(parent.tolist()):
        if i >= 0:
            found[i].append(j)
            found[j].append(i)
    return found


def _walk(neighbors: list[list[int]], root: int) -> tuple[list[int], np.ndarray]:
    """Vertices breadth first from the root, and what each was reached from (-1 at the root)."""
    above = np.full(len(neighbors), -1, dtype=np.int64)
    order = [root]
    for i in order:  # grows as it goes
        for j in neighbors[i]:
            if j != above[i]:
                above[j] = i
                order.append(j)
    if len(order) != len(neighbors):
        raise ValueError(f"the edges join {len(order)} of {len(neighbors)} channels: no tree")
    return order, above


def longest_path(parent: np.ndarray) -> list[int]:
    """Channels along a longest path of the tree; its edges are the diameter."""
    neighbors = _neighbors(parent)
    end = _walk(neighbors, 0)[0][-1]  # a vertex farthest from anywhere is an end
    order, above = _walk(neighbors, end)
    path = [order[-1]]
    while path[-1] != end:
        path.append(int(above[path[-1]]))
    return path


def centered(parent: np.ndarray, distances: np.ndarray) -> Tree:
    """The tree hung up at its center: depth = half the diameter, rounded up, the least there is."""
    path = longest_path(parent)
    return rooted(parent, path[(len(path) - 1) // 2], distances)


def prim(distances: np.ndarray, roots: Sequence[int]) -> np.ndarray:
    """Parents (roots, N) of one minimum spanning tree grown from each root, -1 at the root.

    Of equally close channels the one whose parent is less deep comes first, then the lower index.
    """
    size, each = len(distances), np.arange(len(roots))
    parent = np.full((len(roots), size), -1, dtype=np.int64)
    depth = np.zeros_like(parent)
    key = np.full_like(parent, _NEVER)  # N * distance + depth of the parent, _NEVER once reached
    reached = np.zeros(parent.shape, dtype=bool)
    new = np.asarray(roots, dtype=np.int64)
    for _ in range(size - 1):
        reached[each, new] = True
        key[each, new] = _NEVER
        offer = size * distances[new] + depth[each, new][:, None]
        closer = (offer < key) & ~reached
        np.copyto(key, offer, where=closer)
        np.copyto(parent, new[:, None], where=closer)
        new = key.argmin(axis=1)
        depth[each, new] = depth[each, parent[each, new]] + 1
    return parent


def minimum_spanning_tree(distances: np.ndarray, roots: Sequence[int] | None = None) -> Tree:
    """A shallow one of the minimum spanning trees.

    Prim from every root (or those given), each tree hung up at its center, the shallowest kept. A
    heuristic in depth only: all of them have the least weight. distances (N, N) integers,
    symmetric. ValueError for any other shape.
    """
    if distances.ndim != 2 or not len(distances) == distances.shape[1] > 0:
        raise ValueError(f"distances must be (N, N), got {distances.shape}")
    grown = prim(distances, range(len(distances)) if roots is None else roots)
    return min((centered(parent, distances) for parent in grown), key=lambda tree: tree.depth)


def medoid(distances: np.ndarray) -> int:
    """The channel with the least sum of distances to the others; of equals the first."""
    return int(distances.sum(axis=1).argmin())


def star(distances: np.ndarray, center: int | None = None) -> Tree:
    """Every channel from one, by default the medoid: depth 1."""
    center = medoid(distances) if center is None else center
    parent = np.full(len(distances), center)
    parent[center] = -1
    return rooted(parent, center, distances)


def chain(distances: np.ndarray) -> Tree:
    """Every channel from the one before it, in natural order."""
    return rooted(np.arange(len(distances)) - 1, 0, distances)


def random_tree(distances: np.ndarray, generator: torch.Generator) -> Tree:
    """Channels in random order, each from a random one before it."""
    size = len(distances)
    order = torch.randperm(size, generator=generator).numpy()
    before = torch.rand(size, generator=generator, dtype=torch.float64).numpy()
    parent = np.full(size, -1, dtype=np.int64)
    for k in range(1, size):
        parent[order[k]] = order[int(before[k] * k)]
    return rooted(parent, int(order[0]), distances)


def complement_tree(distances: np.ndarray, n: int) -> Tree:
    """The tree that may also reuse a negated parent, y_j = -y_i + ..., at cost n - d: an extension,
    not the paper's."""
    either = np.minimum(distances, n - distances)
    np.fill_diagonal(either, 0)
    tree = minimum_spanning_tree(either)
    full = distances[np.arange(len(distances)), tree.parent]
    negated = (tree.parent >= 0) & (full > tree.distance)
    return Tree(tree.parent, tree.distance, tree.order, tree.level, negated)


def tree_dots(patches: Tensor, kernels: np.ndarray, tree: Tree) -> tuple[Tensor, int]:
    """<w_j, a> for patches a (n, P) of integers along the tree: (N, P), and the products per patch.

    y_j = ±y_parent + 2 sum of w_jt a_t over the places t where w_j differs from ±w_parent.
    """
    y = patches.new_empty(len(kernels), patches.shape[1])
    products = 0
    for j in tree.order:
        parent = int(tree.parent[j])
        if parent < 0:
            places, start, factor = np.arange(kernels.shape[1]), 0, 1
        else:
            reused = -1 if tree.negated[j] else 1
            places = np.flatnonzero(kernels[j] != reused * kernels[parent])
            start, factor = reused * y[parent], 2
        signs = torch.from_numpy(kernels[j, places]).to(patches)
        y[j] = start + factor * (signs[:, None] * patches[torch.from_numpy(places)]).sum(0)
        products += len(places)
    return y, products


def tree_conv2d(
    signs: Tensor, weight: Tensor, tree: Tree, stride: int = 1, padding: int = 0
) -> tuple[Tensor, int]:
    """conv2d(signs, sign(weight)) along the tree, in integers: the reference of the compiled form.

    signs (B, C, H, W) of -1 and +1, any dtype; padding adds zeros. Returns int64 (B, N, H', W') and
    the one-bit products per output position.
    """
    kernel_size = tuple(weight.shape[2:])
    columns = F.unfold(signs.double(), kernel_size, padding=padding, stride=stride).long()
    batch, n, positions = columns.shape
    y, products = tree_dots(columns.movedim(1, 0).reshape(n, -1), kernels_of(weight), tree)
    height = (signs.shape[2] + 2 * padding - kernel_size[0]) // stride + 1
    y = y.view(len(y), batch, height, positions // height).movedim(0, 1)
    return y.contiguous(), products
