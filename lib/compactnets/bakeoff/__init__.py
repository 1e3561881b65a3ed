"""Every binarizer under one protocol: shared networks, data and full-precision trainings.

real = fit_many([bakeoff.real_job(bakeoff.VIT, "quick", seed=0)])[0].model
train, test = bakeoff.images("quick")
job = bakeoff.binary_job("ReCU", bakeoff.VIT, "quick", seed=0, start=real, train=train)
run = fit_many([job])[0]
"""

from compactnets.bakeoff import metrics, ranking
from compactnets.bakeoff.methods import METHODS, OPERATORS, method
from compactnets.bakeoff.networks import (
    KINDS,
    MOBILENET,
    RESNET,
    VGG,
    VIT,
    images,
    network,
    real_job,
    recipe,
    settings,
)
from compactnets.bakeoff.protocol import (
    RECIPES,
    accuracies,
    binary_job,
    binary_recipe,
    corrupted_sets,
    recipe_job,
)

__all__ = [
    "KINDS",
    "METHODS",
    "MOBILENET",
    "OPERATORS",
    "RECIPES",
    "RESNET",
    "VGG",
    "VIT",
    "accuracies",
    "binary_job",
    "binary_recipe",
    "corrupted_sets",
    "images",
    "method",
    "metrics",
    "network",
    "ranking",
    "real_job",
    "recipe",
    "recipe_job",
    "settings",
]
