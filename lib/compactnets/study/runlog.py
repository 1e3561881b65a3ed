"""What a run used: data, trainings, parameters, code and machine, time."""

import time
import uuid
from datetime import UTC, datetime
from typing import Any

from compactnets.data import clear_test_reads, test_reads
from compactnets.study import provenance
from compactnets.study.record import DataUse, TestRead, TrainedRun

Parameter = str | int | float | bool | list | dict | None


class RunLog:
    """Starts its clock when made; the log of test reads starts empty.

    Code and machine are looked at then, too: the modules were imported now, and the checkout may
    have moved on by the end of a long run.
    """

    def __init__(self) -> None:
        self.provenance = provenance.collect()
        self.parameters: dict[str, Parameter] = {}
        self.runs: list[TrainedRun] = []
        self._data: dict[tuple[str, str], DataUse] = {}
        self._precisions: set[str] = set()
        self._started = datetime.now(UTC)
        self._clock = time.perf_counter()
        self.run_id = f"{self._started:%Y%m%dT%H%M%S}-{uuid.uuid4().hex[:6]}"
        clear_test_reads()

    @property
    def data(self) -> list[DataUse]:
        """Every set in use, the last use of a split counting."""
        return list(self._data.values())

    def use(self, images: Any) -> DataUse:
        """Logs a set that has name, split, fingerprint, source and a length."""
        used = DataUse(
            name=images.name,
            split=images.split,
            items=len(images),
            sha256=images.fingerprint,
            source=images.source,
        )
        self._data[used.name, used.split] = used
        return used

    def train(self, run: Any, label: str, seed: int | None) -> None:
        """Logs a training run; one key counts once, with the seconds it took when it ran."""
        key = getattr(run, "key", None)
        if key is None or all(key != known.key for known in self.runs):
            cached = bool(getattr(run, "cached", False))
            seconds = float(run.seconds)
            new = TrainedRun(label=label, seed=seed, seconds=seconds, cached=cached, key=key)
            self.runs.append(new)
        if precision := getattr(run, "precision", None):
            self._precisions.add(str(precision))

    def facts(self) -> dict[str, Any]:
        """The record's fields that say how this run came about, up to now."""
        precision = ", ".join(sorted(self._precisions)) or self.provenance.precision
        reads = [TestRead(data=r.name, items=r.items, purpose=r.purpose) for r in test_reads()]
        return {
            "run_id": self.run_id,
            "started": self._started.isoformat(timespec="seconds"),
            "wall_seconds": round(time.perf_counter() - self._clock, 3),
            "training_seconds": round(sum(run.seconds for run in self.runs), 3),
            "parameters": self.parameters,
            "data": self.data,
            "test_reads": reads,
            "runs": self.runs,
            "provenance": self.provenance.model_copy(update={"precision": precision}),
        }
