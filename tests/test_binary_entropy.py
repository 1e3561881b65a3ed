"""Entropy of signs and histograms of latent weights."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from compactnets.binary import BNN, ReCU
from compactnets.binary.entropy import (
    SignEntropy,
    activation_entropy,
    binary_entropy,
    sign_entropy,
)
from compactnets.binary.oscillation import LatentHistogram, OscillationMeter, latent_histogram
from compactnets.binary.recu import standardized
from train_toys import one_thread, toy_images, toy_net, train_toy  # noqa: F401

# A busy machine is no failure.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=30)


@calm
@given(p=st.floats(0, 1))
def test_the_entropy_of_a_bit_is_symmetric_and_largest_at_one_half(p):
    h, mirrored = binary_entropy(torch.tensor([p, 1 - p])).tolist()
    assert h == pytest.approx(mirrored, abs=1e-4) and 0 <= h <= 1 + 1e-6
    if 1e-6 < p < 1 - 1e-6:
        worked = -p * math.log2(p) - (1 - p) * math.log2(1 - p)
        assert h == pytest.approx(worked, abs=1e-4)
    assert binary_entropy(torch.tensor([0.0, 0.5, 1.0])).tolist() == [0, 1, 0]


def test_the_entropy_of_a_filter_counts_zero_as_positive():
    w = torch.tensor([[0.0, 1.0, 2.0, 3.0], [-1.0, 1.0, -0.0, -2.0], [-1.0, -1.0, -1.0, 5.0]])
    assert sign_entropy(w).tolist() == pytest.approx([0, 1, 0.8112781], abs=1e-5)


def test_activations_of_one_sign_have_no_entropy_and_of_both_have_one_bit():
    net = BNN().prepare(toy_net(norm=False), torch.zeros(1, 3, 8, 8))
    net[0] = nn.Identity()
    pixels = torch.arange(16).view(1, 1, 4, 4) % 2 - 0.5
    for x, expected in ((pixels.expand(2, 6, 4, 4), 1.0), (torch.ones(2, 6, 4, 4), 0.0)):
        assert activation_entropy(net, x) == {"3": pytest.approx(expected, abs=1e-6)}
    assert not net[3].activation._forward_hooks


def test_activation_entropy_is_a_mean_over_channels_of_maps_and_of_rows():
    rows = nn.Sequential(nn.Identity(), nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    net = BNN().prepare(rows, torch.zeros(1, 2))
    x = torch.tensor([[[1.0, -1.0], [1.0, 1.0]]])  # one feature constant, one balanced
    net[1] = nn.Identity()
    assert activation_entropy(net, x) == {"2": pytest.approx(0.5)}


@calm
@given(seed=st.integers(0, 2**16), size=st.floats(0.01, 100))
def test_the_histogram_holds_all_weights_and_does_not_depend_on_their_size(seed, size):
    w = torch.randn(3, 40, generator=torch.Generator().manual_seed(seed))
    shares = latent_histogram(w, 10, 2.0)
    assert float(shares.sum()) == pytest.approx(1) and len(shares) == 10
    assert float((shares - latent_histogram(size * w, 10, 2.0)).abs().sum()) <= 2 / 120 + 1e-6


def test_the_histograms_bins_worked_out_by_hand():
    w = torch.tensor([[-7.0, -1.0, 1.0, 1.0, 0.0, 2.0]])  # mean magnitude 2
    assert latent_histogram(w, 4, 2.0).tolist() == pytest.approx([1 / 6, 1 / 6, 3 / 6, 1 / 6])


def test_a_training_run_carries_entropy_histogram_and_flips_of_what_the_sign_is_taken_of():
    hooks = [SignEntropy(), LatentHistogram(8), OscillationMeter()]
    run = train_toy(images=toy_images(32), method=ReCU(), hooks=hooks)
    last, w = run.history[-1], run.model[3].weight.detach()
    expected = sign_entropy(standardized(w)).mean()  # of the centered filters, not of the weights
    assert last["entropy"] == {"3": pytest.approx(float(expected), abs=1e-6)}
    assert len(last["histogram"]["3"]) == 8 and sum(last["histogram"]["3"]) == pytest.approx(1)
    assert (
        repr(hooks[1]) == "LatentHistogram(bins=8, bound=4.0)" and repr(hooks[0]) == "SignEntropy()"
    )
    scale = float(run.model[3].binarizer.alpha.detach().abs().mean())
    assert last["alpha"] == {"3": pytest.approx(scale)} and 0 <= last["flips"]["3"] <= 1
