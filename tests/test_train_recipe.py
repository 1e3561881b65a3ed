"""Recipes: what they refuse, and the learning rate at every step in closed form."""

import dataclasses
import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compactnets.data.augment import Compose, RandomCrop, RandomFlip
from compactnets.train import Recipe

# A busy machine is no failure.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

SOME_EPOCHS = st.integers(1, 8)
SOME_STEPS = st.integers(1, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"lr": -1.0}, "lr must be positive, got -1.0"),
        ({"lr": math.nan}, "lr must be positive, got nan"),
        ({"ema": 0.0}, "ema must lie between 0 and 1, got 0.0"),
        ({"ema": 1.0}, "ema must lie between 0 and 1, got 1.0"),
        ({"optimizer": "lion"}, "optimizer must be one of .*got 'lion'"),
        ({"schedule": "step"}, "schedule must be one of .*got 'step'"),
        ({"halve_every": 0}, "halve_every must be at least 1, got 0"),
        ({"stepped": "never"}, "stepped must be one of .*got 'never'"),
        ({"precision": "fp8"}, "precision must be one of .*got 'fp8'"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**{"epochs": 1, **options})


def test_a_misspelt_option_fails():
    with pytest.raises(TypeError, match="weight_decy"):
        Recipe(epochs=1, weight_decy=0.1)  # type: ignore[call-arg]


def test_halving_takes_half_after_every_so_many_epochs_of_which_warm_up_is_none():
    recipe = Recipe(epochs=8, schedule="halving", halve_every=3, warmup_epochs=1)
    factors = [recipe.lr_factor(2 * epoch + 1, 2) for epoch in range(8)]
    assert factors == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25]


@calm
@given(epochs=SOME_EPOCHS, steps=SOME_STEPS)
def test_schedules_equal_their_closed_forms_at_every_step(epochs, steps):
    total = epochs * steps
    for step in range(total):
        done = step / total
        expected = {"constant": 1, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}
        for schedule, factor in expected.items():
            recipe = Recipe(epochs=epochs, schedule=schedule)
            assert recipe.lr_factor(step, steps) == pytest.approx(factor, abs=1e-12)


@calm
@given(epochs=SOME_EPOCHS, steps=SOME_STEPS)
def test_a_schedule_stepped_by_epoch_moves_only_between_epochs(epochs, steps):
    recipe = Recipe(epochs=epochs, schedule="linear", stepped="epoch")
    factors = [recipe.lr_factor(step, steps) for step in range(epochs * steps)]
    assert factors == pytest.approx([1 - step // steps / epochs for step in range(len(factors))])


@calm
@given(
    epochs=SOME_EPOCHS,
    steps=SOME_STEPS,
    warmup=st.integers(1, 4),
    schedule=st.sampled_from(["constant", "linear", "cosine"]),
    stepped=st.sampled_from(["step", "epoch"]),
)
def test_warm_up_rises_in_equal_steps_to_the_peak_where_the_schedule_begins(
    epochs, steps, warmup, schedule, stepped
):
    recipe = Recipe(
        epochs=epochs + warmup, warmup_epochs=warmup, schedule=schedule, stepped=stepped
    )
    plain = Recipe(epochs=epochs, schedule=schedule, stepped=stepped)
    rise = warmup * steps
    factors = [recipe.lr_factor(step, steps) for step in range(rise + epochs * steps)]
    assert factors[:rise] == pytest.approx([(step + 1) / rise for step in range(rise)])
    assert factors[rise:] == pytest.approx(
        [plain.lr_factor(s, steps) for s in range(epochs * steps)]
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_the_optimizer_is_the_named_one_with_the_recipes_settings(name, kind):
    recipe = Recipe(epochs=1, optimizer=name, lr=0.5, momentum=0.7, weight_decay=0.01)
    plain, scaled = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    groups = [{"params": [plain]}, {"params": [scaled], "lr_scale": 100, "weight_decay": 0.0}]
    optimizer = recipe.make_optimizer(groups)
    assert type(optimizer) is kind
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 50]
    assert [g["initial_lr"] for g in optimizer.param_groups] == [0.5, 50]
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.01, 0.0]
    assert all(g["momentum"] == 0.7 for g in optimizer.param_groups if name == "sgd")
    assert "lr" not in groups[0]  # the caller's dicts stay the caller's


OTHER = {
    "epochs": 3,
    "batch": 32,
    "optimizer": "adam",
    "lr": 0.2,
    "momentum": 0.8,
    "weight_decay": 0.1,
    "schedule": "linear",
    "stepped": "epoch",
    "halve_every": 5,
    "warmup_epochs": 1.0,
    "augment": Compose(RandomCrop(4), RandomFlip()),
    "label_smoothing": 0.1,
    "grad_clip": 1.0,
    "ema": 0.9,
    "precision": "fp32",
    "compile": True,
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Recipe)])
def test_every_setting_shows_in_the_repr_that_checkpoints_are_filed_under(name):
    usual = Recipe(epochs=1)
    assert repr(dataclasses.replace(usual, **{name: OTHER[name]})) != repr(usual)
    assert "object at 0x" not in repr(Recipe(**OTHER))
