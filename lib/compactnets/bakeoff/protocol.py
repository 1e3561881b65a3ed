"""One protocol for all: start from the real network, equal recipe, then the same measures."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import nn

from compactnets import data, profiles
from compactnets.bakeoff.methods import method
from compactnets.bakeoff.networks import RESNET, network
from compactnets.binary.oscillation import OscillationMeter
from compactnets.data import ImageSet
from compactnets.data.corruptions import corrupted
from compactnets.train import Job, Recipe, evaluate

# SGD 0.1 and 0.01 with momentum, Adam 1e-3 and 1e-4: BiBench's grid without its step schedule.
RECIPES: dict[str, dict] = {
    "SGD 0.1": {"optimizer": "sgd", "lr": 0.1, "weight_decay": 1e-4},
    "SGD 0.01": {"optimizer": "sgd", "lr": 0.01, "weight_decay": 1e-4},
    "Adam 1e-3": {"optimizer": "adam", "lr": 1e-3},
    "Adam 1e-4": {"optimizer": "adam", "lr": 1e-4},
}


def binary_recipe(kind: str, profile: str) -> Recipe:
    """Adam 1e-3 along a cosine to 0, batch 128, crop and flip: for every method and network.

    The kind decides only what is compiled: runs this short pay for it where layers are many.
    """
    many_layers = kind == RESNET
    return Recipe(
        epochs=profiles.pick(profile, smoke=1, quick=1, standard=2, full=120),
        batch=profiles.pick(profile, smoke=32, quick=64, standard=128, full=128),
        optimizer="adam",
        lr=1e-3,
        schedule="cosine",
        augment=data.augment.Compose(data.augment.RandomCrop(4), data.augment.RandomFlip()),
        compile=profiles.pick(profile, smoke=False, quick=False, standard=many_layers, full="auto"),
    )


def binary_job(
    name: str, kind: str, profile: str, seed: int, *, start: nn.Module, train: ImageSet
) -> Job:
    """Trains a method of METHODS from `start`, the kind's real network of the same seed."""
    return Job(
        start,
        train,
        binary_recipe(kind, profile),
        seed,
        method=method(name, seed),
        hooks=(OscillationMeter(),),
        name=f"{kind}, {name}, seed {seed}",
    )


def recipe_job(
    name: str | None, kind: str, profile: str, seed: int, *, recipe: str, train: ImageSet
) -> Job:
    """Trains from the untrained network under one of RECIPES; name None: in full precision.

    Epochs, batch and schedule are binary_recipe's. ValueError for an unknown recipe.
    """
    if recipe not in RECIPES:
        raise ValueError(f"unknown recipe {recipe!r}: choose one of {', '.join(RECIPES)}")
    return Job(
        network(kind, profile, seed),
        train,
        replace(binary_recipe(kind, profile), **RECIPES[recipe]),
        seed,
        method=method(name, seed) if name else None,
        name=f"{kind}, {name or 'full precision'}, {recipe}, seed {seed}",
    )


def corrupted_sets(
    test: ImageSet, names: Iterable[str], severities: Iterable[int]
) -> dict[tuple[str, int], ImageSet]:
    """The same test images under every corruption and severity: (name, severity) -> set."""
    severities = tuple(severities)
    return {(name, s): corrupted(test, name, s) for name in names for s in severities}


def accuracies(
    model: nn.Module, sets: Mapping[tuple[str, int], ImageSet], purpose: str
) -> dict[tuple[str, int], float]:
    """Top-1 accuracy in percent on each of the sets."""
    return {
        key: evaluate(model, one, purpose=f"{purpose}, {key[0]} {key[1]}")["accuracy"]
        for key, one in sets.items()
    }
