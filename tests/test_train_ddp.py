"""Data-parallel training: two processes take the steps of one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train_ddp
from compactnets import train
from train_toys import (
    one_thread,  # noqa: F401
    toy_images,
    toy_net,
)


def test_two_processes_with_one_global_batch_train_like_one(tmp_path):
    script, answer = Path(train_ddp.__file__), tmp_path / "history.json"
    done = subprocess.run(
        [sys.executable, script, answer], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two = json.loads(answer.read_text())
    assert two["processes"] == 2 and two["apart"] == 0  # both hold the same network
    recipe = train_ddp.recipe()
    one = train.fit(
        toy_net(norm=False),
        toy_images(train_ddp.IMAGES),
        recipe,
        seed=0,
        fabric=train.make_fabric(recipe, accelerator="cpu"),
        cache=False,
    )
    losses = [line["loss"] for line in one.history]
    assert losses[-1] < losses[0]
    assert two["loss"] == pytest.approx(losses, abs=1e-4)
    assert two["accuracy"] == pytest.approx([line["train_accuracy"] for line in one.history])
    weight = torch.tensor(two["weight"])
    assert torch.allclose(weight, one.model[0].weight.detach().flatten(), atol=1e-4)
