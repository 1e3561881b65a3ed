"""Networks made ready for inference, and the stages of their time."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from compactnets import kernels, models
from compactnets.binary import (
    XNOR,
    BiReal,
    ReAct,
    react_resnet_cifar,
    react_resnet_imagenet,
)
from compactnets.binary.fused import FusedBlock, FusedPReLU, fused
from compactnets.binary.react import ReactBlock, ShiftedPReLU
from compactnets.binary.react_mobilenet import react_mobilenet_cifar
from compactnets.binary.stages import kernel_stages, network_stages, react_stage, split
from compactnets.models.graph import fold_norms
from train_toys import one_thread  # noqa: F401


def lively(model, seed=0):
    """In eval mode, with any values in statistics and learned shifts."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point() and value.dim() == 1:
                noise = torch.randn(value.shape, generator=generator)
                value.copy_(0.5 + noise.abs() if "running_var" in name else value + 0.2 * noise)
    return model.eval()


def small(seed=0):
    return lively(react_resnet_cifar(8, width=8), seed)


def images(n=2):
    x = torch.randn(n, 3, 32, 32, generator=torch.Generator().manual_seed(5))
    return x.contiguous(memory_format=torch.channels_last)


def binary(method, model=None):
    """A deployed network; its 1-bit layers take the same signs before and after fusing."""
    model = small() if model is None else model
    return method.deploy(lively(method.prepare(model, images())))


NETS = {  # network, batch normalizations that stay
    "real": (small, 0),
    "1-bit": (lambda: binary(ReAct()), 0),
    "no shift": (lambda: binary(BiReal()), 0),
    "scaled by sample": (lambda: binary(XNOR()), 6),  # nothing folds through that scale
    "mobile": (lambda: lively(react_mobilenet_cifar(8)), 0),
    "vgg": (lambda: lively(models.vgg_small(width=4)), 3),  # a pooling comes between
    "resnet": (lambda: lively(models.resnet_cifar(8, width=4)), 0),
}


@pytest.mark.parametrize("name", NETS)
def test_the_fused_network_gives_the_same_outputs_and_the_argument_stays(name):
    make, norms = NETS[name]
    model = make()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fast = fused(model)
    with torch.inference_mode():
        expected = model(images())
        assert torch.allclose(fast(images()), expected, atol=1e-4 * float(expected.abs().max()))
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    left = [m for m in fast.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(left) == norms
    assert not any(isinstance(m, ReactBlock | ShiftedPReLU) for m in fast.modules())
    assert not any(m.training for m in fast.modules())


def test_the_first_shift_goes_into_the_bias_only_where_nothing_lies_between():
    blocks = [m for m in fused(binary(ReAct())).modules() if isinstance(m, FusedBlock)]
    assert len(blocks) == 6 and all(b.activation.before is None for b in blocks)
    blocks = [m for m in fused(binary(XNOR())).modules() if isinstance(m, FusedBlock)]
    assert len(blocks) == 6 and all(b.activation.before is not None for b in blocks)
    stem = fused(small()).stem[2]
    assert isinstance(stem, FusedPReLU) and stem.before is not None


def test_norms_are_folded_into_the_real_convolutions_alone():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    folded = fold_norms(lively(net))
    assert isinstance(folded[1], nn.Identity) and isinstance(folded[2], nn.BatchNorm2d)
    with torch.inference_mode():
        assert torch.allclose(folded(images()), net(images()), atol=1e-5)
    layer = ReAct().layer(nn.Conv2d(3, 4, 3, bias=False))
    net = nn.Sequential(layer, nn.BatchNorm2d(4)).eval()
    assert isinstance(fold_norms(net)[1], nn.BatchNorm2d)
    with pytest.raises(ValueError, match="training mode"):
        fold_norms(net.train())
    with pytest.raises(ValueError, match="training mode"):
        fused(small().train())


TIMES = st.floats(0, 100)


@given(
    call=TIMES, packing=TIMES, gemm=TIMES, epilogue=TIMES, channels=st.sampled_from([16, 64, 200])
)
def test_the_split_recovers_the_stages_that_the_times_are_made_of(
    call, packing, gemm, epilogue, channels
):
    layer = kernels.BinaryConv2d(torch.ones(8, channels, 3, 3))
    steps = 9 * -(-channels // 64)
    times = {
        "whole": call + packing + gemm + epilogue,
        "packing": call + packing,
        "result": call + epilogue + gemm / steps,
        "call": call,
    }
    stages = {"call": call, "packing": packing, "GEMM": gemm, "epilogue": epilogue}
    assert split(layer, times) == pytest.approx(stages, abs=1e-9)


def test_no_stage_is_negative_whatever_the_noise():
    layer = kernels.BinaryConv2d(torch.ones(8, 64, 3, 3))
    found = split(layer, {"whole": 1.0, "packing": 0.5, "result": 3.0, "call": 2.0})
    assert min(found.values()) >= 0 and found["GEMM"] == 0
    pointwise = kernels.BinaryConv2d(torch.ones(8, 64, 1, 1))  # one step: the whole is the result
    assert split(pointwise, {"whole": 5.0, "packing": 2.0, "result": 4.0, "call": 1.0}) == {
        "call": 1.0,
        "packing": 1.0,
        "GEMM": 0.0,
        "epilogue": 3.0,
    }


@pytest.mark.parametrize("isa", kernels.supported())
def test_a_layers_stages_are_measured_on_any_geometry(isa):
    layer = kernels.BinaryConv2d(
        torch.randn(24, 20, 3, 3),
        bias=torch.zeros(24),
        input_shift=torch.zeros(40),
        stride=2,
        groups=2,
    )
    found = kernel_stages(layer, torch.randn(2, 40, 9, 7), rounds=1)
    assert list(found) == ["call", "packing", "GEMM", "epilogue"]
    assert all(value >= 0 for value in found.values())


def test_the_stages_of_a_network_are_named_and_leave_it_as_it_was():
    fast = fused(binary(ReAct()))
    x = images(1)
    with torch.inference_mode():
        expected = fast(x)
        found = network_stages(fast, x, react_stage, rounds=1)
        assert torch.equal(fast(x), expected)
    named = {"call", "packing", "GEMM", "epilogue", "stem", "head", "PReLU"}
    assert found.keys() == named | {"shortcut convolutions", "additions, pooling, calls"}
    assert all(value >= 0 for value in found.values())
    with pytest.raises(ValueError, match="ReactResNet has no 1-bit kernel: deploy it first"):
        network_stages(fused(small()), x, react_stage, rounds=1)


def test_the_stages_of_the_imagenet_network_cover_its_real_valued_layers():
    with torch.device("meta"):
        model = react_resnet_imagenet(18)
    names = [(n, react_stage(n, m)) for n, m in model.named_modules()]
    assert sum(stage == "shortcut convolutions" for _, stage in names) == 3
    assert [n for n, stage in names if stage in ("stem", "head")] == ["stem", "head"]
