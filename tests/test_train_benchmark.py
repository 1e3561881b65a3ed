"""The training benchmark at toy size: both sides train the same thing, and what it reports."""

import pytest
import torch
from kernels.bench import train as bench
from kernels.bench import train_accuracy
from kernels.bench.train_plain import PlainLoop
from torch import nn

from compactnets import models, train
from train_toys import (
    one_thread,  # noqa: F401
    toy_images,
    toy_net,
)


def test_the_plain_loop_takes_the_steps_of_fit_but_for_its_own_order():
    images, model = toy_images(16), toy_net()
    how = train.Recipe(epochs=3, batch=16, lr=0.05, stepped="epoch", precision="fp32")
    plain = PlainLoop(model, images, how, seed=0)
    plain.loader.dataset.transform.transforms[:2] = []  # without crop and flip: one batch, no luck
    losses = []
    for _ in range(3):
        assert plain.epoch() > 0
        losses.append(plain.loss)
    fabric = train.make_fabric(how, accelerator="cpu")
    run = train.fit(model, images, how, seed=0, fabric=fabric, cache=False)
    assert losses == pytest.approx([line["loss"] for line in run.history], rel=1e-4)
    assert plain.accuracy == pytest.approx(run.history[-1]["train_accuracy"])
    for ours, theirs in zip(run.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_race_reports_both_sides_and_equal_inputs():
    images = bench.random_images(32, size=16)
    model = nn.Sequential(models.resnet_cifar(8, width=4))
    rounds = bench.race(model, images, batch=16, rounds=2, compile=False)
    assert len(rounds.ours) == len(rounds.plain) == len(rounds.ratios) == 2
    assert 0 < rounds.max_error < (0.2 if "bf16" in rounds.precision else 1e-4)
    entry = bench.entry(rounds, threads=1)
    assert entry.ratio == pytest.approx(min(rounds.plain) / min(rounds.ours))
    assert entry.ours_us == pytest.approx(1e6 * min(rounds.ours) / 32)
    assert "images/s" in str(rounds) and "train.fit" in str(rounds)


def test_the_accuracy_verdict_is_the_paired_interval_against_the_margin():
    rows = [{"seed": s, "ours": 60.0 + s, "plain": 59.5 + s + 0.1 * s} for s in range(3)]
    found = train_accuracy.result(rows, {"network": "toy"})
    assert found["difference"]["mean"] == pytest.approx(0.4) and found["difference"]["n"] == 3
    assert found["verdict"] == "holds" and found["rows"] == rows
    worse = [row | {"ours": row["plain"] - 2} for row in rows]
    assert train_accuracy.result(worse, {})["verdict"] == "fails"
    alone = train_accuracy.result(rows[:1], {})
    assert alone["verdict"] == "undecided" and alone["difference"]["low"] is None  # JSON has no inf
