"""Four small networks for 32x32 images, the data they see and how their real versions are trained.

The pages of the binary chapter share these full-precision trainings through the checkpoint cache:
the same kind, profile and seed name the same run everywhere.
"""

from dataclasses import replace
from functools import partial

from torch import nn

from compactnets import data, models, profiles, seeds
from compactnets.binary.react import react_resnet_cifar
from compactnets.binary.react_mobilenet import react_mobilenet_cifar
from compactnets.data import ImageSet
from compactnets.models.vit import deit_cifar
from compactnets.train import Job, Recipe

RESNET, VGG, MOBILENET, VIT = KINDS = ("ResNet-20", "VGG-small", "MobileNet", "ViT")

_FACTORIES = {
    RESNET: react_resnet_cifar,
    VGG: partial(models.vgg_small, activation=nn.Hardtanh),  # inputs of 1-bit layers need two signs
    MOBILENET: react_mobilenet_cifar,
    VIT: deit_cifar,
}
_SETTINGS = {  # smoke, quick, standard, full
    RESNET: {"depth": (8, 20, 20, 20), "width": (8, 8, 16, 16), "stem_stride": (2, 2, 2, 1)},
    VGG: {"width": (4, 8, 16, 128)},
    MOBILENET: {"width": (8, 8, 16, 32), "stem_stride": (4, 2, 2, 1)},
    VIT: {
        "dim": (32, 32, 64, 192),
        "depth": (1, 2, 4, 9),
        "heads": (2, 2, 2, 3),
        "patch": (8, 4, 4, 4),
    },
}


def images(profile: str) -> tuple[ImageSet, ImageSet]:
    """(train, test): 128, 2000, 10 000 or all images of CIFAR-10, or drawn shapes without it."""
    train = profiles.pick(profile, smoke=128, quick=2000, standard=10_000, full=None)
    test = profiles.pick(profile, smoke=128, quick=1000, standard=None, full=None)
    return data.load("auto", "train", limit=train), data.load("auto", "test", limit=test)


def settings(kind: str, profile: str) -> dict[str, int]:
    """The keyword arguments that network() builds this kind with at this profile."""
    _check(kind)
    column = profiles.PROFILES.index(profiles.check(profile))
    return {name: values[column] for name, values in _SETTINGS[kind].items()}


def network(kind: str, profile: str, seed: int) -> nn.Module:
    """The untrained real network of a kind; the seed fixes its weights. ValueError if unknown."""
    options = settings(kind, profile)
    with seeds.scoped(seed, "init"):
        return _FACTORIES[kind](**options)


def recipe(kind: str, profile: str) -> Recipe:
    """How the real network of a kind is trained: Adam, or AdamW with warm-up for the ViT."""
    _check(kind)
    adam = Recipe(
        epochs=profiles.pick(profile, smoke=1, quick=2, standard=12, full=200),
        batch=profiles.pick(profile, smoke=32, quick=64, standard=128, full=256),
        optimizer="adam",
        lr=profiles.pick(profile, smoke=2e-3, quick=2e-3, standard=1e-3, full=1e-3),
        schedule="linear",
        augment=data.augment.Compose(data.augment.RandomCrop(4), data.augment.RandomFlip()),
    )
    if kind != VIT:
        return adam
    return replace(
        adam,
        epochs=profiles.pick(profile, smoke=1, quick=4, standard=20, full=200),
        optimizer="adamw",
        lr=1e-3,
        weight_decay=0.05,
        schedule="cosine",
        warmup_epochs=profiles.pick(profile, smoke=0, quick=1, standard=2, full=10),
    )


def real_job(kind: str, profile: str, seed: int) -> Job:
    """The full-precision training of a kind; give it to train.fit_many."""
    train, _ = images(profile)
    name = f"{kind}, full precision, seed {seed}"
    return Job(network(kind, profile, seed), train, recipe(kind, profile), seed, name=name)


def _check(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}: choose one of {', '.join(KINDS)}")
