"""Masks of every granularity: counts, patterns, optimality, nesting, preserved norm."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from compactnets.sparse import masks


@st.composite
def weights(draw, kernels=((), (1, 1), (3, 3), (1, 3))) -> tuple[Tensor, int]:
    """A weight and a block size n that divides its outputs; small integers, so that sums are exact
    and ties abound, or normal values."""
    n = draw(st.sampled_from([1, 2, 3, 4, 8, 16]))
    shape = (n * draw(st.integers(1, 4)), draw(st.integers(1, 9)), *draw(st.sampled_from(kernels)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    weight = torch.randn(shape, generator=generator)
    return (weight.mul(2).round() if draw(st.booleans()) else weight), n


sparsities = st.floats(0, 1, exclude_max=True) | st.sampled_from([0.29, 0.5, 0.7, 0.8])


def groups(weight: Tensor, kind: str, n: int) -> list[tuple[float, list[tuple[int, ...]]]]:
    """(score, kernels (o, i) or weights (o, i, tap) of the group) by plain loops, in flat order."""
    outputs, inputs = weight.shape[:2]
    flat = weight.abs().double().reshape(outputs, inputs, -1).tolist()
    kernel = [[sum(taps) for taps in row] for row in flat]
    if kind == "weight":
        taps = range(len(flat[0][0]))
        every = [(o, i, t) for o in range(outputs) for i in range(inputs) for t in taps]
        return [(flat[o][i][t], [(o, i, t)]) for o, i, t in every]
    if kind == "filter":
        return [(sum(kernel[o]), [(o, i) for i in range(inputs)]) for o in range(outputs)]
    n = {"kernel": 1, "block": n}[kind]
    blocks = [([(j + k, i) for k in range(n)]) for j in range(0, outputs, n) for i in range(inputs)]
    return [(sum(kernel[o][i] for o, i in block), block) for block in blocks]


def made(weight: Tensor, kind: str, n: int, sparsity: float) -> Tensor:
    if kind == "block":
        return masks.block_mask(weight, n, sparsity)
    return getattr(masks, f"{kind}_mask")(weight, sparsity)


@pytest.mark.parametrize("kind", ["weight", "kernel", "filter", "block"])
@given(weights(), sparsities)
def test_the_int_p_b_smallest_groups_go_whole_and_no_other(kind, sample, sparsity):
    weight, n = sample
    before = weight.clone()
    mask = made(weight, kind, n, sparsity)
    assert torch.equal(weight, before)
    assert mask.dtype is torch.bool
    assert mask.shape == weight.shape
    flat = mask.reshape(*weight.shape[:2], -1)
    kept, gone = [], []
    for score, members in groups(weight, kind, n):
        values = torch.stack([flat[member] for member in members])
        assert values.all() or not values.any()
        (kept if values.all() else gone).append(score)
    assert len(gone) == int(sparsity * (len(kept) + len(gone)))
    assert max(gone, default=0) <= min(kept) * (1 + 1e-6)  # scores are float32 sums


@pytest.mark.parametrize("kind", ["weight", "kernel", "filter", "block"])
def test_of_equal_scores_the_first_goes(kind):
    weight = torch.ones(8, 6, 3, 3)
    flat = made(weight, kind, 2, 0.5).reshape(8, 6, 9)
    members = [members for _, members in groups(weight, kind, 2)]
    kept = [bool(flat[group[0]].all()) for group in members]
    assert kept == [False] * (len(kept) // 2) + [True] * (len(kept) // 2)


@given(weights(), sparsities, st.randoms(use_true_random=False))
def test_blocks_of_any_order_are_the_blocks_of_the_sorted_weight(sample, sparsity, random):
    weight, n = sample
    order = torch.tensor(random.sample(range(len(weight)), len(weight)))
    before = order.clone()
    mask = masks.block_mask(weight, n, sparsity, order)
    assert torch.equal(mask[order], masks.block_mask(weight[order], n, sparsity))
    assert masks.is_blocked(mask, n, order)
    assert masks.is_blocked(mask[order], n)
    assert torch.equal(order, before)


def test_the_float_floor_of_the_released_code_removes_one_too_few():
    assert masks.removed(0.7, 90) == 62
    assert masks.removed(0.29, 100) == 28
    assert masks.removed(0.5, 90) == 45
    assert int((~masks.weight_mask(torch.randn(9, 10), 0.7)).sum()) == 62
    assert int((~masks.block_mask(torch.randn(40, 10), 4, 0.29)).sum()) == 28 * 4


@given(weights())
def test_sparsity_zero_keeps_all(sample):
    weight, n = sample
    for kind in ("weight", "kernel", "filter", "block"):
        assert made(weight, kind, n, 0.0).all()


@given(weights(), sparsities)
def test_n_1_is_kernel_pruning_and_n_out_drops_whole_inputs(sample, sparsity):
    weight, _ = sample
    kernel = masks.kernel_mask(weight, sparsity)
    assert torch.equal(masks.block_mask(weight, 1, sparsity), kernel)
    whole = masks.block_mask(weight, len(weight), sparsity)
    assert torch.equal(whole, whole[:1].expand_as(whole))
    if weight[0, 0].numel() == 1:
        assert torch.equal(kernel, masks.weight_mask(weight, sparsity))
    turned = weight.transpose(0, 1)  # filter pruning is the same along the other axis
    scores = (whole, masks.filter_mask(turned, sparsity).transpose(0, 1))
    assume(not torch.equal(weight, weight.round()) or weight.abs().sum() == 0)  # no ties
    assert torch.equal(*scores)


@given(weights(((1, 1), (3, 3))), st.integers(0, 2**31))
def test_is_blocked_sees_a_single_odd_weight(sample, seed):
    weight, n = sample
    assume(n > 1 or weight[0, 0].numel() > 1)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(weight), generator=generator)
    mask = masks.block_mask(weight, n, 0.5, order)
    flat = int(torch.randint(mask.numel(), (1,), generator=generator))
    mask.view(-1)[flat] ^= True
    assert not masks.is_blocked(mask, n, order)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_taps_of_a_kernel_stand_and_fall_together(n):
    mask = torch.ones(4, 2, 3, 3, dtype=torch.bool)
    assert masks.is_blocked(mask, n)
    mask[:, 1, 0, 2] = False  # in all kernels of the block alike
    assert not masks.is_blocked(mask, n)


def test_is_blocked_depends_on_the_order_and_on_n():
    mask = torch.tensor([1, 0, 1, 0], dtype=torch.bool)[:, None].expand(4, 3)
    assert masks.is_blocked(mask, 1)
    assert not masks.is_blocked(mask, 2)
    assert masks.is_blocked(mask, 2, torch.tensor([0, 2, 1, 3]))
    assert not masks.is_blocked(mask, 4, torch.tensor([0, 2, 1, 3]))
    along_inputs = torch.tensor([[1, 1, 0, 0]] * 2, dtype=torch.bool).repeat_interleave(2, 0)
    along_inputs[1] ^= True
    assert not masks.is_blocked(along_inputs, 2)  # the transpose of the pattern
    with pytest.raises(ValueError, match="n=3 do not divide 4 outputs"):
        masks.is_blocked(mask, 3)


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.75])
@given(seed=st.integers(0, 2**31), width=st.sampled_from([16, 32, 64]))
def test_finer_blocks_keep_more_of_the_norm(sparsity, seed, width):
    # C4: a coarser choice is one that the finer one might make, if as many kernels go.
    weight = torch.randn(width, 16, 1, 1, generator=torch.Generator().manual_seed(seed))
    every = [masks.block_mask(weight, n, sparsity) for n in (1, 2, 4, 8, 16)]
    assert {int(mask.sum()) for mask in every} == {round((1 - sparsity) * weight.numel())}
    kept = [masks.norm_kept(weight, mask) for mask in every]
    assert all(fine >= coarse - 1e-7 for fine, coarse in pairwise(kept))
    assert kept[0] > kept[-1]


def test_the_chain_breaks_where_floors_let_a_coarse_pattern_keep_more():
    # Counts made before: 64x64 at p = 0.8, and an 8x5 layer at p = 0.5 (282 of 300 draws).
    counts = [n * masks.removed(0.8, 64 * 64 // n) for n in (1, 2, 4, 8, 16)]
    assert counts == [3276, 3276, 3276, 3272, 3264]
    assert [n * masks.removed(0.5, 40 // n) for n in (1, 2, 4, 8)] == [20, 20, 20, 16]
    generator, broken = torch.Generator().manual_seed(0), 0
    for _ in range(300):
        weight = torch.randn(8, 5, generator=generator)
        kept = [masks.norm_kept(weight, masks.block_mask(weight, n, 0.5)) for n in (1, 2, 4, 8)]
        assert kept[0] >= kept[1] >= kept[2]
        broken += kept[3] > kept[2]
    assert broken == pytest.approx(282, abs=5 * math.sqrt(300 * 0.94 * 0.06))


def preserved(spread: float, draws: int = 100) -> dict[str, Tensor]:
    """Share of the norm kept at p = 0.5 by each pattern, over draws of 64x64 kernel norms."""
    generator = torch.Generator().manual_seed(0)
    found: dict[str, list[float]] = {}
    for _ in range(draws):
        scale = torch.exp(spread * torch.randn(64, 1, generator=generator))
        weight = torch.randn(64, 64, generator=generator) * scale
        made = {
            "kernel": masks.kernel_mask(weight, 0.5),
            "filter": masks.filter_mask(weight, 0.5),
        }
        for n in (4, 16, 32):
            made[f"{n}"] = masks.block_mask(weight, n, 0.5)
            made[f"{n} sorted"] = masks.block_mask(weight, n, 0.5, masks.filter_order(weight))
        for name, mask in made.items():
            found.setdefault(name, []).append(masks.norm_kept(weight, mask))
    return {name: torch.tensor(shares) for name, shares in found.items()}


# Replicated means (C5).
EQUAL_SCALES = {
    **{"kernel": 0.796, "filter": 0.538},
    **{"4": 0.650, "4 sorted": 0.654, "16": 0.575, "16 sorted": 0.583},
}
SPREAD_SCALES = {
    **{"kernel": 0.847, "filter": 0.721, "4": 0.696, "4 sorted": 0.759},
    **{"16": 0.599, "16 sorted": 0.728, "32": 0.569, "32 sorted": 0.721},
}
DEVIATIONS = {
    0.0: {"4 sorted": 0.004, "16 sorted": 0.004},
    0.6: {"4": 0.012, "4 sorted": 0.016, "16": 0.012, "16 sorted": 0.019},
}


@pytest.mark.parametrize(("spread", "means"), [(0.0, EQUAL_SCALES), (0.6, SPREAD_SCALES)])
def test_preserved_norms_are_the_replicated_ones(spread, means):
    shares = preserved(spread)
    for name, mean in means.items():
        deviation = float(shares[name].std())
        # Half a unit of the last digit, and the noise of two means: 1500 draws of ours lie up to
        # 0.45 deviations from these means, of which the number of draws is not known.
        assert float(shares[name].mean()) == pytest.approx(mean, abs=5e-4 + 0.5 * deviation), name
        if name in DEVIATIONS[spread]:
            assert deviation == pytest.approx(DEVIATIONS[spread][name], abs=0.003), name
    for n in ("4", "16"):
        gain = shares[f"{n} sorted"] - shares[n]
        assert (gain > 0).float().mean() > 0.7  # 83 % and 94 % without, all with spread scales
        assert gain.mean() > 0
    if spread:  # two rows of blocks at p = 0.5 are filter pruning
        assert torch.allclose(shares["32 sorted"], shares["filter"], atol=0.005)


def test_sorting_is_by_rising_norm_of_whole_filters_and_stable():
    weight = torch.tensor([[3.0, -1], [0, 1], [-2, 2], [1, 0]])[:, :, None, None]
    assert masks.filter_order(weight).tolist() == [1, 3, 0, 2]
    assert masks.kernel_norms(weight.expand(4, 2, 3, 3)).tolist()[0] == [27, 9]
    assert masks.block_scores(weight, 2).tolist() == [[3, 2], [3, 2]]


def test_the_direction_of_sorting_does_not_matter_where_n_divides():
    weight = torch.randn(24, 10, 3, 3, generator=torch.Generator().manual_seed(0))
    up = masks.filter_order(weight)
    one, other = (masks.block_mask(weight, 4, 0.5, order) for order in (up, up.flip(0)))
    assert torch.equal(one, other)


@given(weights(), st.floats(0, 1, exclude_max=True), st.integers(0, 2**31))
def test_random_blocks_without_replacement_go_in_the_full_number(sample, sparsity, seed):
    weight, n = sample
    one, same = (
        masks.random_block_mask(weight, n, sparsity, torch.Generator().manual_seed(seed))
        for _ in range(2)
    )
    assert torch.equal(one, same)
    assert masks.is_blocked(one, n)
    taps = weight[0, 0].numel()
    assert int((~one).sum()) == n * taps * int(sparsity * (weight.numel() // n // taps))


def test_random_blocks_with_replacement_prune_39_percent_in_place_of_50():
    weight, generator = torch.ones(256, 256, 1, 1), torch.Generator().manual_seed(0)
    gone = [
        1 - float(masks.random_block_mask(weight, 4, 0.5, generator, True).float().mean())
        for _ in range(10)
    ]
    assert sum(gone) / len(gone) == pytest.approx(1 - math.exp(-0.5), abs=0.003)  # 0.3935
    assert len(set(gone)) > 1  # the generator moves on


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, math.nan])
def test_sparsities_that_leave_nothing_are_refused(sparsity):
    weight = torch.randn(4, 4)
    for kind in ("weight", "kernel", "filter", "block"):
        with pytest.raises(ValueError, match=r"sparsity must lie in \[0, 1\)"):
            made(weight, kind, 2, sparsity)


@pytest.mark.parametrize("n", [0, -2, 3, 16])
def test_blocks_that_do_not_divide_the_outputs_are_refused(n):
    for make in (
        lambda: masks.block_mask(torch.randn(8, 4), n, 0.5),
        lambda: masks.random_block_mask(torch.randn(8, 4), n, 0.5, torch.Generator()),
    ):
        with pytest.raises(ValueError, match=rf"n={n} do not divide 8 outputs: leave the layer"):
            make()


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 0, 1, 2], [1, 2, 3, 4]])
def test_orders_that_are_no_permutations_are_refused(order):
    with pytest.raises(ValueError, match="permutation of 4 outputs"):
        masks.block_mask(torch.randn(4, 4), 2, 0.5, torch.tensor(order))


def test_masks_of_parameters_carry_no_gradient_and_layout_does_not_matter():
    weight = torch.nn.Parameter(torch.randn(8, 4, 3, 3))
    nhwc = weight.detach().to(memory_format=torch.channels_last)
    for kind in ("weight", "kernel", "filter", "block"):
        mask = made(weight, kind, 4, 0.5)
        assert not mask.requires_grad
        assert torch.equal(mask, made(nhwc, kind, 4, 0.5))
    assert masks.norm_kept(weight, torch.ones_like(weight, dtype=torch.bool)) == 1
