"""Bi-ViT: head-wise quantizer, losses on attention maps, the network, packed products."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from compactnets import cost, seeds
from compactnets.binary import attention, attention_bits, bi_vit
from compactnets.binary.attention import WithMaps
from compactnets.binary.bi_vit import BiViT, HeadBinarizer
from compactnets.binary.layers import BinaryLinear
from compactnets.binary.ste import hard_sign
from compactnets.method import Method
from compactnets.models.vit import deit_cifar, deit_tiny
from compactnets.train import Recipe, fit

some = settings(max_examples=25, deadline=None)


def draw(seed, *shape, dtype=torch.float64):
    return torch.randn(shape, generator=seeds.generator(seed, "test"), dtype=dtype)


def head_case(seed, heads=3):
    """x (2, heads, 5, 7), alpha, z of any size, and a gradient."""
    x, g = 1.5 * draw(seed, 2, heads, 5, 7), draw(seed + 1, 2, heads, 5, 7)
    return x, draw(seed + 2, heads).abs() + 0.2, draw(seed + 3, heads), g


def straight_through_graph(x, alpha, z):
    """The quantizer as autograd sees it: round and sign are identities going back."""
    a, offset = alpha.view(-1, 1, 1), z.view(-1, 1, 1)
    offset = offset + (offset.round() - offset).detach()
    u = x / a + offset
    clipped = u.clamp(-1, 1)
    signs = clipped + (hard_sign(clipped) - clipped).detach()
    return a * (signs - offset)


@given(seed=st.integers(0, 2**16))
@some
def test_gradients_are_those_of_the_straight_through_graph(seed):
    x, alpha, z, g = head_case(seed)
    leaves = [t.clone().requires_grad_() for t in (x, alpha, z)]
    expected = torch.autograd.grad(straight_through_graph(*leaves), leaves, g)
    leaves = [t.clone().requires_grad_() for t in (x, alpha, z)]
    found = torch.autograd.grad(bi_vit.head_binarize(*leaves), leaves, g)
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 2**16))
@some
def test_the_quantizer_has_two_levels_and_its_window_lies_between_them(seed):
    x, alpha, z, _ = head_case(seed)
    y = bi_vit.head_binarize(x, alpha, z)
    for head in range(len(alpha)):
        a, offset = alpha[head], z[head].round()
        levels = torch.stack([a * (1 - offset), -a * (1 + offset)])
        assert torch.isclose(y[:, head, ..., None], levels).any(-1).all()
        u = x[:, head] / a + offset
        assert torch.equal(bi_vit.window(x, alpha, z)[:, head], u.abs() <= 1)


@given(seed=st.integers(0, 2**16), more=st.floats(1.0, 4.0))
@some
def test_with_offset_0_the_window_is_the_scale_and_grows_with_it(seed, more):
    x, alpha, z, _ = head_case(seed)
    inside = bi_vit.window(x, alpha, 0 * z)
    assert torch.equal(inside, x.abs() <= alpha.view(-1, 1, 1))
    assert (bi_vit.window(x, more * alpha, 0 * z) | ~inside).all()


def test_a_threshold_belongs_to_the_upper_level_and_arguments_stay_as_they_are():
    x = torch.tensor([-0.0, 0.0, 0.5, 0.25]).view(1, 2, 1, 2)
    alpha, z = torch.tensor([2.0, 0.5]), torch.tensor([0.0, -1.0])
    before = [t.clone() for t in (x, alpha, z)]
    y = bi_vit.head_binarize(x, alpha, z)
    assert y.flatten().tolist() == [2.0, 2.0, 1.0, 0.0]
    assert all(torch.equal(a, b) for a, b in zip(before, (x, alpha, z), strict=True))


def test_a_fixed_scale_gets_no_gradient_and_the_input_the_same():
    x, alpha, z, g = head_case(5)
    leaf = x.clone().requires_grad_()
    bi_vit.head_binarize(leaf, alpha, z).backward(g)
    assert torch.equal(leaf.grad, bi_vit.gradients(g, x, alpha, z)[0])  # type: ignore[arg-type]


@pytest.mark.parametrize("shapes", [((2, 3, 4), 3, 3), ((2, 3, 4, 4), 2, 3), ((2, 3, 4, 4), 3, 1)])
def test_shapes_that_do_not_fit_are_refused(shapes):
    x, alpha, z = torch.zeros(shapes[0]), torch.ones(shapes[1]), torch.zeros(shapes[2])
    with pytest.raises(ValueError, match="heads, N, M"):
        bi_vit.head_binarize(x, alpha, z)


@given(seed=st.integers(0, 2**16), keys=st.integers(2, 70), spread=st.floats(0.01, 10))
@some
def test_the_released_start_makes_every_attention_map_constant(seed, keys, spread):
    a = (spread * draw(seed, 2, 3, keys, keys, dtype=torch.float32)).softmax(-1)
    quantizer = HeadBinarizer(3, offset="released")
    quantizer.calibrate(a)
    assert quantizer.alpha.detach() == pytest.approx(3 * [2 / keys], rel=1e-3)
    assert quantizer.z.round().abs().max() == 0
    assert len(quantizer(a).unique()) == 1


def test_started_at_minus_one_an_attention_map_keeps_its_large_entries():
    a = draw(1, 2, 3, 9, 9, dtype=torch.float32).softmax(-1)
    for scale, alpha in (("learned", 2 / 9), ("calibrated", 2 / 9), ("fixed", 1 / 9)):
        quantizer = HeadBinarizer(3, scale, -1.0, is_map=True)  # type: ignore[arg-type]
        quantizer.calibrate(a)
        y, threshold = quantizer(a).detach(), quantizer.positive_alpha().detach()[0]
        assert float(threshold) == pytest.approx(alpha, rel=2**-8)
        assert torch.equal(y, torch.where(a >= threshold, 2 * threshold, 0.0))


def test_boolean_scores_are_zero_or_a_share_of_the_scale():
    s = draw(2, 2, 3, 8, 8, dtype=torch.float32)
    quantizer = bi_vit.BooleanScores(3, "fixed")
    assert torch.allclose(quantizer(s), (s >= 0).float() / 8)
    assert torch.equal(quantizer.window(s), s.abs() <= 1)


@given(seed=st.integers(0, 2**16), keys=st.integers(2, 12))
@some
def test_no_ranking_loss_means_the_same_order(seed, keys):
    teacher = draw(seed, 4, keys)
    ranks = teacher.argsort(-1).argsort(-1).double()
    student = ranks * (0.1 / keys) * 1.001  # neighbors in order lie just beyond the margin
    assert attention.ranking_loss(student, teacher) == 0
    assert (attention.kendall_tau(student, teacher) == 1).all()
    assert (attention.kendall_tau(-student, teacher) == -1).all()
    assert attention.ranking_loss(student.roll(1, -1), teacher) > 0


@given(seed=st.integers(0, 2**16), temperature=st.floats(0.2, 5))
@some
def test_increasing_maps_of_a_row_do_not_change_tau(seed, temperature):
    student, teacher = draw(seed, 3, 2, 9), draw(seed + 1, 3, 2, 9)
    tau = attention.kendall_tau(student, teacher)
    for mapped in ((student / temperature).softmax(-1), student**3, 5 * student - 2):
        assert torch.equal(attention.kendall_tau(mapped, teacher), tau)


def test_tau_counts_pairs_and_takes_ties_for_lost():
    teacher = torch.tensor([3.0, 2.0, 1.0, 0.0])
    rows = {(3, 2, 1, 0): 1, (2, 3, 1, 0): 2 / 3, (1, 1, 1, 1): -1, (1, 1, 0, -1): 2 / 3}
    for row, tau in rows.items():
        assert float(attention.kendall_tau(torch.tensor(row).float(), teacher)) == pytest.approx(
            tau
        )


def test_drawn_keys_estimate_the_ranking_loss_without_bias():
    student, teacher = draw(0, 3, 8), draw(1, 3, 8)
    whole = attention.ranking_loss(student, teacher)
    with seeds.scoped(0, "keys"):
        few = [attention.ranking_loss(student, teacher, keys=3) for _ in range(2000)]
    assert float(torch.stack(few).mean()) == pytest.approx(float(whole), rel=0.05)


def test_the_losses_reach_the_student_only():
    s, t = (draw(i, 2, 6).softmax(-1).requires_grad_() for i in (0, 1))
    for loss in (attention.ranking_loss, attention.divergence):
        student = torch.autograd.grad(loss(s, t), [s, t], allow_unused=True)
        assert student[0].abs().sum() > 0 and student[1] is None
    assert float(attention.divergence(s, s).detach()) == pytest.approx(0, abs=1e-12)


def test_overlap_and_entropy_of_rows():
    a, b = torch.eye(6)[:1] + 0.1, torch.eye(6)[1:2] + 0.1
    assert attention.top_overlap(a, a, 3) == 1 and attention.top_overlap(a, b, 1) == 0
    rows = torch.tensor([[0.0, 0, 0, 0], [0, 2, 2, 0], [1, 1, 1, 1]])
    expected = [0, torch.log(torch.tensor(2.0)), torch.log(torch.tensor(4.0))]
    assert attention.row_entropy(rows).tolist() == pytest.approx([float(e) for e in expected])


@pytest.mark.parametrize(
    "call",
    [
        lambda a: attention.ranking_loss(a, a[:, :3]),
        lambda a: attention.ranking_loss(a, a, keys=1),
        lambda a: attention.ranking_loss(a, a, keys=9),
        lambda a: attention.kendall_tau(a[:, :1], a[:, :1]),
        lambda a: attention.top_overlap(a, a, 0),
        lambda a: attention.AttentionMeter(a, nn.Identity(), per_epoch=0),
    ],
)
def test_bad_rows_and_counts_are_refused(call):
    with pytest.raises(ValueError, match=r"keys|k must|per_epoch"):
        call(torch.zeros(2, 8))


@given(seed=st.integers(0, 2**16), width=st.sampled_from([1, 31, 32, 48, 64]))
@some
def test_packed_scores_are_the_product_of_signs(seed, width):
    q, k = (draw(seed + i, 2, 3, 9, width, dtype=torch.float32) for i in (0, 1))
    scores = attention_bits.packed_scores(q, k)
    assert torch.equal(scores, hard_sign(q) @ hard_sign(k).transpose(2, 3))
    assert ((scores - width) % 2 == 0).all() and scores.abs().max() <= width


@given(seed=st.integers(0, 2**16), keys=st.sampled_from([5, 32, 65]))
@some
def test_a_packed_mixture_sums_the_signs_of_the_chosen_values(seed, keys):
    chosen = draw(seed, 2, 3, 4, keys) > 0.5
    v = draw(seed + 1, 2, 3, keys, 6, dtype=torch.float32)
    found = attention_bits.packed_mixture(chosen, v)
    assert torch.equal(found, chosen.float() @ hard_sign(v))
    positive = (chosen[..., None] & (v >= 0)[:, :, None]).sum(3)
    assert torch.equal(found, 2 * positive.float() - chosen.sum(3)[..., None])


def test_packed_products_refuse_what_does_not_fit():
    v = torch.zeros(1, 2, 3, 4)
    with pytest.raises(ValueError, match="q and k"):
        attention_bits.packed_scores(v, v[:, :, :2])
    with pytest.raises(TypeError, match="bool"):
        attention_bits.packed_mixture(v, v)
    with pytest.raises(ValueError, match="do not fit"):
        attention_bits.packed_mixture(torch.zeros(1, 2, 3, 4, dtype=torch.bool), v)


# The network


@pytest.fixture(scope="module")
def real():
    with seeds.scoped(0, "init"):
        return deit_cifar(dim=32, depth=2, heads=2, patch=8).eval()


@pytest.fixture(scope="module")
def images():
    return draw(3, 8, 3, 32, 32, dtype=torch.float32)


def test_prepare_binarizes_the_blocks_and_leaves_the_model_alone(real, images):
    before = copy.deepcopy(real.state_dict())
    student = BiViT().prepare(real, images)
    assert isinstance(BiViT(), Method) and student.training
    binary = [n for n, m in student.named_modules() if isinstance(m, BinaryLinear)]
    assert len(binary) == 8 and all("blocks" in name for name in binary)
    assert len(bi_vit.head_binarizers(student)) == 8
    assert all(torch.equal(before[n], v) for n, v in real.state_dict().items())
    assert not any(isinstance(m, attention.Kept) for m in real.modules())


def test_a_student_gives_maps_in_training_and_logits_in_evaluation(real, images):
    student = BiViT().prepare(real, images)
    trained = student(images)
    assert trained["logits"].shape == (8, 10) and len(trained["maps"]) == 2
    assert torch.allclose(trained["maps"][0].sum(-1), torch.ones(8, 2, 17))
    assert torch.equal(student.eval()(images), trained["logits"])
    copy.deepcopy(student)  # no graph is left behind in it


def test_every_option_changes_the_outputs_and_its_own_part(real, images):
    rows = {
        "both": BiViT(),
        "fixed": BiViT(scale="fixed"),
        "released": BiViT(offset="released"),
        "scores": BiViT(attention="scores"),
        "weights": BiViT(attention="real"),
    }
    students = {name: row.prepare(real, images).eval() for name, row in rows.items()}
    outputs = [student(images) for student in students.values()]
    assert all(not torch.equal(a, b) for i, a in enumerate(outputs) for b in outputs[:i])
    calibrated = BiViT(scale="calibrated").prepare(real, images).eval()
    assert torch.equal(calibrated(images), outputs[0])  # the same start
    learned = {n: sum(p.requires_grad for p in m.parameters()) for n, m in students.items()}
    assert learned["both"] - learned["fixed"] == 2 * len(bi_vit.head_binarizers(students["both"]))
    assert not bi_vit.head_binarizers(students["weights"])
    nameless = BiViT(bias=False).prepare(real, images)
    assert all(m.bias is None for m in nameless.modules() if isinstance(m, BinaryLinear))


def test_the_optimizer_gets_every_learned_parameter_once(real, images):
    for method in (BiViT(), BiViT(scale="fixed")):
        student = method.prepare(real, images)
        groups = method.parameter_groups(student)
        found = [id(p) for group in groups for p in group["params"]]
        assert sorted(found) == sorted(id(p) for p in student.parameters() if p.requires_grad)
    factors = [g["lr_scale"] for g in BiViT().parameter_groups(BiViT().prepare(real, images))[2:]]
    assert factors[3::4] == pytest.approx([2 / 17] * 2, rel=1e-3)


def test_bad_options_networks_and_states_are_refused(real, images):
    for option in ({"scale": "big"}, {"offset": "none"}, {"attention": "linear"}):
        with pytest.raises(ValueError, match="must be one of"):
            BiViT(**option)
    with pytest.raises(TypeError, match="no attention"):
        BiViT().prepare(nn.Sequential(nn.Conv2d(3, 8, 3)), images)
    student = BiViT().prepare(real, images)
    with pytest.raises(ValueError, match="binary layers already"):
        BiViT().prepare(student.network, images)
    with pytest.raises(ValueError, match="training mode"):
        BiViT().deploy(student)
    with pytest.raises(ValueError, match="1-bit layer"):
        BiViT().deploy(real)
    with pytest.raises(ValueError, match="signs"):
        BiViT().deploy(BiViT(attention="real").prepare(real, images).eval())
    for layer in [m for m in student.modules() if isinstance(m, BinaryLinear)]:
        layer.method = "ReBNN"
    with pytest.raises(ValueError, match="ReBNN"):
        BiViT().deploy(student.eval())


@given(seed=st.integers(0, 2**16))
@some
def test_short_scales_add_up_exactly_in_any_order(seed):
    a, b = bi_vit.short(draw(seed, 2, dtype=torch.float32).abs()).unbind()
    signs = hard_sign(draw(seed, 256, dtype=torch.float32))
    products = signs * a * b
    assert float(products.sum()) == float(products.cumsum(0)[-1])
    assert float(products.sum()) == float(signs.sum().double() * a.double() * b.double())


@pytest.mark.parametrize("method", [BiViT(), BiViT(bias=False), BiViT(attention="scores")])
def test_the_deployed_network_computes_the_trained_outputs(real, images, method):
    student = method.prepare(real, images).eval()
    for layer in [m for m in student.modules() if isinstance(m, BinaryLinear)]:
        if layer.bias is not None:
            nn.init.normal_(layer.bias, std=0.01, generator=seeds.generator(0, "bias"))
    deployed = method.deploy(student)
    with torch.inference_mode():
        assert torch.allclose(deployed(images), student(images), atol=1e-4)
    trained_parts = (
        BinaryLinear,
        attention.Kept,
        *(() if method.attention == "scores" else (HeadBinarizer,)),
    )
    assert not any(isinstance(m, trained_parts) for m in deployed.modules())


class Images:
    """A dozen images in the shape of a data set."""

    name, split, fingerprint = "toy", "train", "toy"

    def __init__(self, x):
        self.x, self.y = x, torch.arange(len(x)) % 10

    def __len__(self):
        return len(self.x)

    def to(self, device):
        return self

    def chunks(self, size):
        yield from zip(self.x.split(size), self.y.split(size), strict=True)

    def batches(self, size, *, generator, augment):
        order = torch.randperm(len(self.x), generator=generator)
        yield from ((self.x[i], self.y[i]) for i in order.split(size))


def test_training_is_deterministic_moves_scales_and_meters_attention(real, images):
    recipe = Recipe(epochs=2, batch=4, optimizer="adamw", lr=1e-2, precision="fp32", compile=False)
    teacher = WithMaps(copy.deepcopy(real)).eval()
    loss = partial(attention.distillation_loss, rank_weight=0.5, kl_weight=0.1)

    def run():
        meter = attention.AttentionMeter(images[:2], real, per_epoch=2)
        return fit(
            real,
            Images(images),
            recipe,
            seed=0,
            method=BiViT(),
            teacher=teacher,
            loss=loss,
            hooks=[meter],
            example=images,
            cache=False,
        )

    one, two = run(), run()
    state = one.model.state_dict()
    for name, value in two.model.state_dict().items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(state[name])), name
    start = BiViT().prepare(real, images)
    pairs = zip(bi_vit.head_binarizers(start), bi_vit.head_binarizers(one.model), strict=True)
    assert all(not torch.equal(a.alpha, b.alpha) for a, b in pairs)
    lines = [line for epoch in one.history for line in epoch["attention"]]
    assert [line["step"] for line in lines[::4]] == [0, 1, 2, 3, 4]
    assert all(0 <= line["blocked"] <= 1 and -1 <= line["tau"] <= 1 for line in lines)


def test_gradient_norms_shrink_in_a_quantizer_and_only_there(real, images):
    labels = torch.arange(len(images))
    for method, equal in ((BiViT(attention="real"), True), (BiViT(scale="fixed"), False)):
        student = method.prepare(real, images).eval()
        for behind, before in attention.gradient_norms(student, images, labels):
            assert before == pytest.approx(behind) if equal else before < behind


# The cost model, worked out by hand


def operations(model, size):
    example = torch.zeros(1, 3, size, size)
    costs = cost.count(BiViT().prepare(model, example), example)
    patch = next(layer.macs for layer in costs if layer.name.endswith("patch_embed.proj"))
    return costs, patch


def test_deit_tiny_costs_what_was_counted_by_hand():
    costs, patch = operations(deit_tiny(distilled=True), 224)
    by_kind = {k: sum(c.macs for c in costs if c.kind == k) for k in ("BinaryLinear", "Attention")}
    assert by_kind == {"BinaryLinear": 1_051_066_368, "Attention": 180_652_032}
    assert patch == 28_901_376 and costs.real_macs - patch == 384_000
    assert costs.bops() == 1_231_718_400
    without = (costs.macs - patch) / (cost.ops_bireal(costs) - patch)
    assert (costs.macs - patch, cost.ops_bireal(costs) - patch) == (1_232_102_400, 19_629_600)
    assert cost.ops_bireal(costs) == 48_530_976 and costs.macs == 1_261_003_776
    assert (round(without, 1), round(costs.macs / cost.ops_bireal(costs), 1)) == (62.8, 26.0)
    assert round(12.3 / 0.20, 1) == 61.5 and round(44.9 / 0.80, 1) == 56.1


def test_the_small_transformer_costs_what_was_counted_by_hand():
    costs, patch = operations(deit_cifar(192, 6, 3), 32)
    assert (patch, costs.real_macs - patch) == (589_824, 1_920)
    assert costs.bops() == 172_523_520 + 9_734_400
    assert round(costs.macs / cost.ops_bireal(costs), 1) == 53.2
    assert sum(layer.weights for layer in costs if layer.weight_bits == 1) == 2_654_208
