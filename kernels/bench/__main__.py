"""Runs the benchmarks of this folder; see the package's docstring."""

import argparse
import importlib
import os
import pkgutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import kernels.bench as here
from kernels.bench import entries, roofline

from compactnets import kernels, paths


def benchmarks() -> dict[str, object]:
    """Name -> module, of the modules here that measure something."""
    modules = {
        info.name: importlib.import_module(f"kernels.bench.{info.name}")
        for info in pkgutil.iter_modules(here.__path__)
        if info.name != "__main__"
    }
    return {name: module for name, module in modules.items() if hasattr(module, "measure")}


def main(arguments: Sequence[str] | None = None) -> None:
    known = benchmarks()
    parser = argparse.ArgumentParser(prog="python -m kernels.bench", description=here.__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", help=f"which (default: all): {', '.join(known)}")
    parser.add_argument("--threads", type=int, default=entries.Settings.threads)
    parser.add_argument("--rounds", type=int, default=entries.Settings.rounds)
    parser.add_argument(
        "--paths", action="store_true", help="also on every slower instruction set of this machine"
    )
    parser.add_argument(
        "--record", action="store_true", help="keep the rows in data/results/kernels for the book"
    )
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(known):
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}: know {', '.join(known)}")
    names = options.names or list(known)
    print(entries.cpu_model(), kernels.isa())
    for name in names:
        _run(name, known[name], options)
    if options.paths:
        for isa in kernels.supported()[1:-1]:
            _again(isa, names, options)


def _run(name: str, module: Any, options: argparse.Namespace) -> None:
    rows = list(module.measure(entries.Settings(options.threads, options.rounds)))
    print(entries.table(rows), flush=True)
    path = entries.store(rows)
    if options.record:
        entries.store(
            rows,
            paths.results_dir() / getattr(module, "RECORD", f"kernels/{name}.json"),
            title=(module.__doc__ or name).partition("\n")[0],
            machine=entries.machine(),
            versions=entries.versions(),
            peaks=roofline.peaks(),
            **({"parts": module.parts()} if hasattr(module, "parts") else {}),
        )
    print(f"written to {path}", flush=True)


def _again(isa: str, names: Sequence[str], options: argparse.Namespace) -> None:
    """The same in a process of its own on another path; peers are measured anew beside it."""
    command = [sys.executable, "-m", "kernels.bench", *names]
    command += ["--threads", str(options.threads), "--rounds", str(options.rounds)]
    command += ["--record"] * options.record
    subprocess.run(command, env={**os.environ, "COMPACTNETS_ISA": isa}, check=True)


if __name__ == "__main__":
    main()
