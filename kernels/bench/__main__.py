"""Runs the benchmarks of this folder; see the package's docstring."""

import argparse
import importlib
import pkgutil
from collections.abc import Sequence

import kernels.bench as here
from kernels.bench import entries


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
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - set(known):
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}: know {', '.join(known)}")
    settings = entries.Settings(options.threads, options.rounds)
    print(entries.cpu_model())
    for name in options.names or known:
        rows = list(known[name].measure(settings))  # type: ignore[attr-defined]
        print(entries.table(rows), flush=True)
        path = entries.store(rows)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
