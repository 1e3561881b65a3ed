"""Does the faster loop cost accuracy? train.fit and the plain loop at equal epochs, seed by seed.

Both start from the same weights and have the same recipe; order and augmentation of the images
come from other random streams. Accuracy of the last epoch on the test split, in percent, fp32.
"""

import argparse
import json
import math
from dataclasses import asdict
from typing import Any

import torch
from kernels.bench.entries import cpu_model
from kernels.bench.train import recipe
from kernels.bench.train_plain import PlainLoop

from compactnets import data, models, paths, seeds, stats, train

MARGIN = 1.0  # percentage points: "not worse" is "not worse by more than this"


def one_seed(
    seed: int, depth: int, images: data.ImageSet, test: data.ImageSet, how: train.Recipe
) -> dict[str, float]:
    """Test accuracy and seconds of both sides."""
    with seeds.scoped(seed, "init"):
        model = models.resnet_cifar(depth, classes=len(images.classes))
    run = train.fit(model, images, how, seed=seed, cache=False, name=f"seed {seed}")
    plain = PlainLoop(model, images, how, seed)
    plain_seconds = sum(plain.epoch() for _ in range(how.epochs))
    purpose = f"training benchmark, seed {seed}"
    return {
        "seed": seed,
        "ours": train.evaluate(run.model, test, purpose=purpose)["accuracy"],
        "plain": train.evaluate(plain.model, test, purpose=purpose)["accuracy"],
        "ours_seconds": run.seconds,
        "plain_seconds": plain_seconds,
    }


def difference(rows: list[dict[str, float]]) -> stats.Interval:
    """Interval of ours - plain, paired by seed."""
    ours, plain = ({int(row["seed"]): row[side] for row in rows} for side in ("ours", "plain"))
    return stats.paired_difference(ours, plain)


def result(rows: list[dict[str, float]], facts: dict) -> dict:
    """The rows with the interval of their difference and the verdict on "not worse"; JSON-able."""
    apart = difference(rows)
    finite = {k: v if math.isfinite(v) else None for k, v in asdict(apart).items()}
    return {
        "title": "Accuracy of the training loop beside a plain one",
        **facts,
        "test": stats.TEST,
        "claim": f"ours - plain > {-MARGIN} percentage points",
        "difference": finite,
        "verdict": stats.judge_difference(apart, -MARGIN),
        "rows": rows,
    }


def conditions(
    depth: int, images: data.ImageSet, test: data.ImageSet, how: train.Recipe
) -> dict[str, Any]:
    """What was trained on what, and where."""
    return {
        "network": f"resnet_cifar({depth})",
        "data": images.name,
        "source": images.source,
        "images": len(images),
        "test_images": len(test),
        "recipe": repr(how),
        "precision": train.devices.precision_of(train.make_fabric(how)),
        "threads": torch.get_num_threads(),
        "cpu": cpu_model(),
        "torch": str(torch.__version__),
    }


def main(options: argparse.Namespace) -> None:
    """Runs the seeds, prints a line each, and writes the result."""
    images = data.load(options.set, "train", limit=options.images)
    test = data.load(options.set, "test", limit=options.test_images)
    how = recipe(options.epochs, compile="auto")
    print(f"{images}, {len(test)} test images, {options.epochs} epochs")
    rows = []
    for seed in range(options.seeds):
        rows.append(row := one_seed(seed, options.depth, images, test, how))
        print(
            f"seed {seed}: train.fit {row['ours']:.2f} % in {row['ours_seconds']:.0f} s, "
            f"plain loop {row['plain']:.2f} % in {row['plain_seconds']:.0f} s",
            flush=True,
        )
    found = result(rows, conditions(options.depth, images, test, how))
    print(f"ours - plain: {difference(rows)} points; {found['claim']}: {found['verdict']}")
    folder = paths.results_dir() / "train" if options.record else paths.build_dir() / "bench"
    with paths.write_atomically(folder / "accuracy.json") as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"written to {folder / 'accuracy.json'}")
