"""Compiled and eager training take the same steps, methods with state included."""

import shutil
from functools import partial

import pytest
import torch
from torch import nn

from compactnets.binary import ReBNN
from train_toys import (
    Log,
    one_thread,  # noqa: F401
    toy_images,
    toy_net,
    train_toy,
)

# A method's state changes between steps (counted flips, the gradient that carries max|g| out): the
# compiled graph must see it as eager code does.
# Code is generated where there is g++; without it the rest of the compiler has to do.
BACKENDS = ["inductor" if shutil.which("g++") else "aot_eager"]


class InDouble(nn.Module):
    """Runs a network in float64 on what the loop hands out in float32."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net.double()

    def forward(self, x):
        return self.net(x.double())


class ReBNNInDouble(ReBNN):
    def prepare(self, model, example):
        return InDouble(super().prepare(model, example))


def choose(compiler, chosen, model, **options):
    return compiler(model, **{**options, "backend": chosen})


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiled_gradients_of_rebnn_equal_eager_ones_while_signs_flip(backend, monkeypatch):
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", partial(choose, compiler, backend))
    monkeypatch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")
    torch._dynamo.reset()
    logs = []
    for compiled in (False, True):
        logs.append(log := Log())
        train_toy(
            toy_net(),
            toy_images(48),
            method=ReBNNInDouble(latent_lr=20.0),
            epochs=1,
            compile=compiled,
            hooks=[log],
        )
    eager, compiled = logs
    share = [state["net.3.binarizer.share"] for state in eager._states]
    assert len(share) == 4 and share[1].sum() > 0 and share[2].sum() > 0  # gamma was at work
    for ours, theirs in zip(eager._gradients, compiled._gradients, strict=True):
        assert len(ours) == len(theirs) > 0
        for one, two in zip(ours, theirs, strict=True):
            assert torch.allclose(one, two, rtol=1e-9, atol=1e-12)
    for one, two in zip(eager._states, compiled._states, strict=True):
        for name, value in one.items():
            assert torch.allclose(value.double(), two[name].double(), rtol=1e-9), name
