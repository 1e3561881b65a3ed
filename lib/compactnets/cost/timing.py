"""Measures how long functions take beside each other: equality first, then the clock."""

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

Contestant = Callable[[], Any]


class OutputsDiffer(ValueError):
    """Contestants do not compute the same thing, so their times say nothing."""


@dataclass(frozen=True)
class LatencyTable:
    """Times of every contestant in every round, in ms, and what they were taken with."""

    times: Mapping[str, tuple[float, ...]]
    baseline: str
    threads: int
    device: str

    def __post_init__(self):
        if self.baseline not in self.times:
            raise ValueError(f"baseline {self.baseline!r} is none of {list(self.times)}")

    @property
    def rounds(self) -> int:
        return len(self.times[self.baseline])

    def minimum(self, name: str) -> float:
        """Fastest round in ms: what the machine can do when nothing disturbs it."""
        return min(self.times[name])

    def median(self, name: str) -> float:
        """Median round in ms."""
        return statistics.median(self.times[name])

    def speedup(self, name: str) -> float:
        """Minimum of the baseline / minimum of this one; above 1 is faster than the baseline."""
        return self.minimum(self.baseline) / self.minimum(name)

    def spread(self, name: str) -> tuple[float, float]:
        """5th and 95th percentile of baseline / this one, round by round (both saw the same
        neighbors on the machine)."""
        ratios = np.asarray(self.times[self.baseline]) / np.asarray(self.times[name])
        low, high = np.percentile(ratios, [5, 95])
        return float(low), float(high)

    def frame(self) -> pd.DataFrame:
        """One row per contestant: min_ms, median_ms, speedups over the baseline, their spread."""
        rows = []
        for name in self.times:
            low, high = self.spread(name)
            rows.append(
                {
                    "name": name,
                    "min_ms": self.minimum(name),
                    "median_ms": self.median(name),
                    "speedup_min": self.speedup(name),
                    "speedup_median": self.median(self.baseline) / self.median(name),
                    "speedup_p5": low,
                    "speedup_p95": high,
                }
            )
        return pd.DataFrame(rows).set_index("name")

    def _repr_html_(self) -> str:
        caption = (
            f"{self.rounds} interleaved rounds, {self.threads} thread(s), {self.device}; "
            f"speed-up over {self.baseline}"
        )
        return self.frame().to_html(float_format="{:.3f}".format) + f"<p>{caption}</p>"


def latency(
    contestants: Mapping[str, Contestant],
    baseline: str,
    *,
    rounds: int = 30,
    warmup: int = 3,
    calls: int = 1,
    threads: int | None = 1,
    device: torch.device | str = "cpu",
    equal_to: str | None = None,
    atol: float = 1e-5,
    rtol: float = 1e-5,
    check: Callable[[Mapping[str, Any]], bool] | None = None,
) -> LatencyTable:
    """Time per call of functions without arguments, always beside a baseline in one process.

    Contestants take turns, and each round begins with another one. Before each measured run of
    `calls` calls the same contestant makes one unmeasured call, so that it finds the caches as it
    likes them. warmup: unmeasured calls of each before the first round. threads: torch's, restored
    afterwards (None: as they are); a library with threads of its own has to be told itself. On a
    CUDA device the time is that between two events around the run. The caller decides about
    gradients: wrap contestants in torch.inference_mode for deployed networks.

    Equality comes first: with equal_to=name every output (tensors, or tuples, lists, dicts of them)
    must agree with that contestant's within atol + rtol * |its|; check gets all outputs by
    name and returns whether they agree. OutputsDiffer if not, before anything is timed.
    """
    _validate(contestants, baseline, rounds, warmup, calls, threads, equal_to)
    device = torch.device(device)
    with using_threads(threads) as used:
        if equal_to is not None or check is not None:
            outputs = {name: call() for name, call in contestants.items()}
            if equal_to is not None:
                _compare(outputs, equal_to, atol, rtol)
            if check is not None and not check(outputs):
                raise OutputsDiffer(f"check refused the outputs of {list(contestants)}")
            del outputs
        times = _measure(contestants, rounds, warmup, calls, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return LatencyTable(times, baseline, used, name)


def _validate(contestants, baseline, rounds, warmup, calls, threads, equal_to) -> None:
    for name, call in contestants.items():
        if not callable(call):
            raise TypeError(f"contestant {name!r} must be callable, got {type(call).__name__}")
    for role, name in (("baseline", baseline), ("equal_to", equal_to)):
        if name not in contestants and not (role == "equal_to" and name is None):
            raise ValueError(f"{role} {name!r} is none of {list(contestants)}")
    for role, number, least in (
        ("rounds", rounds, 1),
        ("warmup", warmup, 0),
        ("calls", calls, 1),
        ("threads", 1 if threads is None else threads, 1),
    ):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ValueError(f"{role} must be an integer of at least {least}, got {number!r}")


@contextmanager
def using_threads(threads: int | None) -> Iterator[int]:
    """Sets the number of torch's threads inside the block (None: as it is) and yields it."""
    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


def _compare(outputs: Mapping[str, Any], reference: str, atol: float, rtol: float) -> None:
    expected = tree_leaves(outputs[reference])
    if not any(isinstance(leaf, Tensor | np.ndarray) for leaf in expected):
        raise TypeError(f"{reference!r} returns no tensor to compare with")
    for name, output in outputs.items():
        leaves = tree_leaves(output)
        if len(leaves) != len(expected):
            raise OutputsDiffer(f"{name!r} returns {len(leaves)} tensors, not {len(expected)}")
        for leaf, wanted in zip(leaves, expected, strict=True):
            _compare_leaf(name, reference, leaf, wanted, atol, rtol)


def _compare_leaf(name, reference, leaf, wanted, atol: float, rtol: float) -> None:
    leaf, wanted = (torch.as_tensor(x).detach().cpu().double() for x in (leaf, wanted))
    if leaf.shape != wanted.shape:
        raise OutputsDiffer(
            f"{name!r} returns shape {tuple(leaf.shape)}, {reference!r} {tuple(wanted.shape)}"
        )
    if not torch.allclose(leaf, wanted, rtol=rtol, atol=atol):
        worst = (leaf - wanted).abs().max().item()
        raise OutputsDiffer(
            f"{name!r} differs from {reference!r} by up to {worst:.3g} "
            f"(atol {atol:g}, rtol {rtol:g}); nothing was timed"
        )


def _measure(contestants, rounds, warmup, calls, device) -> dict[str, tuple[float, ...]]:
    clock = _cuda_ms if device.type == "cuda" else _wall_ms
    names = list(contestants)
    times: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        for _ in range(warmup):
            contestants[name]()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for i in range(rounds):
            first = i % len(names)
            for name in names[first:] + names[:first]:
                contestants[name]()
                times[name].append(clock(contestants[name], calls, device) / calls)
    finally:
        if collecting:
            gc.enable()
    return {name: tuple(values) for name, values in times.items()}


def _wall_ms(call: Contestant, calls: int, device: torch.device) -> float:
    start = time.perf_counter_ns()
    for _ in range(calls):
        call()
    return (time.perf_counter_ns() - start) / 1e6


def _cuda_ms(call: Contestant, calls: int, device: torch.device) -> float:
    with torch.cuda.device(device):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
    return start.elapsed_time(end)
