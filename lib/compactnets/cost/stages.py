"""Where the time of a network goes: the clock read before and behind modules."""

import gc
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from compactnets.cost.timing import using_threads

StageOf = Callable[[str, nn.Module], str | None]


def stage_times(
    model: nn.Module,
    example: Any,
    stage_of: StageOf,
    *,
    rest: str = "rest",
    rounds: int = 30,
    warmup: int = 3,
    threads: int | None = 1,
) -> dict[str, float]:
    """Milliseconds of a call of model(example) spent in each stage, of the fastest of the rounds.

    stage_of(name, module) names the stage that a module's time belongs to; None: to the stage of
    what it is part of. The call's remaining time is the stage `rest`; the stages add up to it all.
    CPU, inference mode; one look at the clock costs about a microsecond. ValueError if no module
    has a stage, one with a stage lies inside another, or rounds < 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    clock = _Clock(_staged(model, stage_of))
    collecting = gc.isenabled()
    gc.disable()
    try:
        with torch.inference_mode(), using_threads(threads):
            found = [clock.round(model, example, rest) for _ in range(warmup + rounds)][warmup:]
    finally:
        clock.remove()
        if collecting:
            gc.enable()
    return min(found, key=lambda spent: sum(spent.values()))


def _staged(model: nn.Module, stage_of: StageOf) -> dict[nn.Module, str]:
    stages: dict[nn.Module, str] = {}
    names: dict[nn.Module, str] = {}
    for name, module in model.named_modules():
        if (stage := stage_of(name, module)) is not None:
            stages[module], names[module] = stage, name
    if not stages:
        raise ValueError(f"no module of {type(model).__name__} has a stage")
    for module in stages:
        inner = [m for m in module.modules() if m is not module and m in stages]
        if inner:
            raise ValueError(f"{names[inner[0]]!r} has a stage and lies inside {names[module]!r}")
    return stages


class _Clock:
    """Hooks that add up the time between entering and leaving the staged modules."""

    def __init__(self, stages: dict[nn.Module, str]):
        self._stages = stages
        self._began = 0.0
        self._spent: dict[str, float] = {}
        self._handles = [m.register_forward_pre_hook(self._enter) for m in stages]
        self._handles += [m.register_forward_hook(self._leave) for m in stages]

    def _enter(self, module: nn.Module, inputs: Any) -> None:
        self._began = time.perf_counter()

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self._spent[self._stages[module]] += 1e3 * (time.perf_counter() - self._began)

    def round(self, model: nn.Module, example: Any, rest: str) -> dict[str, float]:
        self._spent = dict.fromkeys(self._stages.values(), 0.0)
        began = time.perf_counter()
        model(example)
        total = 1e3 * (time.perf_counter() - began)
        left = total - sum(self._spent.values())
        return self._spent | {rest: self._spent.get(rest, 0.0) + left}

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
