"""A training recipe: everything about a run that is not the network, the data or the seed."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Augment = Callable[[Tensor, torch.Generator], Tensor]
Precision = Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True)
class Recipe:
    """Optimizer, schedule, batch and augmentation; equal recipes mean equal training budgets.

    epochs, batch: passes over the data; images per optimizer step (over all devices).
    optimizer: "sgd", "adam" or "adamw"; lr is its peak. momentum: SGD's only.
    schedule: "constant", "linear" (to 0) or "cosine" (to 0), stepped per optimizer step, or with
        stepped="epoch" once an epoch; warmup_epochs of linear rise come first. "halving": half as
        much after every halve_every epochs.
    augment: a callable (uint8 images, generator) -> images with a stable repr, or None.
    precision: "auto" takes bf16 where the hardware multiplies it fast. ema: decay of a running
        mean of the weights that is returned in place of the last ones, or None.
    compile: "auto" uses torch.compile when the run is long enough to pay for compiling.
    """

    epochs: int
    batch: int = 128
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["constant", "linear", "cosine", "halving"] = "cosine"
    stepped: Literal["step", "epoch"] = "step"
    halve_every: int = 10
    warmup_epochs: float = 0.0
    augment: Augment | None = None
    label_smoothing: float = 0.0
    grad_clip: float | None = None
    ema: float | None = None
    precision: Precision = "auto"
    compile: Literal["auto"] | bool = "auto"

    def __post_init__(self) -> None:
        for name, low in (("epochs", 1), ("batch", 1), ("halve_every", 1)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, got {getattr(self, name)}")
        if not self.lr > 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        for name in ("momentum", "weight_decay", "warmup_epochs", "label_smoothing"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.label_smoothing >= 1:
            raise ValueError(f"label_smoothing must be below 1, got {self.label_smoothing}")
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs ({self.warmup_epochs}) must not exceed epochs ({self.epochs})"
            )
        if self.grad_clip is not None and not self.grad_clip > 0:
            raise ValueError(f"grad_clip must be positive or None, got {self.grad_clip}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema must lie between 0 and 1, got {self.ema}")
        for name, known in (
            ("optimizer", ("sgd", "adam", "adamw")),
            ("schedule", ("constant", "linear", "cosine", "halving")),
            ("stepped", ("step", "epoch")),
            ("precision", ("auto", "bf16", "fp32")),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")

    def lr_factor(self, step: int, steps_per_epoch: int) -> float:
        """Share of the peak lr in force at an optimizer step (counted from 0)."""
        epoch = step / steps_per_epoch
        if epoch < self.warmup_epochs:
            return min((step + 1) / (self.warmup_epochs * steps_per_epoch), 1.0)
        if self.stepped == "epoch":
            epoch = math.floor(epoch)
        done = max(epoch - self.warmup_epochs, 0.0) / max(self.epochs - self.warmup_epochs, 1e-9)
        if self.schedule == "linear":
            return 1 - done
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * done)) / 2
        if self.schedule == "halving":
            return 0.5 ** ((epoch - self.warmup_epochs) // self.halve_every)
        return 1.0

    def make_optimizer(self, groups: list[dict]) -> torch.optim.Optimizer:
        """The optimizer over parameter groups; a group's "lr_scale" multiplies the recipe's lr."""
        groups = [
            {**group, "lr": lr, "initial_lr": lr}
            for group in groups
            for lr in (self.lr * group.get("lr_scale", 1.0),)
        ]
        if self.optimizer == "sgd":
            return torch.optim.SGD(
                groups, self.lr, momentum=self.momentum, weight_decay=self.weight_decay
            )
        kind = torch.optim.Adam if self.optimizer == "adam" else torch.optim.AdamW
        return kind(groups, self.lr, weight_decay=self.weight_decay, fused=True)
