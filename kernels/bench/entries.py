"""What a benchmark reports, and the file that collects it."""

import contextlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from compactnets import kernels, paths


@dataclass(frozen=True)
class Settings:
    """How to measure: threads of torch and the kernels, interleaved rounds."""

    threads: int = 1
    rounds: int = 40


def cpu_model() -> str:
    """The processor's name as it gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@dataclass(frozen=True)
class Entry:
    """One row: a kernel beside one peer, both in one process, in microseconds.

    ratio is peer_us / ours_us, minima of the rounds; above 1 the kernel is faster. The medians and
    the 5th and 95th percentile of the rounds' ratios say how far to trust it. max_error is the
    largest absolute difference of the two outputs, compared before the clock started; None where
    the peer computes another function on purpose (note says which). operations: multiply-adds, or
    what the kernel counts, of one call; unit: the arithmetic they run on ("fp32", "int8", "1-bit",
    see roofline.py); traffic: bytes of input, weights and output.
    """

    kernel: str
    shape: str
    threads: int
    isa: str
    ours_us: float
    peer: str
    peer_us: float
    ratio: float
    max_error: float | None
    ours_median_us: float
    peer_median_us: float
    ratio_p5: float
    ratio_p95: float
    operations: float | None = None
    unit: str = ""
    traffic: float | None = None
    note: str = ""
    cpu: str = field(default_factory=cpu_model)
    torch: str = torch.__version__

    def key(self) -> tuple:
        return (self.kernel, self.shape, self.threads, self.isa, self.peer)


def store(entries: Iterable[Entry], path: Path | None = None, **about: Any) -> Path:
    """Puts the entries into a file in place of older ones of the same rows; its path.

    path: of a record, which holds `about` as well; by default _build/bench.json, a bare list.
    """
    record = path is not None
    path = path or paths.build_dir() / "bench.json"
    content = json.loads(path.read_text()) if path.exists() else []
    kept = content["rows"] if isinstance(content, dict) else content
    fresh = {entry.key(): asdict(entry) for entry in entries}
    names = ("kernel", "shape", "threads", "isa", "peer")
    rows = [row for row in kept if tuple(row.get(name) for name in names) not in fresh]
    rows += fresh.values()
    with paths.write_atomically(path) as temporary:
        written = {**about, "rows": rows} if record else rows
        temporary.write_text(json.dumps(written, indent=1) + "\n")
    return path


def machine() -> dict[str, str]:
    """What the figures of a record depend on."""
    cores = f"{os.cpu_count()} cores"
    return {"CPU": cpu_model(), "with": cores, "paths": ", ".join(kernels.supported()[:-1])}


def versions() -> dict[str, str]:
    """Versions of torch and of the peers that are installed."""
    found = {"Python": platform.python_version()}
    for name in ("torch", "onnxruntime", "openvino", "ncnn", "scipy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def table(entries: Iterable[Entry]) -> str:
    """The entries as text, one line each, grouped as they came."""
    lines = [
        f"{'kernel':<18} {'shape':<26} {'thr':>3} {'isa':<9} {'ours us':>9} "
        f"{'peer':<20} {'peer us':>9} {'ratio':>7} {'5%..95%':>13} {'max error':>10}"
    ]
    for e in entries:
        error = "-" if e.max_error is None else f"{e.max_error:.1e}"
        spread = f"{e.ratio_p5:.1f}..{e.ratio_p95:.1f}"
        lines.append(
            f"{e.kernel:<18} {e.shape:<26} {e.threads:>3} {e.isa:<9} {e.ours_us:>9.1f} "
            f"{e.peer:<20} {e.peer_us:>9.1f} {e.ratio:>6.2f}x {spread:>13} {error:>10}"
        )
    return "\n".join(lines)
