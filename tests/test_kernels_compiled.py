"""A network that alternates torch's layers and ours, through the real compiler."""

import torch
from torch import nn

from compactnets import kernels


def mixed_network() -> nn.Module:
    torch.manual_seed(0)
    blocks = torch.randn(8, 32, 1, 1).repeat_interleave(4, 0)
    masked = blocks * (torch.rand(8, 32, 1, 1) < 0.5).repeat_interleave(4, 0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        kernels.BinaryConv2d(torch.randn(32, 16, 3, 3), torch.rand(32), padding=1),
        nn.BatchNorm2d(32),
        kernels.BlockSparseConv2d(masked, n=4),
        kernels.Int8Conv2d(torch.randn(16, 32, 3, 3), padding=1, stride=2),
        kernels.AdderConv2d(torch.randn(16, 16, 3, 3), padding=1),
        kernels.ShiftConv2d(torch.randint(-1, 2, (16, 2))),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        kernels.LowBitLinear(torch.randn(10, 256), bits=4),
    ).eval()


def test_inductor_compiles_it_in_one_graph_and_keeps_its_outputs():
    network, x = mixed_network(), torch.randn(2, 3, 12, 12)
    with torch.inference_mode():
        compiled = torch.compile(network, fullgraph=True)
        torch.testing.assert_close(compiled(x), network(x), rtol=1e-4, atol=1e-4)


def test_it_survives_its_state_dict():
    network, other, x = mixed_network(), mixed_network(), torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        for value in other.state_dict().values():
            value.zero_()
    other.load_state_dict(network.state_dict())
    with torch.inference_mode():
        assert torch.equal(other(x), network(x))
