"""Data sets as tensors: found or drawn, never downloaded unasked.

from compactnets import data, seeds
train = data.load("auto", limit=5000)  # CIFAR-10 if it is here, else drawn shapes
train, tune = data.tuning_split(train, 1000)
augment = data.augment.Compose(data.augment.RandomCrop(4), data.augment.RandomFlip())
for inputs, labels in train.batches(128, generator=seeds.generator(0), augment=augment): ...
"""

from compactnets.data import augment, corruptions, drawn, resize, shapes32, super_resolution
from compactnets.data.fetching import FetchError, NotEnoughSpace, fetch
from compactnets.data.images import ImageSet, tuning_split
from compactnets.data.loading import load
from compactnets.data.reads import TestRead, clear_test_reads, log_test_read, test_reads
from compactnets.data.registry import DataMissing, DataSet, datasets, find
from compactnets.data.super_resolution import PatchSet
from compactnets.data.verification import ChecksumError, Verification, verify

__all__ = [
    "ChecksumError",
    "DataMissing",
    "DataSet",
    "FetchError",
    "ImageSet",
    "NotEnoughSpace",
    "PatchSet",
    "TestRead",
    "Verification",
    "augment",
    "clear_test_reads",
    "corruptions",
    "datasets",
    "drawn",
    "fetch",
    "find",
    "load",
    "log_test_read",
    "resize",
    "shapes32",
    "super_resolution",
    "test_reads",
    "tuning_split",
    "verify",
]
