"""Networks and data small enough to train in a blink, for the tests of compactnets.train."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compactnets import seeds, train
from compactnets.data import ImageSet
from compactnets.method import Hook, Progress

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For files that import it: so little work is not worth sharing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def toy_images(n: int = 64, size: int = 8, seed: int = 0, split: Any = "train") -> ImageSet:
    """Four classes that differ in brightness, under noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 4
    noise = torch.randint(0, 128, (n, 3, size, size), generator=generator)
    pixels = (noise + 40 * labels[:, None, None, None]).to(torch.uint8)
    stats = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
    return ImageSet("toy", split, pixels, labels, ("a", "b", "c", "d"), *stats, "embedded")


def toy_net(seed: int = 0, norm: bool = True) -> nn.Sequential:
    """Two convolutions, the second one binarizable, and a linear layer."""
    with seeds.scoped(seed, "init"):
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6) if norm else nn.Identity(),
            nn.Hardtanh(),  # behind a ReLU all signs would be +1
            nn.Conv2d(6, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6) if norm else nn.Identity(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(6, 4),
        )


def toy_recipe(**options: Any) -> train.Recipe:
    usual = {"epochs": 2, "batch": 16, "lr": 0.05, "precision": "fp32", "compile": False}
    return train.Recipe(**usual | options)


_JOB = ("loss", "method", "teacher", "hooks", "name", "example", "cache")


def train_toy(
    model: nn.Module | None = None,
    images: Any = None,
    *,
    seed: int = 0,
    device: str = "cpu",
    **options: Any,
) -> train.Run:
    """fit on the device, without cache unless one is given; other options are the recipe's."""
    job = {name: options.pop(name) for name in _JOB if name in options}
    recipe = toy_recipe(**options)
    return train.fit(
        toy_net() if model is None else model,
        toy_images() if images is None else images,
        recipe,
        seed=seed,
        fabric=train.make_fabric(recipe, accelerator=device),
        **{"cache": False, **job},
    )


def same_state(a: nn.Module, b: nn.Module) -> bool:
    """Equal names, equal bits?"""
    one, two = a.state_dict(), b.state_dict()
    return one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


class Log(Hook):
    """Keeps what a run shows at every step; its repr names no option."""

    def __init__(self) -> None:
        self._seen: list[str] = []
        self._states: list[dict[str, Tensor]] = []
        self._gradients: list[list[Tensor]] = []
        self._rates: list[float] = []

    def start(self, progress: Progress) -> None:
        self._seen.append("start")
        self._states.append(copied(progress.model))

    def after_backward(self, progress: Progress) -> None:
        self._seen.append("after_backward")
        self._gradients.append(_gradients(progress.model.parameters()))

    def after_step(self, progress: Progress) -> None:
        self._seen.append("after_step")
        self._states.append(copied(progress.model))
        self._rates.append(progress.optimizer.param_groups[0]["lr"])

    def epoch_end(self, progress: Progress) -> dict[str, Any]:
        self._seen.append("epoch_end")
        return {"steps": progress.step}


def _gradients(parameters: Any) -> list[Tensor]:
    found: Sequence[Tensor | None] = [p.grad for p in parameters]
    return [g.clone() for g in found if g is not None]


class CountsThreads:
    """A method whose start depends on the number of threads, as that of one that calibrates may."""

    def prepare(self, model: nn.Module, example: Tensor) -> nn.Module:
        model = toy_net()
        model.register_buffer("threads", torch.tensor(float(torch.get_num_threads())))
        return model

    def hooks(self) -> tuple[Hook, ...]:
        return ()

    def deploy(self, model: nn.Module) -> nn.Module:
        return model

    def __repr__(self) -> str:
        return "CountsThreads()"
