"""Meters of weight oscillation beside a simulation of signs by hand."""

from itertools import pairwise

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from compactnets.binary import ReBNN
from compactnets.binary.layers import BinaryConv2d
from compactnets.binary.oscillation import (
    GammaTrace,
    LatentSnapshots,
    OscillationMeter,
    ThresholdMeter,
    near_zero_share,
)
from compactnets.binary.rebnn import Remember, ResilientScale
from compactnets.method import Progress
from train_toys import toy_images, toy_net, train_toy

# A busy machine is no failure.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def network(gamma="adaptive"):
    conv = nn.Conv2d(2, 2, 1, bias=False)
    layer = BinaryConv2d(conv, lambda w: ResilientScale(w, gamma))
    return nn.Sequential(layer), layer


def put(layer, values):
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(values).view(2, 2, 1, 1))


def watch(model, hook, epochs=1):
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    hook.start(progress := Progress(model, optimizer, 1, epochs))
    return progress


def test_flips_and_consecutive_flips_of_a_sequence_worked_out_by_hand():
    model, layer = network()
    put(layer, [1.0, 1.0, -1.0, 0.0])
    progress = watch(model, meter := OscillationMeter())
    sequence = [
        [-1.0, 1.0, -1.0, -0.0],  # the first flips; -0 is positive like 0
        [1.0, 1.0, 1.0, 0.1],  # the first flips again (consecutive), the third for the first time
        [1.0, -1.0, 1.0, 0.1],  # the second flips
        [1.0, 1.0, -1.0, 0.1],  # the second again (consecutive), the third after a pause
    ]
    for values in sequence:
        put(layer, values)
        meter.after_step(progress)
    line = meter.epoch_end(progress)
    assert line["flips"] == {"0": 6 / 4 / 4}
    assert line["consecutive"] == {"0": 2 / 4 / 4}
    assert line["alpha"] == {"0": pytest.approx(layer.binarizer.alpha.abs().mean().item())}
    put(layer, [1.0, -1.0, -1.0, 0.1])  # the second flips for the third time in a row
    meter.after_step(progress)
    line = meter.epoch_end(progress)  # counts begin anew with the epoch, memory of signs does not
    assert line["flips"] == {"0": 1 / 4} and line["consecutive"] == {"0": 1 / 4}


@calm
@given(seed=st.integers(0, 2**16), steps=st.integers(1, 8))
def test_flips_equal_a_count_over_stored_signs(seed, steps):
    generator = torch.Generator().manual_seed(seed)
    model, layer = network()
    history = [layer.weight.detach() >= 0]
    progress = watch(model, meter := OscillationMeter())
    for _ in range(steps):
        with torch.no_grad():
            layer.weight.copy_(torch.randn(2, 2, 1, 1, generator=generator))
        meter.after_step(progress)
        history.append(layer.weight.detach() >= 0)
    changes = [a != b for a, b in pairwise(history)]
    twice = [a & b for a, b in pairwise(changes)]
    line = meter.epoch_end(progress)
    assert line["flips"]["0"] == pytest.approx(sum(int(c.sum()) for c in changes) / 4 / steps)
    assert line["consecutive"]["0"] == pytest.approx(sum(int(c.sum()) for c in twice) / 4 / steps)


def test_mass_near_zero_is_relative_to_the_filter():
    w = torch.tensor([[[[1.0, 1.0, 1.9, 0.1]]], [[[10.0, 10.0, 19.0, 1.0]]]])
    assert near_zero_share(w, 0.2) == near_zero_share(w[:1], 0.2) == near_zero_share(w[1:], 0.2)
    assert near_zero_share(w, 0.2) == 0.25 and near_zero_share(w, 0.1) == 0
    assert near_zero_share(1e-3 * w, 0.2) == 0.25


def backward(model, layer, gradient):
    """One backward pass whose dL/dw_hat is the given one."""
    layer.weight.grad = None
    w_hat = layer.binarizer(layer.weight)
    w_hat.backward(torch.tensor(gradient).view(2, 2, 1, 1))


def test_the_gamma_trace_shows_gamma_and_the_peak_every_so_many_steps():
    model, layer = network()
    put(layer, [0.5, 0.5, 0.5, 0.5])
    for _ in range(2):  # the second time nothing has moved
        layer.binarizer.remember(layer.weight)
    remember, trace = Remember(), GammaTrace("0", channels=1, every=2)
    progress = watch(model, remember)
    trace.start(progress)
    for step, values in enumerate([[0.5, 0.5], [-0.5, 0.5], [-0.5, 0.5]]):
        progress.step = step
        backward(model, layer, [1.0, -4.0, 2.0, 0.0])
        trace.after_backward(progress)
        put(layer, [*values, 0.5, 0.5])
        remember.after_step(progress)
    rows = trace.epoch_end(progress)["gamma_trace"]
    assert rows == [
        {"step": 0, "gamma": [0.0], "peak": [4.0]},
        {"step": 2, "gamma": [2.0], "peak": [4.0]},  # half of the filter flipped in step 1
    ]
    assert trace.epoch_end(progress)["gamma_trace"] == []


def test_a_gamma_trace_of_a_layer_without_gamma_is_refused():
    model = ReBNN(scale="analytic").prepare(toy_net(), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="layer 3 has no gamma: its binarizer is AnalyticScale"):
        watch(model, GammaTrace("3"))


def test_the_threshold_meter_finds_gamma_and_the_weights_below_it():
    model, layer = network(gamma=3.0)
    put(layer, [0.5, -0.5, 2.0, 0.1])  # 2.0 lies outside the window: its gradient counts as 0
    remember, meter = Remember(), ThresholdMeter(every=1)
    progress = watch(model, remember)
    meter.start(progress)
    backward(model, layer, [1.0, -4.0, 8.0, 2.0])
    meter.after_backward(progress)
    line = meter.epoch_end(progress)
    assert line["largest_gamma"] == 3.0
    assert line["gamma_over_peak"] == pytest.approx((3 / 4 + 3 / 8) / 2)
    assert line["below"] == 3 / 4  # all but the -4
    assert meter.epoch_end(progress) is None


def test_the_threshold_meter_refuses_frozen_layers():
    model, layer = network()
    progress = watch(model, meter := ThresholdMeter())
    with pytest.raises(ValueError, match="no gradient to look at"):
        meter.after_backward(progress)
    assert layer.weight.grad is None


def test_a_training_run_carries_the_meters_numbers_in_its_history():
    hooks = [OscillationMeter(), GammaTrace("3", 2), ThresholdMeter(2), LatentSnapshots("3", 1)]
    run = train_toy(images=toy_images(32), method=ReBNN(latent_lr=20.0), hooks=hooks)
    for line in run.history:
        assert 0 <= line["consecutive"]["3"] <= line["flips"]["3"] <= 1
        assert [row["step"] for row in line["gamma_trace"]] == [0, 1] or line["epoch"] == 1
        assert all(
            0 <= gamma <= peak * (1 + 1e-6)
            for row in line["gamma_trace"]
            for gamma, peak in zip(row["gamma"], row["peak"], strict=True)
        )
        assert len(line["latent"]) == 6 * 9 and 0 <= line["below"] <= 1
    assert run.history[-1]["latent"] == run.model[3].weight[0].flatten().tolist()


def test_hooks_show_their_options_as_they_enter_the_checkpoint_key():
    assert repr(GammaTrace("3", channels=2)) == "GammaTrace(channels=2, every=1, layer='3')"
    assert repr(ThresholdMeter(5)) == "ThresholdMeter(every=5)"
    assert repr(LatentSnapshots("a.b")) == "LatentSnapshots(filters=1, layer='a.b')"
    meter = OscillationMeter()
    watch(network()[0], meter)
    assert repr(meter) == "OscillationMeter()"  # what it has counted is no option
