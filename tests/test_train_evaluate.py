"""Evaluation: counted by hand, in fp32 and eval mode, each read of a test split on the log."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compactnets import data, train
from train_toys import (
    DEVICES,
    one_thread,  # noqa: F401
    toy_images,
    toy_net,
)


class Witness(nn.Module):
    """Notes in which mode and type it was called."""

    def __init__(self):
        super().__init__()
        self.net, self.seen = toy_net(), []

    def forward(self, x):
        self.seen.append((self.training, x.dtype, len(x), torch.is_grad_enabled()))
        return self.net(x)


@pytest.mark.parametrize("batch", [1, 7, 500])
@pytest.mark.parametrize("device", DEVICES)
def test_accuracy_and_loss_equal_a_count_by_hand_whatever_the_batch(batch, device):
    images, model = toy_images(30, split="tune"), toy_net().eval()
    right, nats = 0, 0.0
    with torch.no_grad():
        for image, label in zip(images.images, images.labels.tolist(), strict=True):
            logits = model((image[None].float() / 255 - 0.5) / 0.25)[0].tolist()
            right += logits.index(max(logits)) == label
            nats -= F.log_softmax(torch.tensor(logits), 0)[label].item()
    result = train.evaluate(model.to(device), images, purpose="test", batch=batch)
    assert result == pytest.approx({"accuracy": 100 * right / 30, "loss": nats / 30}, rel=1e-4)


@pytest.mark.parametrize("training", [True, False])
def test_it_runs_in_eval_mode_and_fp32_and_restores_the_mode(training):
    model = Witness().train(training)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    train.evaluate(model, toy_images(10), purpose="test", batch=8)
    assert model.seen == [(False, torch.float32, n, False) for n in (8, 2)]
    assert model.training == training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_the_mode_is_restored_after_an_error_too():
    model = toy_net().train()
    with pytest.raises(RuntimeError):
        train.evaluate(model, toy_images(8), purpose="test", metrics={"broken": torch.matmul})
    assert model.training


def test_only_reads_of_the_test_split_are_logged_with_their_purpose():
    data.clear_test_reads()
    for split in ("train", "tune", "test"):
        train.evaluate(toy_net(), toy_images(8, split=split), purpose=f"{split}, seed 0")
    reads = data.test_reads()
    data.clear_test_reads()
    assert [(read.name, read.items, read.purpose) for read in reads] == [("toy", 8, "test, seed 0")]


def test_a_test_read_without_a_purpose_is_refused():
    with pytest.raises(ValueError, match="say what toy/test is evaluated for"):
        train.evaluate(toy_net(), toy_images(8, split="test"), purpose=" ")


def test_an_empty_set_is_an_error_that_names_it_and_no_read():
    data.clear_test_reads()
    with pytest.raises(ValueError, match="toy test is empty"):
        train.evaluate(toy_net(), toy_images(0, split="test"), purpose="test")
    assert data.test_reads() == []


def test_a_metric_of_ones_own_is_averaged_over_the_items():
    metrics = {"items": lambda output, target: target.float() + 1}
    result = train.evaluate(toy_net(), toy_images(7), purpose="test", metrics=metrics, batch=4)
    assert result == pytest.approx({"items": (1 + 2 + 3 + 4 + 1 + 2 + 3) / 7})


def test_a_network_without_parameters_is_evaluated_on_the_cpu():
    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    assert train.evaluate(model, toy_images(8), purpose="test")["accuracy"] >= 0
