"""Plans of sparse products: made once for a weight and a shape of input, with the tile that was
fastest when tried, and kept as long as the weight lives.

The first call of a new shape measures the tiles (some milliseconds). COMPACTNETS_TUNE=0 turns that
off: the tile then follows from the sizes alone. Results agree within rounding whatever the tile.
"""

import atexit
import math
import os
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from compactnets.kernels import native

_SHAPES_KEPT = 64  # plans of one weight: one per shape of input
_CACHE_BYTES = 32 * 1024  # of the first-level cache, for a tile of x

Weight = tuple[Tensor, Tensor, Tensor, Tensor | None]  # values, index, starts, bias


@dataclass(frozen=True)
class Call:
    """What a plan is for; sizes checked."""

    x_shape: tuple[int, ...]  # (N, C, H, W)
    y_shape: tuple[int, ...]
    memory_format: torch.memory_format
    geometry: tuple[tuple[int, int], ...]  # kernel_size, stride, padding, dilation
    low: float | None
    high: float | None
    groups: int = 1
    tokens: bool = False  # x is (..., in): pixels with the channels last
    as_is: bool = False  # x needs neither a copy nor another shape

    @property
    def channels_last(self) -> bool:
        return self.tokens or self.memory_format is torch.channels_last

    @property
    def in_place_possible(self) -> bool:
        if self.channels_last or self.groups > 1:
            return False
        return self.geometry[:3] == ((1, 1), (1, 1), (0, 0))


@dataclass(frozen=True)
class Tile:
    """Vectors of pixels; ranges that the inputs are cut in; whether x is read where it lies;
    whether rows of CSR run in pairs."""

    vectors: int
    chunks: int = 1
    in_place: bool = False
    pairs: bool = False


@dataclass
class _Plans:
    """All plans of one weight; valid while its tensors are what they were."""

    index: Tensor
    starts: Tensor
    bias: Tensor | None
    versions: tuple[int, int, int] | None  # of values, index, starts: another pattern, another plan
    by_shape: dict[tuple, tuple[Call, Any]]


def _versions(values: Tensor, index: Tensor, starts: Tensor) -> tuple[int, int, int] | None:
    """Counts of writes in place. None for tensors made in inference mode, which do not count: the
    weight of a layer made there must not be written."""
    try:
        return values._version, index._version, starts._version
    except RuntimeError:
        return None


def tuning() -> bool:
    """Whether tiles are measured: not with COMPACTNETS_TUNE=0."""
    return os.environ.get("COMPACTNETS_TUNE", "1").strip() not in ("0", "off", "false")


class PlanCache:
    """Runs products of one operator on the compiled module."""

    def __init__(self, module: ModuleType):
        self._module = module
        self._plans: dict[int, tuple[weakref.ref, _Plans]] = {}
        self._tiles: dict[tuple, Tile] = {}
        atexit.register(self._plans.clear)

    def run(self, prepare: Callable[..., Call], x: Tensor, weight: Weight, options: tuple):
        """The product; prepare(x, *weight, *options) checks a call of a new shape."""
        plans = self._of(weight)
        threads = torch.get_num_threads()
        key = (x.shape, x.stride(), x.dtype, options, threads, self._module.isa())
        found = plans.by_shape.get(key)
        if found is None:
            call = prepare(x, *weight, *options)
            found = call, self._make(call, x, weight, threads)
            if len(plans.by_shape) >= _SHAPES_KEPT:
                plans.by_shape.pop(next(iter(plans.by_shape)))
            plans.by_shape[key] = found
        call, plan = found
        y = torch.empty(call.y_shape, memory_format=call.memory_format)
        if plan is None:
            return y
        if call.as_is:
            plan.run(native.dlpack(x), native.dlpack(y))
        else:
            _run(plan, call, x, y)
        return y

    def _of(self, weight: Weight) -> _Plans:
        values, index, starts, bias = weight
        found = self._plans.get(id(values))
        if found is not None:
            alive, plans = found
            if (
                alive() is values
                and plans.index is index
                and plans.starts is starts
                and plans.bias is bias
                and plans.versions == _versions(values, index, starts)
            ):
                return plans
        plans = _Plans(index, starts, bias, _versions(values, index, starts), {})
        name = id(values)

        def forget(reference, entries=self._plans):
            entry = entries.get(name)
            if entry is not None and entry[0] is reference:
                del entries[name]

        self._plans[name] = weakref.ref(values, forget), plans
        return plans

    def _make(self, call: Call, x: Tensor, weight: Weight, threads: int):
        """The plan with the best tile; None if there is nothing to compute."""
        if 0 in call.x_shape or 0 in call.y_shape:
            return None

        def make(tile: Tile):  # detached: a plan that held the tensors would keep them alive
            return self._module.sparse_plan(
                *(None if t is None else native.dense(t.detach()) for t in weight),
                list(call.x_shape),
                call.channels_last,
                *call.geometry,
                call.groups,
                -math.inf if call.low is None else call.low,
                math.inf if call.high is None else call.high,
                tile.vectors,
                tile.chunks,
                tile.in_place,
                tile.pairs,
                threads,
            )

        blocks, n = weight[0].shape
        rows = weight[2].shape[0] - 1
        inputs = call.x_shape[1] // call.groups * call.geometry[0][0] * call.geometry[0][1]
        widest, lanes = self._module.sparse_tiles(), self._module.sparse_lanes()
        if not tuning():
            return make(default_tile(n, widest, lanes, inputs))
        twentieths = 20 * blocks // (rows * inputs)  # about equal sparsity, the same tile
        key = (call, n, rows, twentieths, threads, self._module.isa())
        if key not in self._tiles:
            tiles = list(candidates(call, n, widest, lanes, inputs))
            self._tiles[key] = _fastest(tiles, make, call, x)
        return make(self._tiles[key])


def _run(plan, call: Call, x: Tensor, y: Tensor) -> None:
    if call.tokens:
        columns = call.x_shape[1]
        if x.dim() != 2:
            x, y = x.reshape(-1, columns), y.view(x.numel() // columns, -1)
    plan.run(native.dlpack(x.contiguous(memory_format=call.memory_format)), native.dlpack(y))


def default_tile(n: int, widest: list[int], lanes: int, inputs: int) -> Tile:
    """From the sizes alone: the widest tile; CSR's x in ranges that fit the first-level cache.

    widest: vectors of a tile of 1, 2, and 4 or more outputs.
    """
    if n > 1:
        return Tile(widest[1 if n == 2 else 2])
    vectors = min(widest[0], 6)
    return Tile(vectors, max(1, round(4 * inputs * vectors * lanes / _CACHE_BYTES)))


def candidates(call: Call, n: int, widest: list[int], lanes: int, inputs: int) -> Iterator[Tile]:
    """What is worth trying: widths down to half of the widest, ranges of inputs around the cache's
    size, in place where that is possible; for CSR with pairs of rows and without."""
    for pairs in (False, True) if n == 1 and call.groups == 1 else (False,):
        most = widest[1 if n == 2 or pairs else 0 if n == 1 else 2]
        for vectors in sorted({most, *range(most - 1, most // 2, -2 if n == 1 else -1)}):
            whole = 4 * inputs * vectors * lanes / _CACHE_BYTES
            several = {1, 2, 4} if n == 1 else {1, 2}
            for chunks in sorted(c for c in several | {round(whole)} if 1 <= c <= 2 * whole + 1):
                if chunks <= 16:
                    yield Tile(vectors, chunks, pairs=pairs)
            if call.in_place_possible:
                yield Tile(vectors, 1, in_place=True, pairs=pairs)


def _fastest(tiles: list[Tile], make, call: Call, x: Tensor) -> Tile:
    """Each tile once warm; those within a quarter of the best four times more, in turn."""
    y = torch.empty(call.y_shape, memory_format=call.memory_format)
    plans = {tile: make(tile) for tile in tiles}

    def measured(tile: Tile) -> float:
        start = time.perf_counter()
        _run(plans[tile], call, x, y)
        return time.perf_counter() - start

    best = {tile: min(measured(tile), measured(tile)) for tile in tiles}
    limit = 1.25 * min(best.values())
    close = [tile for tile in tiles if best[tile] <= limit]
    for _ in range(4):
        for tile in close:
            best[tile] = min(best[tile], measured(tile))
    return min(close, key=lambda tile: best[tile])
