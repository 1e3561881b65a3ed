"""A network that alternates torch's layers and ours: do two thread pools fight for the cores?

Ours is the alternating network; its one peer is the sum of its layers, each run on its own. With
threads of our own beside torch's the network would take longer than its parts (ratio well below 1).
"""

import time
from collections.abc import Iterator
from functools import partial

import torch
from kernels.bench.entries import Entry, Settings
from torch import Tensor, nn

from compactnets import kernels


def _least(call, rounds: int) -> float:
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e6 * min(times)


def measure(settings: Settings) -> Iterator[Entry]:
    """One row for the threads asked for."""
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)
    x: Tensor = torch.randn(1, 128, 28, 28).contiguous(memory_format=torch.channels_last)
    dense = nn.Conv2d(128, 128, 3, padding=1).to(memory_format=torch.channels_last).eval()
    binary = kernels.BinaryConv2d(torch.randn(128, 128, 3, 3), padding=1)
    network = nn.Sequential(*[dense, binary] * 6)
    try:
        with torch.inference_mode():
            together = _least(partial(network, x), settings.rounds)
            apart = 6 * sum(_least(partial(m, x), settings.rounds) for m in (dense, binary))
    finally:
        torch.set_num_threads(before)
    yield Entry(
        kernel="binary_threads",
        shape="6 x (fp32, 1-bit) 128x28",
        threads=settings.threads,
        isa=kernels.isa(),
        ours_us=together,
        peer="sum of its layers",
        peer_us=apart,
        ratio=apart / together,
        max_error=None,
        ours_median_us=together,
        peer_median_us=apart,
        ratio_p5=apart / together,
        ratio_p95=apart / together,
        note="minima only",
    )
