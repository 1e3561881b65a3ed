"""Every binarizer under one protocol: shared networks, data and full-precision trainings.

real = fit_many([bakeoff.real_job(kind, "quick", seed=0) for kind in bakeoff.KINDS])
"""

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

__all__ = [
    "KINDS",
    "MOBILENET",
    "RESNET",
    "VGG",
    "VIT",
    "images",
    "network",
    "real_job",
    "recipe",
    "settings",
]
