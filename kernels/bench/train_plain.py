"""The training loop as most repositories write it: the peer of train.fit.

fp32, NCHW, eager; torchvision transforms on PIL images in the workers of a DataLoader; loss and
accuracy summed up with .item(). Recipe, network and initial weights are those of the other side.
"""

import copy
import time

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from compactnets import seeds
from compactnets.data import ImageSet
from compactnets.train import Recipe

WORKERS = 2


class PilImages(Dataset):
    """An ImageSet as torchvision.datasets.CIFAR10 would hand it out: a PIL image and a label."""

    def __init__(self, images: ImageSet, transform: transforms.Compose):
        self.pixels = images.images.permute(0, 2, 3, 1).contiguous().numpy()
        self.labels = images.labels.tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


class PlainLoop:
    """Trains a copy of the model epoch by epoch; SGD with momentum, cosine stepped by epoch.

    The recipe's augmentation is not read: padding by 4, random crop and flip, as everywhere.
    """

    def __init__(self, model: nn.Module, images: ImageSet, recipe: Recipe, seed: int):
        size = images.images.shape[-1]
        steps = [
            transforms.RandomCrop(size, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(images.mean, images.std),
        ]
        self.loader = DataLoader(
            PilImages(images, transforms.Compose(steps)),
            batch_size=recipe.batch,
            shuffle=True,
            num_workers=WORKERS,
            persistent_workers=True,  # starting them is no part of a steady state
            generator=seeds.generator(seed, "plain loop"),
        )
        self.model = copy.deepcopy(model).train()
        self.criterion = nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, recipe.epochs)
        self.loss = self.accuracy = float("nan")  # of the last epoch

    def epoch(self) -> float:
        """One pass over the data; seconds."""
        began = time.perf_counter()
        total, correct, count = 0.0, 0, 0
        for inputs, labels in self.loader:
            self.optimizer.zero_grad()
            outputs = self.model(inputs)
            loss = self.criterion(outputs, labels)
            loss.backward()
            self.optimizer.step()
            total += loss.item() * len(labels)
            correct += outputs.argmax(1).eq(labels).sum().item()
            count += len(labels)
        self.schedule.step()
        self.loss, self.accuracy = total / count, 100 * correct / count
        return time.perf_counter() - began
