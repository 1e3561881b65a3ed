"""count(): every kind of layer against an independent count, the protocol, and good manners."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from compactnets import cost, models, seeds


def naive_conv_macs(layer: nn.Module, x: Tensor, y: Tensor) -> int:
    """Multiply-adds by the definition: each output (or input, transposed) meets one filter."""
    taps = layer.weight[0, 0].numel()
    if isinstance(layer, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return x[0].numel() * taps * layer.out_channels // layer.groups
    return y[0].numel() * taps * layer.in_channels // layer.groups


CONVS = {
    (1, False): nn.Conv1d,
    (2, False): nn.Conv2d,
    (3, False): nn.Conv3d,
    (1, True): nn.ConvTranspose1d,
    (2, True): nn.ConvTranspose2d,
    (3, True): nn.ConvTranspose3d,
}


@given(
    dims=st.integers(1, 3),
    transposed=st.booleans(),
    groups=st.integers(1, 3),
    per_group=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
    bias=st.booleans(),
    batch=st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_convolutions_cost_filter_taps_times_positions(
    dims, transposed, groups, per_group, kernel, stride, padding, bias, batch
):
    channels, out = (groups * n for n in per_group)
    layer = CONVS[dims, transposed](
        channels, out, kernel, stride, padding, groups=groups, bias=bias
    )
    x = torch.zeros(batch, channels, *(5, 6, 7)[:dims])
    y = layer(x)
    costs = cost.count(layer, x)
    assert costs.macs == naive_conv_macs(layer, x, y)
    assert costs.params == sum(p.numel() for p in layer.parameters())
    (row,) = costs
    assert row.weights == layer.weight.numel()
    assert row.elementwise == (y[0].numel() if bias else 0)
    assert row.traffic_bytes == 4 * (x[0].numel() + y[0].numel() + costs.params)


@given(
    sizes=st.lists(st.integers(1, 9), min_size=2, max_size=5),
    tokens=st.integers(1, 4),
    batch=st.integers(1, 3),
)
@settings(max_examples=30, deadline=None)
def test_linear_layers_cost_their_matrix_once_per_token(sizes, tokens, batch):
    model = nn.Sequential(*(nn.Linear(a, b) for a, b in itertools.pairwise(sizes)))
    costs = cost.count(model, torch.zeros(batch, tokens, sizes[0]))
    assert [layer.macs for layer in costs] == [tokens * m.weight.numel() for m in model]


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "squeezenet1_1"])
def test_sums_agree_with_torchs_counter(name):
    with torch.device("meta"):
        model = models.from_torchvision(name).eval()
        images = torch.zeros(1, 3, 64, 64)
    with FlopCounterMode(display=False) as counter:
        model(images)
    assert 2 * cost.count(model, images).macs == counter.get_total_flops()


@pytest.mark.parametrize("fused", [False, True])
def test_attention_costs_projections_and_two_products(fused):
    tokens, width, heads = 5, 16, 2

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.qkv = nn.Linear(width, 3 * width)
            self.proj = nn.Linear(width, width)

        def forward(self, x):
            q, k, v = self.qkv(x).unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
            if fused:
                y = F.scaled_dot_product_attention(q, k, v)
            else:
                y = (q @ k.transpose(2, 3)).softmax(-1) @ v
            return self.proj(y.transpose(1, 2).flatten(2))

    costs = cost.count(Attention(), torch.zeros(3, tokens, width))
    assert costs["(model)"].macs == 2 * tokens**2 * width
    assert costs["qkv"].macs + costs["proj"].macs == 4 * tokens * width**2
    assert costs["qkv"].activation_bits == 32


def test_torchs_transformer_layer_is_seen_through_its_fast_path():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    costs = cost.count(layer, torch.zeros(4, 5, 16))
    assert costs.macs == 5 * 16 * 16 * 4 + 2 * 5 * 5 * 16 + 2 * 5 * 16 * 32
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_cost_their_gates_at_every_step(kind, gates):
    layer = kind(8, 16, num_layers=2, batch_first=True, bidirectional=True)
    macs = cost.count(layer, torch.zeros(3, 5, 8)).macs
    assert macs == 2 * 5 * gates * 16 * ((8 + 16) + (32 + 16))
    assert torch.backends.mkldnn.enabled  # type: ignore[attr-defined]


def test_free_products_belong_to_the_module_that_runs_them():
    class Bilinear(nn.Module):
        def forward(self, x):
            return torch.einsum("bij,bjk->bik", x, x) @ x[0, 0]

    costs = cost.count(nn.Sequential(nn.ReLU(), Bilinear()), torch.zeros(2, 4, 4))
    assert {layer.name: layer.macs for layer in costs} == {"1": 4**3 + 4**2}


def test_embeddings_store_but_do_not_multiply():
    costs = cost.count(nn.Embedding(100, 8), torch.zeros(2, 5, dtype=torch.long))
    assert (costs.params, costs.macs, costs.bytes) == (800, 0, 3200)


@given(batch=st.integers(1, 5))
@settings(max_examples=5, deadline=None)
def test_the_batch_does_not_count(batch):
    model = models.resnet_cifar(8, width=2)
    images = torch.zeros(batch, 3, 32, 32)
    assert cost.count(model, images) == cost.count(model, images[:1])


def test_a_whole_example_counts_when_asked():
    layer = nn.Linear(3, 4)
    nodes = torch.zeros(7, 3)
    assert cost.count(layer, nodes).macs == 12
    assert cost.count(layer, nodes, first_sample=False).macs == 7 * 12


def test_several_arguments_come_as_a_tuple_or_by_name():
    layer = nn.Bilinear(2, 3, 4)

    class Product(nn.Module):
        def forward(self, left, right):
            return left @ right

    a, b = torch.zeros(2, 3, 4), torch.zeros(2, 4, 5)
    assert cost.count(Product(), (a, b)).macs == 60
    assert cost.count(Product(), {"left": a, "right": b}).macs == 60
    assert cost.count(layer, (torch.zeros(1, 2), torch.zeros(1, 3))).params == 28


def test_shared_layers_multiply_twice_and_are_stored_once():
    shared = nn.Linear(4, 4, bias=False)
    tied = nn.Linear(4, 4, bias=False)
    tied.weight = shared.weight
    costs = cost.count(nn.Sequential(shared, shared, tied), torch.zeros(1, 4))
    assert (costs.macs, costs.params) == (48, 16)
    assert [layer.calls for layer in costs] == [2, 1]


def test_idle_layers_are_listed_with_no_calls():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x):
            return self.used(x)

    row = cost.count(Half(), torch.zeros(1, 2))["idle"]
    assert (row.calls, row.macs, row.input_shape, row.params) == (0, 0, None, 6)


class SignConv(nn.Conv2d):
    """As the binary layers are: a subclass with attributes, a scale per filter, F.conv2d inside."""

    weight_bits = 1
    activation_bits = 1

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.alpha = nn.Parameter(torch.ones(self.out_channels, 1, 1, 1))

    def forward(self, x):
        return F.conv2d(x.sign(), self.alpha * self.weight.sign(), padding=self.padding)


def test_a_binary_subclass_is_counted_and_packed():
    layer = SignConv(3, 5, 3, padding=1, bias=False)
    costs = cost.count(layer, torch.zeros(1, 3, 4, 4))
    assert costs.bops() == costs.macs == 16 * 3 * 5 * 9
    assert costs.real_macs == 0
    assert costs.params == 135 + 5
    assert costs.bytes == 17 + 4 * 5  # 135 bits in 17 bytes, 5 real scales
    assert cost.storage_bits(costs) == 135 + 32 * 5
    assert cost.storage_bits(costs, rest=False) == 135
    assert cost.bops_product(costs) == costs.macs
    assert cost.ops_bireal(costs) == costs.macs / 64


@pytest.mark.parametrize("bits", [(1, 32), (32, 1), (2, 2)])
def test_only_two_binary_operands_make_a_bop(bits):
    layer = nn.Conv2d(2, 2, 1)
    layer.weight_bits, layer.activation_bits = bits
    costs = cost.count(layer, torch.zeros(1, 2, 3, 3))
    assert costs.bops() == 0
    assert cost.ops_bireal(costs) == costs.macs == 36
    assert cost.bops_product(costs) == 36 * bits[0] * bits[1]


class PackedLinear(nn.Module):
    """A deployed layer: words in a buffer, real scales, products where torch cannot see them."""

    weight_bits = 1
    activation_bits = 1

    def __init__(self):
        super().__init__()
        self.register_buffer("words", torch.zeros(10, 1, dtype=torch.int64))
        self.register_buffer("scale", torch.ones(10))

    def forward(self, x):
        return x.new_zeros(len(x), 50) @ x.new_zeros(50, 10)  # not what it stands for

    def cost_macs(self, input_shape, output_shape):
        return input_shape[1] * output_shape[1]

    def cost_weights(self):
        return 64 * 10


def test_a_deployed_layer_tells_its_own_cost():
    costs = cost.count(nn.Sequential(PackedLinear(), nn.ReLU()), torch.zeros(2, 64))
    (row,) = costs
    assert (row.macs, row.weights, row.params) == (640, 640, 650)
    assert costs.bytes == 80 + 40
    assert costs.bops() == 640


def test_what_a_telling_layer_calls_inside_is_not_counted_again():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(8, 8, bias=False)

        def forward(self, x):
            return self.inner(x) @ x.new_ones(8, 3)

        def cost_macs(self, input_shape, output_shape):
            return 5

        def cost_bytes(self):
            return 99

    costs = cost.count(nn.Sequential(Masked(), nn.Linear(3, 2)), torch.zeros(1, 8))
    assert {layer.name: layer.macs for layer in costs} == {"0": 5, "0.inner": 0, "1": 6}
    assert costs["0"].stored_bytes == 99


def test_the_model_is_left_as_it_was():
    with seeds.scoped(0):
        model = models.mobilenet_v1_cifar(multiplier=0.25, dropout=0.5)
        images = torch.randn(2, 3, 32, 32)
    model.stem.eval()
    modes = [module.training for module in model.modules()]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    drawn = torch.get_rng_state()
    cost.count(model, images)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_model_is_left_as_it_was_after_a_failure():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(4, 4))
    with pytest.raises(RuntimeError, match="shapes"):
        cost.count(model, torch.zeros(1, 3))
    assert all(module.training for module in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.is_grad_enabled()


def test_the_frame_has_a_row_per_layer_and_the_same_sums():
    costs = cost.count(models.resnet_cifar(8, width=2), torch.zeros(1, 3, 32, 32))
    frame = costs.frame()
    assert len(frame) == len(costs)
    assert frame["macs"].sum() == costs.macs
    assert frame["params"].sum() == costs.params
    assert frame["stored_bytes"].sum() == costs.bytes == 4 * costs.params
    assert list(frame["name"][:2]) == ["stem.conv", "stem.bn"]


@pytest.mark.parametrize("bits", [0, 65, 1.5, True])
def test_impossible_bit_widths_name_the_layer(bits):
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].weight_bits = bits
    with pytest.raises(ValueError, match=r"weight_bits of layer '0' .* 1\.\.64"):
        cost.count(model, torch.zeros(1, 2))


def test_unknown_layers_and_wrong_models_are_named():
    costs = cost.count(nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(KeyError, match=r"no layer 'fc'.*\(model\)"):
        costs["fc"]
    with pytest.raises(TypeError, match=r"nn\.Module, got function"):
        cost.count(lambda x: x, torch.zeros(1))  # type: ignore[arg-type]


def test_compiled_models_and_parts_are_counted_as_what_is_inside():
    model = models.resnet_cifar(8, width=2)
    images = torch.zeros(1, 3, 32, 32)
    plain = cost.count(model, images)
    assert cost.count(torch.compile(model), images) == plain
    model.stage1 = torch.compile(model.stage1)
    assert cost.count(model, images).macs == plain.macs
