"""A checkout with one toy paper, for the tests of study and cli."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from compactnets.study import Study

CARD = {
    "slug": "toy",
    "title": "A Toy Network",
    "short": "Toy",
    "authors": ["Ada Lovelace", "Alan Turing"],
    "venue": "TOYCONF",
    "year": 2021,
    "arxiv": "2101.00001",
    "code": "ada/toy",
    "chapter": "binary",
    "tier": 1,
    "summary": "It plays.",
    "tables": {
        "main": {
            "caption": "Toys on ImageNet",
            "columns": {"top1": "percent"},
            "rows": [
                {"label": "Base", "values": {"top1": 60.0}, "source": "table 1"},
                {"label": "Toy", "values": {"top1": 61.5}, "source": "abstract"},
                {"label": "Other", "values": {"top1": None}, "source": "table 1"},
            ],
        }
    },
    "claims": {
        "E1": {"kind": "exact", "statement": "two and two are <four>", "source": "eq. 1"},
        "S1": {"kind": "statistical", "statement": "Toy beats Base by half", "margin": 0.5},
        "K1": {"kind": "measured", "statement": "Toy is faster"},
    },
}


@dataclass
class Images:
    name: str = "cifar10"
    split: str = "train"
    source: str = "files"
    fingerprint: str = "ab" * 32

    def __len__(self) -> int:
        return 128


def make_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Makes the folder a checkout that holds one toy card and nothing else, and selects it."""
    papers = folder / "data" / "papers"
    papers.mkdir(parents=True)
    (papers / "toy.yml").write_text(yaml.safe_dump(CARD, sort_keys=False))
    monkeypatch.setenv("COMPACTNETS_HOME", str(folder))
    for name in ("BUILD", "RECORD", "PROFILE", "RUN_KEY"):
        monkeypatch.delenv(f"COMPACTNETS_{name}", raising=False)
    return folder


def observe_accuracies(toy: Study, gain: float = 2.0) -> None:
    """Base 60, 61, 62 %; Toy above it by gain + 0, 0.1, 0.2 points."""
    for seed in toy.seeds:
        toy.observe("top1", 60 + seed, seed=seed, unit="%", method="Base", w=32)
        toy.observe("top1", 60 + gain + 1.1 * seed, seed=seed, unit="%", method="Toy", w=1)


def answer_all(toy: Study) -> None:
    """Every claim of the card answered, all of them by "holds" if there is more than one seed."""
    observe_accuracies(toy)
    toy.prove("E1", 2 + 2 == 4, "4")
    toy.judge("S1", toy.values("top1", method="Toy"), toy.values("top1", method="Base"))
    toy.measure("K1", True, "2.0 times at batch 1")


def finished(profile: str = "standard", **options) -> Study:
    """A toy session that has run to its end."""
    toy = Study("toy", profile=profile, **options)
    toy.use(Images())
    answer_all(toy)
    toy.finish()
    return toy
