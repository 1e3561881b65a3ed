"""The protocol of a compression method: prepare, hooks, deploy; and what a hook sees."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@dataclass
class Progress:
    """Where a run stands; hooks read it. model is the bare module, without wrappers."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    steps_per_epoch: int
    epochs: int
    step: int = 0  # optimizer steps done
    epoch: int = 0


class Hook:
    """Called by fit at fixed moments; override what is needed.

    repr() enters the checkpoint key, so it must show every option. A hook must not draw from a
    random generator and may change the model only through what its method defines.
    """

    def start(self, progress: Progress) -> None:
        """Before the first step."""

    def after_backward(self, progress: Progress) -> None:
        """Gradients are there, the step is not taken yet."""

    def after_step(self, progress: Progress) -> None:
        """The optimizer has moved the weights."""

    def epoch_end(self, progress: Progress) -> dict[str, Any] | None:
        """JSON-able numbers for this epoch's line of the history."""

    def __repr__(self) -> str:
        options = ", ".join(
            f"{k}={v!r}" for k, v in sorted(vars(self).items()) if not k.startswith("_")
        )
        return f"{type(self).__name__}({options})"


@runtime_checkable
class Method(Protocol):
    """Three moments at which a method acts on a network; dropped on any network by fit.

    repr() must show every option: it enters the checkpoint key. A method may also have
    parameter_groups(model) -> list of {"params", "lr_scale", "weight_decay"} for the optimizer.
    """

    def prepare(self, model: nn.Module, example: Tensor) -> nn.Module:
        """A new network to train: layers swapped, masks or gates added; the input is untouched."""
        ...

    def hooks(self) -> Iterable[Hook]:
        """What happens at each step and epoch; may be empty. Fresh objects at every call."""
        ...

    def deploy(self, model: nn.Module) -> nn.Module:
        """The network one ships: sliced, folded, packed, on compiled kernels."""
        ...
