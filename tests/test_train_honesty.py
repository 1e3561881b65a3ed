"""What would make a run silently another one than it says: keys, seeds, modes, shared weights."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compactnets import train
from compactnets.train import CheckpointCache
from compactnets.train.many import TrainingFailed, fit_many
from train_toys import one_thread, toy_images, toy_net, toy_recipe  # noqa: F401


def scaled(factor):
    return lambda output, target: factor * F.cross_entropy(output, target)


def test_a_loss_that_differs_in_its_closure_has_another_key(tmp_path):
    cache = CheckpointCache(tmp_path)
    keys = [
        train.fit(toy_net(), toy_images(), toy_recipe(), seed=0, loss=scaled(f), cache=cache).key
        for f in (1.0, 0.5, 1.0)
    ]
    assert keys[0] == keys[2] != keys[1]


def test_dropout_does_not_break_same_seed_same_bits():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.Dropout(0.5), nn.Linear(16, 4))
    before = torch.get_rng_state()
    runs = [train.fit(model, toy_images(), toy_recipe(), seed=1, cache=False) for _ in range(2)]
    for a, b in zip(*(run.model.parameters() for run in runs), strict=True):
        assert torch.equal(a, b)
    assert torch.equal(before, torch.get_rng_state())


def test_tied_weights_survive_the_cache(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 192), nn.Linear(192, 192), nn.Linear(192, 4))
    model[2].weight = model[1].weight
    cache = CheckpointCache(tmp_path)
    first, again = (
        train.fit(model, toy_images(), toy_recipe(epochs=1), seed=0, cache=cache) for _ in range(2)
    )
    assert again.cached and again.model[1].weight is again.model[2].weight
    assert torch.equal(first.model[1].weight, again.model[2].weight)


def test_no_data_is_an_error_that_names_the_run():
    with pytest.raises(ValueError, match="tiny: no data to train on"):
        train.fit(toy_net(), toy_images(0), toy_recipe(), seed=0, name="tiny", cache=False)


@pytest.mark.parametrize("stepped", ["step", "epoch"])
@pytest.mark.parametrize("warmup", [0.5, 1.0, 1.5])
def test_the_learning_rate_never_exceeds_its_peak(stepped, warmup):
    recipe = toy_recipe(epochs=3, warmup_epochs=warmup, stepped=stepped, schedule="linear")
    factors = [recipe.lr_factor(step, 5) for step in range(15)]
    assert max(factors) <= 1 and min(factors) >= 0


@pytest.mark.parametrize(
    "option",
    [{"weight_decay": -1}, {"momentum": -0.1}, {"label_smoothing": 5}, {"grad_clip": 0.0},
     {"warmup_epochs": 9}],
)  # fmt: skip
def test_a_recipe_refuses_what_cannot_be_meant(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        toy_recipe(**option)


def test_evaluation_leaves_a_frozen_norm_frozen():
    model = toy_net().train()
    model[1].eval()
    train.evaluate(model, toy_images(), purpose="modes")
    assert model.training and not model[1].training and model[4].training


def test_one_at_a_time_also_finishes_the_others_before_it_fails(tmp_path):
    def wrong(output, target):
        raise RuntimeError("no such loss")

    cache = CheckpointCache(tmp_path)
    jobs = [
        train.Job(toy_net(), toy_images(), toy_recipe(), 0, loss=loss, name=name)
        for name, loss in (("bad", wrong), ("good", None))
    ]
    with pytest.raises(TrainingFailed, match="bad: no such loss"):
        fit_many(jobs, at_once=1, cache=cache)
    assert fit_many(jobs[1:], at_once=1, cache=cache)[0].cached
