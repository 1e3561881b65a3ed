"""Data sets as tensors: found or drawn, never downloaded unasked.

from compactnets import data, seeds
train = data.load("auto", limit=5000)  # CIFAR-10 if it is here, else drawn shapes
train, tune = data.tuning_split(train, 1000)
augment = data.augment.Compose(data.augment.RandomCrop(4), data.augment.RandomFlip())
for inputs, labels in train.batches(128, generator=seeds.generator(0), augment=augment): ...
"""

from compactnets.data import augment
from compactnets.data.images import ImageSet, tuning_split
from compactnets.data.loading import load
from compactnets.data.reads import clear_test_reads, log_test_read, test_reads
from compactnets.data.registry import DataMissing, DataSet, datasets, find

__all__ = [
    "DataMissing",
    "DataSet",
    "ImageSet",
    "augment",
    "clear_test_reads",
    "datasets",
    "find",
    "load",
    "log_test_read",
    "test_reads",
    "tuning_split",
]
