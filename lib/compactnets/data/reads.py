"""The log of evaluations on test splits: the test set only reports, and each read is seen."""

from dataclasses import dataclass
from typing import Protocol


class Evaluated(Protocol):
    """What the log needs to know of a set."""

    @property
    def name(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True)
class TestRead:
    """One evaluation on a test split, and what for."""

    __test__ = False  # not a test case, whatever its name makes pytest think

    name: str
    items: int
    fingerprint: str
    purpose: str


_log: list[TestRead] = []


def log_test_read(images: Evaluated, purpose: str) -> None:
    """Notes that a model was evaluated on these images, if they are of a test split.

    ValueError if the purpose is empty: a read that nobody can explain must not happen.
    """
    if not purpose.strip():
        raise ValueError(f"say what {images.name}/{images.split} is evaluated for")
    if images.split == "test":
        _log.append(TestRead(images.name, len(images), images.fingerprint, purpose))


def test_reads() -> list[TestRead]:
    """All reads of test splits in this process since clear_test_reads, oldest first."""
    return list(_log)


test_reads.__test__ = False  # type: ignore[attr-defined]


def clear_test_reads() -> None:
    """Empties the log: a new study begins."""
    _log.clear()
