"""Spanning trees of binary kernels: exact reuse, costs, bounds; the penalty and the method."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from compactnets import kernels, seeds
from compactnets.binary import mst, trees
from compactnets.binary.convert import binary_layers
from compactnets.binary.deploy import deploy as deploy_dense
from compactnets.binary.ste import hard_sign, sign
from compactnets.binary.tree_deploy import along_tree
from compactnets.binary.vgg_mini import vgg_mini
from compactnets.data import ImageSet
from compactnets.method import Method
from compactnets.train import Recipe, fit

# A busy machine is no failure.
calm = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
SEEDS = st.integers(0, 2**16)
SIZES = st.tuples(st.integers(1, 9), st.integers(1, 40))


def random_kernels(seed, channels, n, flipped=0.5):
    """A common kernel with a share of flipped signs; 0.5 is independent kernels."""
    generator = seeds.generator(seed, "kernels")
    common = torch.rand(n, generator=generator) < 0.5
    flips = torch.rand(channels, n, generator=generator) < flipped
    return (common ^ flips).numpy().astype(np.int64) * 2 - 1


def mst_of(w):
    return trees.minimum_spanning_tree(trees.hamming(w))


def all_trees(w):
    d = trees.hamming(w)
    return {
        "minimum": trees.minimum_spanning_tree(d),
        "star": trees.star(d),
        "chain": trees.chain(d),
        "random": trees.random_tree(d, seeds.generator(0, "tree")),
        "complement": trees.complement_tree(d, w.shape[1]),
    }


@calm
@given(seed=SEEDS, size=SIZES)
def test_distances_count_differing_places_and_obey_the_triangle_inequality(seed, size):
    w = random_kernels(seed, *size)
    d = trees.hamming(w)
    assert np.array_equal(d, (w[:, None] != w[None]).sum(-1))
    assert (d[:, None] <= d[:, :, None] + d[None]).all()


@calm
@given(
    seed=SEEDS,
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    size=st.integers(3, 7),
)
def test_every_tree_gives_the_integers_of_the_ordinary_convolution(
    seed, kernel, stride, padding, size
):
    generator = seeds.generator(seed, "layer")
    weight = torch.randn(5, 3, kernel, kernel, generator=generator)
    x = hard_sign(torch.randn(2, 3, size, size, generator=generator))
    expected = F.conv2d(x, hard_sign(weight), stride=stride, padding=padding)
    packed = kernels.BinaryConv2d(weight, stride=stride, padding=padding)(x)
    for name, tree in all_trees(trees.kernels_of(weight)).items():
        y, products = trees.tree_conv2d(x, weight, tree, stride, padding)
        assert torch.equal(y.float(), expected), name
        assert torch.equal(y.float(), packed), name
        assert products == tree.cost(3 * kernel * kernel), name


@calm
@given(seed=SEEDS, size=SIZES, flipped=st.sampled_from([0.05, 0.2, 0.5]))
def test_no_tree_is_lighter_than_the_minimum_and_every_center_bounds_it(seed, size, flipped):
    w = random_kernels(seed, *size, flipped)
    d = trees.hamming(w)
    least = mst_of(w).weight
    for center in range(len(w)):
        assert least <= trees.star(d, center).weight == d[center].sum()
    assert least <= min(trees.chain(d).weight, all_trees(w)["random"].weight)
    assert all_trees(w)["complement"].weight <= least
    for m in (random_kernels(seed + 1, 1, size[1])[0], np.where(w.sum(0) >= 0, 1, -1)):
        assert least <= 2 * (1 - 1 / len(w)) * (w != m).sum()


@calm
@given(seed=SEEDS, size=st.tuples(st.integers(2, 12), st.integers(2, 20)))
def test_the_weight_is_scipys_and_the_same_from_every_root(seed, size):
    from scipy.sparse.csgraph import minimum_spanning_tree

    w = random_kernels(seed, *size)
    d = trees.hamming(w)
    oracle = minimum_spanning_tree(d + 1).sum() - (len(w) - 1)  # 0 would be no edge there
    grown = [trees.rooted(p, r, d) for r, p in enumerate(trees.prim(d, range(len(w))))]
    assert {tree.weight for tree in grown} == {int(oracle)}
    assert all(tree.order[0] == root for root, tree in enumerate(grown))


@calm
@given(seed=SEEDS, size=st.tuples(st.integers(1, 12), st.integers(1, 20)))
def test_the_center_is_the_shallowest_root_of_a_tree(seed, size):
    w = random_kernels(seed, *size)
    d = trees.hamming(w)
    (parent,) = trees.prim(d, [0])
    depths = [trees.rooted(parent, root, d).depth for root in range(len(w))]
    tree = trees.centered(parent, d)
    diameter = len(trees.longest_path(parent)) - 1
    assert tree.depth == min(depths) == -(-diameter // 2)
    assert max(depths) == diameter


def test_ties_are_broken_towards_shallow_parents():
    d = np.ones((6, 6), dtype=np.int64) - np.eye(6, dtype=np.int64)  # every tree is minimal
    assert mst_of(2 * np.eye(6, dtype=np.int64) - 1).depth == 1
    assert trees.minimum_spanning_tree(d).depth == 1


def test_order_lists_parents_first_and_levels_count_edges():
    tree = mst_of(random_kernels(3, 20, 50))
    place = {j: k for k, j in enumerate(tree.order)}
    assert sorted(place) == list(range(20))
    for j, parent in enumerate(tree.parent):
        if parent >= 0:
            assert place[parent] < place[j]
            assert tree.level[j] == tree.level[parent] + 1
    assert tree.parent[tree.order[0]] == -1 and tree.distance[tree.order[0]] == 0


def test_the_worked_example_costs_134_in_place_of_288():
    tree = trees.star(np.where(np.eye(8, dtype=bool), 0, 14))
    assert (tree.weight, tree.cost(36)) == (98, 134)
    assert tree.ratio(36) == pytest.approx(2.149, abs=5e-4)
    assert tree.stored_bits(36, wired=True) == 134
    assert tree.stored_bits(36, wired=False) == 36 + 98 * 6 + 8 * 3


@pytest.mark.parametrize(("n", "mean", "saves"), [(576, 57, True), (576, 58, False)])
def test_stored_places_pay_only_below_one_difference_in_ten(n, mean, saves):
    d = np.where(np.eye(64, dtype=bool), 0, mean)
    added = trees.star(d).stored_bits(n, wired=False) - n - 64 * 6
    assert (added < 63 * n) == saves


@pytest.mark.parametrize(
    ("channels", "n", "ratio"), [(16, 144, 2.100), (32, 288, 2.165), (64, 576, 2.160)]
)
def test_random_kernels_save_just_over_half_and_a_star_just_under(channels, n, ratio):
    draws = [random_kernels(seed, channels, n) for seed in range(3)]
    assert np.mean([mst_of(w).ratio(n) for w in draws]) == pytest.approx(ratio, abs=0.05)
    assert all(trees.star(trees.hamming(w)).ratio(n) < 2.01 for w in draws)


@pytest.mark.parametrize(
    ("flipped", "tree", "star"),
    [(0.4, 2.26, 2.09), (0.3, 2.58, 2.44), (0.2, 3.34, 3.17), (0.1, 6.09, 5.82)],
)
def test_correlated_kernels_have_the_ratios_of_the_plan(flipped, tree, star):
    w = random_kernels(5, 64, 576, flipped)
    assert mst_of(w).ratio(576) == pytest.approx(tree, rel=0.05)
    assert trees.star(trees.hamming(w)).ratio(576) == pytest.approx(star, rel=0.05)


def test_a_negated_kernel_has_the_complement_of_its_distances():
    w = random_kernels(1, 6, 30)
    negated = w.copy()
    negated[2] *= -1
    before, after = trees.hamming(w), trees.hamming(negated)
    others = np.arange(6) != 2
    assert np.array_equal(after[2, others], 30 - before[2, others])
    w[1] = -w[0]
    assert trees.complement_tree(trees.hamming(w), 30).weight < mst_of(w).weight


def test_zero_weights_count_as_plus_one_and_empty_ones_are_refused():
    assert trees.kernels_of(torch.tensor([[0.0, -0.0, -1.0]])).tolist() == [[1, 1, -1]]
    for bad in (torch.zeros(3), torch.zeros(0, 2)):
        with pytest.raises(ValueError, match="weight must be"):
            trees.kernels_of(bad)
    with pytest.raises(ValueError, match="distances must be"):
        trees.minimum_spanning_tree(np.zeros((2, 3), dtype=np.int64))
    with pytest.raises(ValueError, match="no tree"):
        trees.rooted(np.array([-1, 0, 3, 2]), 0, np.zeros((4, 4), dtype=np.int64))


@pytest.mark.parametrize("reading", ["medoid", "majority", "tree"])
def test_the_pull_is_the_gradient_of_the_penalty(reading):
    w = 0.8 * torch.randn(7, 30, dtype=torch.float64, generator=seeds.generator(0, reading))
    target = torch.from_numpy(mst.targets(trees.kernels_of(w), reading).copy()).to(w)
    leaf = w.clone().requires_grad_()
    mst.penalty(sign(leaf), target).backward()
    torch.testing.assert_close(mst.penalty_gradient(w, target), leaf.grad)
    assert (w.abs() > 1).any()  # the window is met


def test_the_penalty_is_the_mean_distance_to_the_target():
    w = random_kernels(4, 6, 20)
    d = trees.hamming(w)
    b = torch.from_numpy(w).double()
    value = {
        reading: float(mst.penalty(b, torch.from_numpy(mst.targets(w, reading).copy())))
        for reading in ("medoid", "majority", "tree")
    }
    assert value["medoid"] == pytest.approx(trees.star(d).weight / 120)
    assert value["majority"] == pytest.approx((w != np.where(w.sum(0) >= 0, 1, -1)).sum() / 120)
    assert value["tree"] == pytest.approx(mst_of(w).weight / 120)


def test_effective_rank_tells_equal_kernels_from_orthogonal_ones():
    assert mst.effective_rank(np.ones((4, 9))) == pytest.approx(1)
    assert mst.effective_rank(np.array([[1, 1, 1, 1], [1, -1, 1, -1]])) == pytest.approx(2)


def toy_images():
    generator = seeds.generator(0, "toy")
    images = torch.randint(0, 256, (64, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (64,), generator=generator)
    return ImageSet(
        name="toy",
        split="train",
        images=images,
        labels=labels,
        classes=tuple("0123456789"),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        source="embedded",
    )


def trained(reading, strength, epochs=4):
    with seeds.scoped(0, "init"):
        network = vgg_mini(4, stem_stride=2)
    recipe = Recipe(epochs=epochs, batch=16, optimizer="adam", lr=5e-2)
    method = mst.MSTCompression(reading, strength)
    return fit(network, toy_images(), recipe, seed=0, method=method, cache=False)


@pytest.mark.parametrize("reading", ["medoid", "majority", "tree"])
def test_a_strong_penalty_draws_the_kernels_of_every_layer_together(reading):
    x = torch.zeros(1, 3, 32, 32)
    plain, pulled = (
        mst.network_ratio(mst.layer_costs(trained(reading, s).model, x)) for s in (0.0, 300.0)
    )
    assert pulled > 1.5 * plain


def test_training_notes_gradients_without_the_pull_and_can_be_repeated():
    first, again = trained("medoid", 5.0, 1), trained("medoid", 5.0, 1)
    for a, b in zip(first.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
    noted = first.history[0]
    names = [name for name, _ in binary_layers(first.model)]
    assert list(noted["median gradient"]) == list(noted["distance to target"]) == names


def test_the_deployed_network_runs_along_trees_and_equals_the_packed_one():
    method = mst.MSTCompression()
    assert isinstance(method, Method)
    network = vgg_mini(6, stem_stride=2)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    model = method.prepare(network, torch.zeros(1, 3, 32, 32)).eval()
    x = torch.randn(3, 3, 32, 32, generator=seeds.generator(0, "images"))
    with torch.inference_mode():
        fast, packed = method.deploy(model), deploy_dense(model)
        assert torch.equal(fast(x), packed(x))
    assert sum(isinstance(m, kernels.TreeConv2d) for m in fast.modules()) == 3
    assert all(torch.equal(network.state_dict()[k], v) for k, v in before.items())


def test_costs_of_a_network_are_those_of_its_layers():
    model = mst.MSTCompression().prepare(vgg_mini(8), torch.zeros(1, 3, 32, 32))
    costs = mst.layer_costs(model, torch.zeros(2, 3, 32, 32))
    assert [(c.channels, c.n, c.positions) for c in costs] == [
        (8, 72, 1024),
        (16, 72, 256),
        (16, 144, 256),
    ]
    assert sum(c.dense for c in costs) == 8 * 72 * 1024 + 16 * 72 * 256 + 16 * 144 * 256
    assert all(c.along_tree == c.tree.cost(c.n) * c.positions for c in costs)
    assert model.training


def test_what_no_tree_can_serve_is_refused():
    x = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match="reading must be one of"):
        mst.MSTCompression("median")  # type: ignore[arg-type]
    for strength in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="strength"):
            mst.MSTCompression(strength=strength)
    grouped = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 4, 3, groups=2, bias=False)
    )
    with pytest.raises(ValueError, match="grouped"):
        mst.MSTCompression().prepare(grouped, x)
    with pytest.raises(ValueError, match="grouped"):
        along_tree(kernels.BinaryConv2d(torch.ones(4, 2, 3, 3), groups=2))
    with pytest.raises(ValueError, match="no layer to binarize"):
        mst.MSTCompression().prepare(nn.Sequential(nn.Conv2d(3, 4, 3)), x)
    model = mst.MSTCompression().prepare(vgg_mini(4), x)
    with pytest.raises(ValueError, match="training mode"):
        mst.MSTCompression().deploy(model.train())
    with pytest.raises(ValueError, match="no 1-bit layer"):
        mst.layer_costs(vgg_mini(4), x)
    with pytest.raises(ValueError, match="width 0"):
        vgg_mini(0)
