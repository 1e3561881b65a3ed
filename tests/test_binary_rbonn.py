"""RBONN's mathematics in float64: the coupled gradient, masks by ranks and by indices, both forms
of the recurrence; the method on a toy network."""

import math
from itertools import permutations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from compactnets import cost
from compactnets.binary.convert import binary_layers
from compactnets.binary.density import (
    dense,
    density_mask,
    index_mask,
    random_mask,
    rank_mask,
)
from compactnets.binary.rbonn import (
    RBONN,
    Recur,
    RecurrentScale,
    bilinear_loss,
    coupling,
    gradients,
    look_ahead,
    printed_coupling,
    recurrent_layers,
    recurrent_update,
)
from compactnets.binary.react import react_resnet_cifar, react_resnet_imagenet
from compactnets.binary.rebnn import ReBNN
from compactnets.binary.rebnn import gradients as rebnn_gradients
from compactnets.binary.recurrence import FilterMeter, RecurrenceMeter, ScaleSnapshots, filter_norms
from compactnets.binary.scales import AnalyticScale, analytic_scale, per_filter
from compactnets.binary.ste import hard_sign, sign
from compactnets.method import Method, Progress
from train_toys import one_thread, same_state, toy_images, toy_net, train_toy

__all__ = ["one_thread"]

# A busy machine is no failure.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SHAPES = st.sampled_from([(1, 1, 1, 1), (3, 2, 3, 3), (4, 5), (7, 3, 2)])
SEEDS = st.integers(0, 2**16)
TAUS = st.sampled_from([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])


def draw(seed, *shape, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(shape, generator=generator, dtype=torch.float64)


# The bilinear model


def toy_dependence(w):
    """A_ii = phi(||w_i||_1), a differentiable stand-in for what the paper leaves open."""
    return torch.diag(1 / (0.3 + w.abs().sum(1)))


def extra_term(w):
    """Autograd's whole gradient of G(w, A(w)) minus the one with A held constant; and dA_ii/dw."""
    b = hard_sign(w).detach()
    w = w.clone().requires_grad_()
    (whole,) = torch.autograd.grad(bilinear_loss(w, toy_dependence(w), b), w)
    (direct,) = torch.autograd.grad(bilinear_loss(w, toy_dependence(w).detach(), b), w)
    (slope,) = torch.autograd.grad(toy_dependence(w).diagonal().sum(), w)
    return whole - direct, toy_dependence(w).detach(), b, slope


@calm
@given(seed=SEEDS)
def test_the_coupled_gradient_is_the_chain_rule_entry_by_entry(seed):
    w = draw(seed, 4, 6)
    extra, A, b, slope = extra_term(w)
    assert torch.allclose(coupling(w, A, b, slope), extra, rtol=1e-10, atol=1e-12)


@calm
@given(seed=SEEDS)
def test_the_printed_trace_is_half_the_sum_over_j(seed):
    w = draw(seed, 4, 6)
    extra, A, b, slope = extra_term(w)
    printed = printed_coupling(w, A, b, slope)
    assert torch.allclose(printed, extra.sum(1) / 2, rtol=1e-10, atol=1e-12)


def test_the_printed_trace_is_not_the_gradient_at_i_j():
    w = draw(0, 4, 6)
    extra, A, b, slope = extra_term(w)
    wrong = printed_coupling(w, A, b, slope)[:, None].expand_as(w) - extra
    assert float(wrong.norm() / extra.norm()) > 0.5


def test_the_coupled_gradient_agrees_with_finite_differences():
    w, step = draw(3, 4, 6), 1e-6
    b = hard_sign(w)
    _, A, _, slope = extra_term(w)
    found = 2 * A @ (A @ w - b) + coupling(w, A, b, slope)
    for i, j in ((0, 0), (1, 4), (3, 5)):
        nudge = torch.zeros_like(w)
        nudge[i, j] = step
        up, down = (bilinear_loss(v, toy_dependence(v), b) for v in (w + nudge, w - nudge))
        assert float((up - down) / (2 * step)) == pytest.approx(float(found[i, j]), rel=1e-5)


def test_the_gradient_of_a_is_a_full_matrix():
    w, A = draw(1, 4, 6), torch.diag(draw(2, 4).abs()).requires_grad_()
    b = hard_sign(w)
    (grad,) = torch.autograd.grad(bilinear_loss(w, A, b), A)
    g_hat = (A.detach() @ w - b).T
    assert torch.allclose(grad, 2 * (w @ g_hat).T)
    assert (grad - torch.diag(grad.diagonal())).abs().max() > 0.1


@calm
@given(seed=SEEDS, c=st.floats(0.01, 100))
def test_g_is_invariant_to_a_scale_between_its_factors_and_the_trained_form_is_not(seed, c):
    w, alpha = draw(seed, 4, 6), draw(seed + 1, 4).abs() + 0.1
    b, A = hard_sign(w), torch.diag(1 / alpha)
    assert torch.equal(hard_sign(w / c), b)
    assert torch.allclose(bilinear_loss(w / c, c * A, b), bilinear_loss(w, A, b))
    trained = [((w / s - per_filter(alpha / s, w) * b) ** 2).sum() for s in (1, c)]
    assert torch.allclose(trained[1], trained[0] / c**2)


@calm
@given(shape=SHAPES, seed=SEEDS, lam=st.sampled_from([0.0, 1e-4, 0.5]))
def test_row_c_has_the_gradients_of_the_task_and_the_bilinear_term(shape, seed, lam):
    w, g = draw(seed, *shape, spread=0.8).requires_grad_(), draw(seed + 1, *shape)
    scale = RecurrentScale(w, RBONN("none", lam=lam))
    scale.alpha.data[0].neg_()
    scale(w).backward(g)
    ours = w.grad, scale.alpha.grad
    w.grad = scale.alpha.grad = None
    alpha = per_filter(scale.alpha.abs(), w)
    distance = (w - alpha * hard_sign(w).detach()).square().sum()
    ((g * alpha * sign(w)).sum() + lam / 2 * distance).backward()
    assert torch.allclose(ours[0], w.grad, rtol=1e-12, atol=1e-12)
    assert torch.allclose(ours[1], scale.alpha.grad, rtol=1e-12, atol=1e-12)


def test_the_bilinear_term_is_rebnns_loss_with_a_constant_threshold():
    w, g, alpha = draw(0, 4, 5), draw(1, 4, 5), draw(2, 4).abs()
    task, pull, delta_alpha = gradients(w, alpha, g, 0.3)
    theirs = rebnn_gradients(w, alpha, g, torch.full_like(alpha, 0.3))
    assert torch.allclose(task + pull, theirs[0]) and torch.allclose(delta_alpha, theirs[1])


# Masks


@calm
@given(n=st.integers(1, 70), tau=TAUS, seed=SEEDS)
def test_dense_marks_the_largest_entries(n, tau, seed):
    x = draw(seed, n)
    on = dense(x, tau)
    assert int(on.sum()) == n - int(n * tau)
    assert not on.any() or on.all() or x[on].min() > x[~on].max()


@calm
@given(n=st.integers(1, 70), tau=TAUS, seed=SEEDS)
def test_density_opens_small_scales_with_small_norms_and_at_most_n_minus_t(n, tau, seed):
    w, alpha = draw(seed, n, 3), draw(seed + 1, n).abs() + 1e-3
    T = int(n * tau)
    order = lambda x: [1 + int((x < v).sum()) for v in x]  # noqa: E731  ranks, counted
    norms = w.abs().sum(1)
    expected = [a > T and not v > T for a, v in zip(order(1 / alpha), order(norms), strict=True)]
    mask = density_mask(w, alpha, tau)
    assert mask.tolist() == expected and int(mask.sum()) <= n - T
    analytic = density_mask(w, analytic_scale(w), tau)
    assert int(analytic.sum()) == min(T, n - T)


def test_a_scale_of_zero_is_dense_and_ties_do_not_change_the_count():
    alpha = torch.tensor([0.0, 1.0, 1.0, 1.0])
    assert dense(-alpha, 0.6).tolist() == [True, False, False, True]
    assert int(rank_mask(torch.ones(10), 0.6).sum()) == 4


@calm
@given(n=st.integers(1, 70), tau=TAUS, seed=SEEDS)
def test_ranks_indices_and_chance_open_equally_many(n, tau, seed):
    alpha = draw(seed, n).abs()
    m = int(n * (1 - tau))
    ranks, indices = rank_mask(alpha, tau), index_mask(alpha, tau)
    chance = random_mask(n, tau, torch.Generator().manual_seed(seed))
    assert [int(x.sum()) for x in (ranks, indices, chance)] == [m] * 3
    assert not 0 < m < n or alpha[ranks].max() < alpha[~ranks].min()


def test_worked_numbers_of_the_counts():
    w, alpha = draw(0, 64, 9), draw(1, 64).abs()
    assert int(64 * 0.6) == 38 and int(density_mask(w, analytic_scale(w), 0.6).sum()) == 26
    assert int(index_mask(alpha, 0.6).sum()) == 25
    assert int(index_mask(alpha[:20], 0.8).sum()) == 3  # not 4: 20 * (1 - 0.8) is 3.9999...
    counts = [
        float(density_mask(draw(s, 64, 9), draw(-s - 1, 64).abs(), 0.6).sum()) for s in range(300)
    ]
    assert sum(counts) / 300 == pytest.approx(26 * 38 / 64, abs=0.5)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_indices_equal_ranks_iff_the_permutation_applied_twice_keeps_the_first_channels(n):
    for order in permutations(range(n)):
        alpha = torch.tensor(order, dtype=torch.float64)
        p = alpha.argsort()
        for m in range(n + 1):
            tau = 1 - (m + 1e-9) / n
            keeps = set(p[p][:m].tolist()) == set(range(m))
            assert torch.equal(rank_mask(alpha, tau), index_mask(alpha, tau)) == keeps


def test_the_released_mask_hits_hardly_more_of_the_smallest_scales_than_chance():
    n, m = 64, 25
    expected = m * (2 / n + (1 - 2 / n) * (m - 1) / (n - 1))
    assert expected == pytest.approx(10.007, abs=5e-4) and m * m / n == pytest.approx(
        9.77, abs=5e-3
    )
    generator = torch.Generator().manual_seed(0)
    scales = torch.rand(4000, n, generator=generator)
    hits = [int((rank_mask(a, 0.6) & index_mask(a, 0.6)).sum()) for a in scales]
    assert sum(hits) / 4000 == pytest.approx(expected, abs=0.15)


# The recurrence


@calm
@given(shape=SHAPES, seed=SEEDS, size=st.floats(0, 1), lr=st.floats(1e-3, 10))
def test_the_printed_update_never_flips_a_sign_and_delays_flips(shape, seed, size, lr):
    w, g = draw(seed, *shape), draw(seed + 1, *shape)
    u, on = torch.full((shape[0],), size, dtype=w.dtype), torch.ones(shape[0], dtype=torch.bool)
    push = recurrent_update(w, u, on)
    assert torch.equal(hard_sign(w + push), hard_sign(w))
    after, bar = w - lr * g + push, (1 + size) * w.abs() / lr
    clear = (g.abs() - bar).abs() > 1e-9
    flips = hard_sign(after) != hard_sign(w)
    assert torch.equal(flips[clear], ((hard_sign(w) * g) > bar)[clear])


def test_only_masked_channels_are_pushed_and_arguments_stay_untouched():
    w, u, past = draw(0, 3, 2, 2), torch.tensor([0.5, 1.0, 2.0]).double(), draw(1, 3, 2, 2)
    before = [t.clone() for t in (w, u, past)]
    push = recurrent_update(w, u, torch.tensor([True, False, True]))
    assert torch.equal(push, torch.stack([0.5 * w[0], 0 * w[1], 2 * w[2]]))
    assert torch.equal(look_ahead(w, u, past)[1], w[1] - past[1])
    assert all(torch.equal(a, b) for a, b in zip(before, (w, u, past), strict=True))


def scale_of(method, w):
    return RecurrentScale(w, method, torch.Generator().manual_seed(0))


def test_two_steps_of_the_printed_form_worked_by_hand():
    eta, w = 0.1, nn.Parameter(draw(0, 5, 4))
    scale = scale_of(RBONN(lam=0.1, u=0.05), w)
    history, g = [w.detach().clone()], draw(9, 5, 4)
    scale(w).backward(g)
    assert torch.equal(scale.u.grad, torch.zeros(5, dtype=w.dtype))  # no step before the first
    scale.before_step(w)
    gate = density_mask(w, scale.alpha.detach(), 0.6)
    w.data -= eta * w.grad
    stepped = w.detach().clone()
    scale.u.data = torch.tensor([-0.03, 0.2, 0.05, 0.0, -0.4], dtype=w.dtype)
    scale.after_step(w, eta)
    assert torch.allclose(w, stepped + per_filter(0.05 * gate, w) * history[0])
    assert scale.u.tolist() == [0.03, 0.1, 0.05, 0.0, 0.1]  # eq 3.135, at most eta
    w.grad = None
    scale(w).backward(g)
    alpha = scale.alpha.detach()
    task = per_filter(alpha, w) * g * (w.detach().abs() <= 1)  # without the bilinear term
    gated = history[0] * per_filter(density_mask(history[0], alpha, 0.6), w)
    assert torch.allclose(scale.u.grad, (task * gated).sum(1))  # eq 3.136


def test_the_look_ahead_binarizes_ahead_in_training_only_and_keeps_the_weight():
    w = nn.Parameter(draw(0, 6, 4, spread=0.1))
    method = RBONN("lookahead", "ranks", tau=0.5, u=1.0, lam=0.2)
    scale, g = scale_of(method, w), draw(1, 6, 4)
    kept = w.detach().clone()
    scale(w).backward(g)
    scale.before_step(w)
    scale.after_step(w, 0.1)
    assert torch.equal(w, kept)
    past = w.grad * per_filter(rank_mask(scale.alpha.detach(), 0.5), w)
    assert torch.equal(scale.past, past) and (past != 0).any() and (past == 0).any()
    ahead = kept - past
    assert (hard_sign(ahead) != hard_sign(kept)).any()
    assert torch.equal(hard_sign(scale(w)), hard_sign(ahead))
    w.grad = None
    scale(w).backward(g)
    assert torch.allclose(scale.u.grad, -(w.grad * past).sum(1))
    scale.eval()
    assert torch.equal(hard_sign(scale(w)), hard_sign(kept))
    w.grad = None
    with pytest.raises(ValueError, match="no gradient to look ahead with"):
        scale.after_step(w, 0.1)


def test_the_released_layer_differs_in_the_documented_places():
    w, g = (2 * draw(0, 3, 4)).requires_grad_(), draw(1, 3, 4)
    scale = scale_of(RBONN("none", scale="released", lam=0.3), w)
    w_hat = scale(w)
    w_hat.backward(g)
    a, b = per_filter(scale.alpha.detach(), w), hard_sign(w.detach())
    pull = 0.3 * (w.detach() - 0.02 * a * b)
    assert (scale.alpha > 0).all() and torch.allclose(scale.scale(w), 0.02 * scale.alpha)
    assert torch.allclose(w_hat, 0.02 * a * b)
    assert torch.allclose(w.grad, a * g + pull)  # no window, no factor
    assert torch.allclose(scale.alpha.grad, (g * w.detach() - 0.02 * pull * b).sum(1))


# The method


@pytest.mark.parametrize("method", [RBONN(tau=1.0), RBONN("lookahead", "indices", tau=1.0)])
def test_with_tau_one_training_equals_row_c_bit_for_bit(method):
    plain, ours = (train_toy(method=m, lr=0.01, optimizer="adam") for m in (RBONN("none"), method))
    states = ours.model.state_dict(), plain.model.state_dict()
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    assert {n.rpartition(".")[2] for n in states[0].keys() - states[1].keys()} == {"u"}


@pytest.mark.parametrize("mask", ["density", "ranks", "indices", "random"])
@pytest.mark.parametrize("form", ["paper", "lookahead"])
def test_the_recurrence_changes_training_and_repeats_itself(form, mask):
    method = RBONN(form, mask, tau=0.5, u=0.01 if form == "paper" else 50.0)
    runs = [train_toy(method=m, lr=0.05) for m in (method, method, RBONN("none"))]
    assert same_state(runs[0].model, runs[1].model)
    weights = [dict(binary_layers(run.model))["3"].weight for run in (runs[0], runs[2])]
    assert not torch.equal(*weights)


@pytest.mark.parametrize("form", ["paper", "lookahead"])
def test_a_compiled_network_reads_what_the_hook_wrote(form):
    model = RBONN(form, "ranks", tau=0.5).prepare(toy_net(), torch.zeros(1, 3, 8, 8))
    compiled = torch.compile(model, backend="aot_eager")
    ((_, layer, scale),) = recurrent_layers(model)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = []
    for past in (0.0, 9.0):
        scale.past.copy_(past * layer.weight.detach())
        for network in (model, compiled):
            model.zero_grad()
            network(images).square().sum().backward()
            found.append(scale.u.grad.clone())
    assert torch.allclose(found[0], found[1]) and torch.allclose(found[2], found[3], rtol=1e-3)
    assert (found[2] != found[0]).any()


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        (RBONN(), RecurrentScale),
        (RBONN("none", lam=0.0), RecurrentScale),
        (RBONN("none", scale="analytic"), AnalyticScale),
        (RBONN("lookahead", "indices", scale="released"), RecurrentScale),
    ],
)
def test_the_method_prepares_the_named_scale_and_gives_u_its_own_rate(method, kind):
    assert isinstance(method, Method)
    start = toy_net()
    before = {k: v.clone() for k, v in start.state_dict().items()}
    model = method.prepare(start, torch.zeros(1, 3, 8, 8))
    assert all(torch.equal(v, before[k]) for k, v in start.state_dict().items())
    ((_, layer),) = binary_layers(model)
    assert isinstance(layer.binarizer, kind)
    groups = method.parameter_groups(model)
    assert len({id(p) for g in groups for p in g["params"]}) == len(list(model.parameters()))
    us = [s.u for _, _, s in recurrent_layers(model) if s.u is not None]
    assert len(us) == (method.form != "none") == len(groups) - 1 == len(method.hooks())
    if us:
        assert groups[1]["params"] == us and groups[1]["lr_scale"] == 0.1
        assert us[0].tolist() == pytest.approx([method.start_of_u] * 6)


def test_random_masks_and_released_scales_depend_on_the_methods_seed_alone():
    def state(seed):
        method = RBONN("lookahead", "random", scale="released", seed=seed)
        scale = next(recurrent_layers(method.prepare(toy_net(), torch.zeros(1, 3, 8, 8))))[2]
        return [*scale.chosen.tolist(), *scale.alpha.tolist()]

    first, global_state = state(0), torch.get_rng_state()
    torch.rand(3)
    torch.set_rng_state(global_state)
    assert state(0) == first != state(1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": "papers"}, r"form must be one of .*'papers'"),
        ({"mask": "rank"}, r"mask must be one of .*'rank'"),
        ({"scale": "fixed"}, r"scale must be one of .*'fixed'"),
        ({"tau": 1.01}, r"tau must lie in \[0, 1\], got 1.01"),
        ({"tau": math.nan}, r"tau must lie in \[0, 1\], got nan"),
        ({"lam": -1e-9}, "lam must be finite and not negative, got -1e-09"),
        ({"u": math.inf}, "start_of_u must be finite and not negative, got inf"),
        ({"u_lr": math.nan}, "u_lr must be finite and not negative, got nan"),
        ({"scale": "analytic"}, "the recurrence needs a learned scale"),
        ({"scale": "released"}, "the released layer looks ahead"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RBONN(**options)


def test_a_network_without_a_layer_to_binarize_is_refused():
    with pytest.raises(ValueError, match="has no layer to binarize"):
        RBONN().prepare(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2)), torch.zeros(1, 3, 8, 8))


def test_a_checkpoint_of_another_method_is_refused():
    example = torch.zeros(1, 3, 8, 8)
    other, ours = ReBNN().prepare(toy_net(), example), RBONN().prepare(toy_net(), example)
    with pytest.raises((RuntimeError, ValueError), match=r"ReBNN|binarizer"):
        ours.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match=r"layer 3 was prepared by .*, not by RBONN"):
        RBONN().deploy(other.eval())


@pytest.mark.parametrize(
    "method",
    [
        RBONN(u=0.05),
        RBONN("none", scale="analytic"),
        RBONN("lookahead", "ranks"),
        RBONN("lookahead", "indices", scale="released"),
    ],
)
def test_the_deployed_network_computes_what_was_trained_and_leaves_u_behind(method):
    run = train_toy(method=method, epochs=1)
    packed = method.deploy(run.model)
    images = next(iter(toy_images(8).chunks(8)))[0]
    with torch.inference_mode():
        assert torch.allclose(packed(images), run.model(images), atol=1e-4)
    assert not any(name.endswith(".u") for name in packed.state_dict())
    assert not list(recurrent_layers(packed))
    with pytest.raises(ValueError, match="training mode"):
        method.deploy(run.model.train())


# Counts and meters


@pytest.mark.parametrize(
    ("network", "size", "counts"),
    [
        (react_resnet_imagenet(18), 224, (1_676_279_808, 137_793_536, 163_985_408, 10_985_472)),
        (react_resnet_cifar(20), 32, (40_108_032, 705_152, 1_331_840, 267_264)),
    ],
)
def test_worked_counts_of_operations_and_binary_weights(network, size, counts):
    example = torch.zeros(1, 3, size, size)
    model = RBONN().prepare(network, example)
    costs = cost.count(model, example)
    weights = sum(layer.weight.numel() for _, layer in binary_layers(model))
    assert (costs.bops(), costs.real_macs, cost.ops_bireal(costs), weights) == counts


def test_the_recurrence_adds_one_parameter_per_output_channel():
    network, example = react_resnet_cifar(20), torch.zeros(1, 3, 32, 32)
    size = {
        form: sum(p.numel() for p in RBONN(form).prepare(network, example).parameters())
        for form in ("none", "paper", "lookahead")
    }
    assert size["paper"] - size["none"] == size["lookahead"] - size["none"] == 6 * (16 + 32 + 64)


def progress_of(model):
    return Progress(model, torch.optim.SGD(model.parameters(), 0.1), 1, 1)


def test_the_filter_meter_compares_norms_with_those_at_the_start():
    model = RBONN("none").prepare(toy_net(), torch.zeros(1, 3, 8, 8))
    layer = dict(binary_layers(model))["3"]
    meter, progress = FilterMeter(tail=0.5), progress_of(model)
    meter.start(progress)
    assert meter.epoch_end(progress) == {"tiny": {"3": 0.5}, "growth": {"3": 1.0}}
    with torch.no_grad():
        layer.weight.mul_(3)
    line = meter.epoch_end(progress)
    assert line["tiny"] == {"3": 0.0} and line["growth"]["3"] == pytest.approx(3)
    assert filter_norms(torch.tensor([[1.0, -2.0], [0.0, 0.5]])).tolist() == [3, 0.5]


def test_the_recurrence_meter_counts_the_signs_that_a_look_ahead_turns_over():
    model = RBONN("lookahead", "indices", tau=0.5, u=1.0).prepare(
        toy_net(), torch.zeros(1, 3, 8, 8)
    )
    ((_, layer, scale),) = recurrent_layers(model)
    meter, progress = RecurrenceMeter(every=1), progress_of(model)
    meter.start(progress)
    scale.past.copy_(torch.zeros_like(scale.past))
    scale.past[0] = 2 * layer.weight.detach()[0]
    scale.alpha.data = torch.tensor([1.0, 2, 3, 4, 5, 6])  # sorted: indices are ranks
    meter.after_backward(progress)
    line = meter.epoch_end(progress)
    assert line["turned"] == pytest.approx(1 / 6) and line["masked"] == 0.5
    assert line["overlap"] == 1.0 and line["overlap_random"] == 0.5
    assert line["u"] == line["u_min"] == 1.0
    assert meter.epoch_end(progress) is None


def test_snapshots_show_scale_norm_and_mask_of_the_named_layer():
    model = RBONN(tau=0.5).prepare(toy_net(), torch.zeros(1, 3, 8, 8))
    ((name, layer, scale),) = recurrent_layers(model)
    found = ScaleSnapshots(name).epoch_end(progress_of(model))["channels"]
    assert (
        found["alpha"] == scale.alpha.tolist()
        and found["masked"] == scale.mask(layer.weight).tolist()
    )
    assert found["norm"] == filter_norms(layer.weight).tolist()
    with pytest.raises(ValueError, match="no recurrent layer 'stem'"):
        ScaleSnapshots("stem").epoch_end(progress_of(model))


def test_the_hook_shows_no_hidden_state_and_needs_no_random_number():
    assert repr(RBONN().hooks()[0]) == repr(Recur()) == "Recur()"
    assert RBONN().hooks()[0] is not RBONN().hooks()[0]
