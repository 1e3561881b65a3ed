"""One row per peer: ours and the peers in turn in one process, equal outputs checked first."""

from collections.abc import Callable, Iterator, Mapping

import torch
from kernels.bench.entries import Entry, Settings
from torch import Tensor

from compactnets import cost, kernels

# Their threads keep spinning after a call. With one thread there are none; with several they would
# take a core from whoever comes next, so they stay out of contests on several threads.
SPINNING = ("onnxruntime", "ort ")


def contest(
    kernel: str,
    shape: str,
    settings: Settings,
    ours: Callable[[], Tensor],
    peers: Mapping[str, Callable[[], Tensor] | None],
    *,
    tolerance: float = 0.0,
    unequal: Mapping[str, str] | None = None,
    operations: float | None = None,
    unit: str = "",
    traffic: float | None = None,
) -> Iterator[Entry]:
    """Entries of `ours` beside each peer (None: not installed here, left out).

    tolerance: the largest absolute difference from a peer's output that is still equal; more is an
    error, before anything is timed. unequal: peers that compute another function on purpose (other
    scales, another rounding), each with the reason; their outputs are not compared, their rows have
    max_error None. operations, unit, traffic: see Entry.
    """
    unequal = unequal or {}
    present = {name: call for name, call in peers.items() if call is not None}
    if settings.threads > 1:
        present = {name: call for name, call in present.items() if not name.startswith(SPINNING)}
    with torch.inference_mode():
        expected = ours()
        errors = {}
        for name, call in present.items():
            if name in unequal:
                continue
            errors[name] = (expected.double() - call().double()).abs().max().item()
            if not errors[name] <= tolerance:
                raise cost.OutputsDiffer(
                    f"{kernel} {shape}: {name} differs by {errors[name]:.3g} > {tolerance:.3g}"
                )
        times = cost.latency(
            {"ours": ours, **present}, "ours", rounds=settings.rounds, threads=settings.threads
        )
    for peer in present:
        low, high = times.spread(peer)  # of ours / peer
        yield Entry(
            kernel=kernel,
            shape=shape,
            threads=settings.threads,
            isa=kernels.isa(),
            ours_us=1e3 * times.minimum("ours"),
            peer=peer,
            peer_us=1e3 * times.minimum(peer),
            ratio=times.minimum(peer) / times.minimum("ours"),
            max_error=errors.get(peer),
            ours_median_us=1e3 * times.median("ours"),
            peer_median_us=1e3 * times.median(peer),
            ratio_p5=1 / high,
            ratio_p95=1 / low,
            operations=operations,
            unit=unit,
            traffic=traffic,
            note=unequal.get(peer, ""),
        )
