"""Networks with lively normalizations and wiring of every kind, for the tests of sparse."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compactnets import models, seeds


@pytest.fixture
def mkldnn() -> None:
    """For files that import it: skips where torch's dense kernels cannot be prepacked."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model in evaluation mode, its normalizations with random statistics and factors."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for name, low, high in (
                *(("running_mean", -0.3, 0.3), ("running_var", 0.5, 1.5)),
                *(("weight", 0.5, 1.5), ("bias", -0.3, 0.3)),
            ):
                tensor = getattr(module, name)
                if tensor is not None:
                    tensor.data.uniform_(low, high, generator=generator)
    return model.eval()


def drawn(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A lively network from a seed."""
    with seeds.scoped(seed, "init"):
        return lively(make(), seed)


SMALL_V2 = ((1, 8, 1, 1), (6, 16, 2, 2), (6, 24, 1, 2))
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ResNet-8, A": lambda: models.resnet_cifar(8, shortcut="A"),
    "ResNet-8, B": lambda: models.resnet_cifar(8, shortcut="B"),
    "ResNet-20": lambda: models.resnet_cifar(20, width=8),
    "MobileNet-V1": lambda: models.mobilenet_v1_cifar(multiplier=0.25),
    "MobileNet-V2": lambda: models.mobilenet_v2_cifar(stages=SMALL_V2, stem=16, last=48),
    "VGG-small": lambda: models.vgg_small(width=8),
    "VGG-16": lambda: models.vgg16_bn_cifar(widths=(16,) * 13),
}


def images(count: int = 2, size: int = 32, seed: int = 0) -> Tensor:
    """(count, 3, size, size), normal."""
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def difference(one: Tensor, other: Tensor) -> float:
    """Norm of the difference over the norm of the first."""
    return float((one - other).norm() / one.norm())


class Wired(nn.Module):
    """conv - bn - `middle` - second, where middle and the head are the caller's functions."""

    def __init__(
        self,
        head: Callable[["Wired", Tensor], Tensor],
        second: nn.Module | None = None,
        channels: int = 8,
    ):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.prelu = nn.PReLU(channels)
        self.second = nn.Conv2d(channels, 8, 1) if second is None else second
        self._head = head

    def forward(self, x: Tensor) -> Tensor:
        return self._head(self, self.bn(self.conv(x)))


# Wirings whose `conv` may be permuted; those named below may not.
FREE: dict[str, Callable[[], Wired]] = {
    "functional relu": lambda: Wired(lambda m, y: m.second(F.relu(y))),
    "method relu": lambda: Wired(lambda m, y: m.second(y.relu())),
    "functional pooling": lambda: Wired(
        lambda m, y: m.second(F.max_pool2d(F.avg_pool2d(F.hardswish(y), 2), 2))
    ),
    "PReLU per channel": lambda: Wired(lambda m, y: m.second(m.prelu(y))),
    "two readers": lambda: Wired(lambda m, y: m.second(y) + m.second.third(m.act(y)), _pair()),
    "activation called twice": lambda: Wired(lambda m, y: m.act(m.second(m.act(y)))),
    "mean method": lambda: Wired(lambda m, y: m.second(y.mean([2, 3])), nn.Linear(8, 5)),
    "mean function": lambda: Wired(
        lambda m, y: m.second(torch.mean(F.gelu(y), dim=(-1, -2))), nn.Linear(8, 5)
    ),
    "several pixels per channel": lambda: Wired(
        lambda m, y: m.second(F.adaptive_avg_pool2d(y, (2, 3)).flatten(1)), nn.Linear(48, 5)
    ),
    "flatten with a name": lambda: Wired(
        lambda m, y: m.second(torch.flatten(F.adaptive_avg_pool2d(y, 1), start_dim=1)),
        nn.Linear(8, 5),
    ),
}


def _pair() -> nn.Conv2d:
    second = nn.Conv2d(8, 8, 1)
    second.third = nn.Conv2d(8, 8, 3, padding=1)  # type: ignore[assignment]
    return second


BOUND: dict[str, Callable[[], Wired]] = {
    "returned": lambda: Wired(lambda m, y: m.act(y)),
    "returned beside its reader": lambda: Wired(lambda m, y: (m.second(y), y)),  # type: ignore[arg-type,return-value]
    "residual sum": lambda: Wired(lambda m, y: m.second(y + m.second(m.act(y)))),
    "product with a gate": lambda: Wired(
        lambda m, y: m.second(y * torch.sigmoid(y.mean([2, 3], keepdim=True)))
    ),
    "reader called twice": lambda: Wired(lambda m, y: m.second(m.second(y))),
    "norm called twice": lambda: Wired(lambda m, y: m.second(m.bn(y))),
    "grouped reader": lambda: Wired(lambda m, y: m.second(y), nn.Conv2d(8, 8, 1, groups=2)),
    "depthwise multiplier": lambda: Wired(lambda m, y: m.second(y), nn.Conv2d(8, 16, 1, groups=8)),
    "concatenation": lambda: Wired(
        lambda m, y: m.second(torch.cat((y, y), 1)), nn.Conv2d(16, 8, 1)
    ),
    "channels sliced": lambda: Wired(lambda m, y: m.second(y[:, :4]), nn.Conv2d(4, 8, 1)),
    "softmax": lambda: Wired(lambda m, y: m.second(y.softmax(1))),
    "group norm": lambda: Wired(
        lambda m, y: m.second(y), nn.Sequential(nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 1))
    ),
    # Linear layers that mix pixels: the number of inputs is a multiple of the channels.
    "linear layer on columns": lambda: Wired(lambda m, y: m.second(y), nn.Linear(16, 5)),
    "flattened pixels": lambda: Wired(lambda m, y: m.second(y.flatten(2)), nn.Linear(256, 5)),
    "module that flattens pixels": lambda: Wired(
        lambda m, y: m.second(y), nn.Sequential(nn.Flatten(2), nn.Linear(256, 5))
    ),
    "mean over channels": lambda: Wired(lambda m, y: m.second(y.mean([1, 2])), nn.Linear(16, 5)),
    "mean over one axis": lambda: Wired(lambda m, y: m.second(y.mean(2)), nn.Linear(16, 5)),
}
