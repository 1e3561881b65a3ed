"""Training: images a second of train.fit beside a plain loop; ResNet-20, batch 128, CIFAR shapes.

    python -m kernels.bench train              the speed, all cores; rows in microseconds per image
    python -m kernels.bench.train              the same, more figures
    python -m kernels.bench.train --accuracy   does speed cost accuracy? 3 seeds each, 5 epochs
    python -m kernels.bench.train --accuracy --record    and keeps data/results/train/accuracy.json

Both sides train in one process, an epoch in turn: a hook runs the plain loop's epoch whenever fit
has finished one. The first epoch of both (compiling, starting workers) is not counted. fit is
measured as a long run would have it: with the precision and compilation that "auto" would choose.
"""

import argparse
import copy
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median
from typing import Literal

import torch
from kernels.bench.entries import Entry, Settings, cpu_model, store, table
from kernels.bench.train_plain import PlainLoop
from lightning_fabric import Fabric
from torch import nn

from compactnets import data, models, seeds, train
from compactnets.data.augment import Compose, RandomCrop, RandomFlip
from compactnets.method import Hook, Progress
from compactnets.train.devices import precision_of, wants_compiling

RECORD = "train/speed.json"  # among the results; shown with the protocol
BATCH = 128
STEPS = 20  # a round
LONG = 10**6  # steps


def recipe(
    epochs: int, batch: int = BATCH, compile: Literal["auto"] | bool = False
) -> train.Recipe:
    """The recipe of both sides: SGD, momentum 0.9, cosine by epoch, crop and flip."""
    return train.Recipe(
        epochs=epochs,
        batch=batch,
        lr=0.1,
        weight_decay=5e-4,
        stepped="epoch",
        augment=Compose(RandomCrop(4), RandomFlip()),
        compile=compile,
    )


def random_images(count: int, size: int = 32) -> data.ImageSet:
    """Uniform noise in the shape of CIFAR-10: the clock does not see what is on a picture."""
    generator = seeds.generator(0, "noise")
    pixels = torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    labels = torch.randint(10, (count,), generator=generator)
    names = tuple(map(str, range(10)))
    return data.ImageSet(
        "noise", "train", pixels, labels, names, (0.5,) * 3, (0.25,) * 3, "embedded"
    )


class InTurn(Hook):
    """After each epoch of fit, one of the peer."""

    def __init__(self, peer: Callable[[], float]):
        self._peer = peer

    def epoch_end(self, progress: Progress) -> dict[str, float]:
        return {"peer_seconds": self._peer()}


@dataclass(frozen=True)
class Rounds:
    """Seconds per round of both sides, and what they mean."""

    images: int  # a round
    ours: list[float]
    plain: list[float]
    precision: str
    compiled: bool
    max_error: float  # of the logits, before the clock started

    @property
    def ratios(self) -> list[float]:
        return [p / o for o, p in zip(self.ours, self.plain, strict=True)]

    def __str__(self) -> str:
        lines = [f"{'':12} {'images/s, median':>17} {'best':>8}"]
        for name, seconds in (("train.fit", self.ours), ("plain loop", self.plain)):
            rates = self.images / median(seconds), self.images / min(seconds)
            lines.append(f"{name:12} {rates[0]:17.0f} {rates[1]:8.0f}")
        low, high = min(self.ratios), max(self.ratios)
        how = f"{self.precision}, {'compiled' if self.compiled else 'not compiled'}"
        lines.append(
            f"ratio of the rounds {median(self.ratios):.2f} ({low:.2f}..{high:.2f}); {how}"
        )
        return "\n".join(lines)


@torch.inference_mode()
def logits_apart(
    model: nn.Module, plain: PlainLoop, images: data.ImageSet, fabric: Fabric
) -> float:
    """Largest difference of the logits for one batch through both pipelines, no augmentation.

    In training mode: a fresh network that normalizes by statistics it has not got yet would blow
    up its logits and with them the rounding of bf16.
    """
    dataset = plain.loader.dataset
    to_tensor, normalize = dataset.transform.transforms[2:]  # type: ignore[attr-defined]
    pixels = dataset.pixels[: plain.loader.batch_size]  # type: ignore[attr-defined]
    theirs = torch.stack([normalize(to_tensor(one)) for one in pixels])
    ours = next(images.chunks(len(pixels)))[0]
    one, two = (copy.deepcopy(model).train() for _ in range(2))
    with fabric.autocast():
        mixed = one(ours).float()
    return float((mixed - two(theirs)).abs().max())


def race(model: nn.Module, images: data.ImageSet, batch: int, rounds: int, compile: bool) -> Rounds:
    """Both sides on all cores, rounds + 1 epochs each in turn, the first not counted."""
    how = recipe(rounds + 1, batch, compile)
    fabric = train.make_fabric(how, accelerator="cpu")
    plain = PlainLoop(model, images, how, seed=0)
    apart = logits_apart(model, plain, images, fabric)
    hooks = [InTurn(plain.epoch)]
    run = train.fit(model, images, how, seed=0, hooks=hooks, fabric=fabric, cache=False)
    counted = run.history[1:]
    return Rounds(
        len(images),
        [line["seconds"] for line in counted],
        [line["peer_seconds"] for line in counted],
        precision_of(fabric),
        compile,
        apart,
    )


def resnet20(rounds: int, steps: int = STEPS) -> Rounds:
    """The race as it is reported."""
    with seeds.scoped(0, "init"):
        model = models.resnet_cifar(20)
    auto = train.Recipe(epochs=1, compile="auto")
    compile = wants_compiling(auto, LONG, torch.device("cpu"))
    return race(model, random_images(steps * BATCH), BATCH, rounds, compile)


def cores() -> int:
    """Cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def entry(rounds: Rounds, threads: int) -> Entry:
    """The row for the collection of benchmarks; times are microseconds per image."""
    each = 1e6 / rounds.images
    ratios = sorted(rounds.ratios)
    return Entry(
        kernel="train.resnet20",
        shape=f"batch {BATCH}, per image",
        threads=threads,
        isa="bf16" if "bf16" in rounds.precision else "fp32",
        ours_us=each * min(rounds.ours),
        peer="plain loop",
        peer_us=each * min(rounds.plain),
        ratio=min(rounds.plain) / min(rounds.ours),
        max_error=rounds.max_error,
        ours_median_us=each * median(rounds.ours),
        peer_median_us=each * median(rounds.plain),
        ratio_p5=ratios[0],
        ratio_p95=ratios[-1],
    )


def measure(settings: Settings) -> Iterator[Entry]:
    """One row; an eighth of the kernels' rounds, at least 3, since one takes seconds. All cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(cores())
    try:
        rounds = resnet20(max(3, settings.rounds // 8))
    finally:
        torch.set_num_threads(before)
    print(rounds)
    yield entry(rounds, cores())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m kernels.bench.train", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--rounds", type=int, default=5, help="of speed")
    parser.add_argument("--accuracy", action="store_true", help="compare accuracy, not speed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--test-images", type=int, default=None, help="default: all")
    parser.add_argument("--depth", type=int, default=20, help="of the residual network")
    parser.add_argument("--set", default="auto", help="data set")
    parser.add_argument("--record", action="store_true", help="keep the result in data/results")
    options = parser.parse_args()
    torch.set_num_threads(cores())
    print(cpu_model())
    if options.accuracy:
        from kernels.bench import train_accuracy  # which needs what stands above

        train_accuracy.main(options)
    else:
        rows = list(measure(Settings(cores(), 8 * options.rounds)))
        print(table(rows))
        print(f"written to {store(rows)}")


if __name__ == "__main__":
    main()
