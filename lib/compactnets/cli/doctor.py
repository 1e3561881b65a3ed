"""compactnets doctor: what this machine has, what is missing, and what to do about it."""

import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import typer

from compactnets import paths

State = Literal["green", "yellow", "red"]
MARKS: dict[str, str] = {"green": "ok  ", "yellow": "note", "red": "FAIL"}
BOOK_TOOLS = ("jupyterlab", "jupytext", "papermill", "snakemake", "jupyter-book", "ipykernel")


@dataclass(frozen=True)
class Finding:
    """One line of the examination; yellow: works, with a loss; red: the book cannot be built."""

    what: str
    state: State
    words: str


def doctor() -> None:
    """Examines the machine; exit status 1 if something that the book needs is broken."""
    findings = list(examine())
    for one in findings:
        mark = typer.style(MARKS[one.state], fg=one.state, bold=True)
        typer.echo(f"{mark}  {one.what:<10} {one.words}")
    broken = sum(one.state == "red" for one in findings)
    notes = sum(one.state == "yellow" for one in findings)
    good = len(findings) - broken - notes
    typer.echo(f"{broken} broken, {notes} to note, {good} as they should be")
    raise typer.Exit(1 if broken else 0)


def examine() -> Iterator[Finding]:
    """All findings; a check that itself fails is a red finding, not the end."""
    for what, check in CHECKS.items():
        try:
            yield from (Finding(what, state, words) for state, words in check())
        except Exception as error:
            yield Finding(what, "red", f"{type(error).__name__}: {error}")


Findings = Iterator[tuple[State, str]]


def check_python() -> Findings:
    good = sys.version_info >= (3, 11)
    yield (
        "green" if good else "red",
        f"{platform.python_version()} in {sys.prefix}" + ("" if good else "; 3.11 is needed"),
    )


def check_torch() -> Findings:
    import torch
    import torchvision

    words = f"{torch.__version__}, torchvision {torchvision.__version__}"
    yield "green", f"{words}, {torch.get_num_threads()} threads"


def check_compiler() -> Findings:
    named = os.environ.get("CXX")
    found = next(
        filter(None, map(shutil.which, filter(None, [named, "c++", "g++", "clang++"]))), ""
    )
    if not found:
        yield "yellow", "no C++ compiler: kernels cannot be built (Debian: apt install g++)"
        return
    said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    yield "green", (said.stdout.splitlines() or [found])[0]


def check_cpu() -> Findings:
    from compactnets.study.provenance import cpu_model

    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        flags = set()
    wanted = ("avx2", "avx512f", "avx512_vpopcntdq", "avx512_bf16", "amx_bf16", "asimd")
    yield (
        "green",
        f"{cpu_model()}: {', '.join(f for f in wanted if f in flags) or 'no vector flags'}",
    )


def check_gpu() -> Findings:
    from compactnets.study.provenance import gpu_model

    yield "green", gpu_model() or "none (only profile full wants one)"


def check_kernels() -> Findings:
    from compactnets import kernels

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        isa, there = kernels.isa(), kernels.available()
    if there:
        yield "green", f"compiled, path {isa}"
    else:
        reason = str(said[0].message) if said else "not in use; the references run instead, slower"
        yield "yellow", " ".join(reason.split())


def check_checkout() -> Findings:
    from compactnets.study import card as cards

    count = len([cards.load(slug) for slug in cards.slugs()])
    yield "green", f"{paths.project_root()}, {count} paper cards fit their schema"
    from compactnets.study.provenance import git_state

    revision, clean = git_state()
    if revision is None:
        yield "yellow", "no git: records cannot name the code they ran on"
    else:
        state = "clean" if clean else "with changes: a record would say so"
        yield "green", f"revision {revision[:10]}, {state}"


def check_data() -> Findings:
    from compactnets import data

    here = [one.name for one in data.datasets() if data.find(one.name)]
    folders = ", ".join(map(str, paths.data_dirs()))
    if "cifar10" in here:
        yield "green", f"{', '.join(here)} (in {folders})"
    else:
        found = f"only {', '.join(here)}" if here else "none"
        yield (
            "yellow",
            f"{found} in {folders}: pages run on drawn images (compactnets data fetch cifar10)",
        )


def check_disk() -> Findings:
    for name, place in {"build": paths.build_dir(), "cache": paths.cache_dir()}.items():
        there = next(p for p in (place, *place.parents) if p.exists())
        free = shutil.disk_usage(there).free / 2**30
        if not os.access(there, os.W_OK):
            yield "red", f"{name} folder {place} cannot be written (COMPACTNETS_{name.upper()})"
        else:
            state: State = "red" if free < 0.5 else "yellow" if free < 5 else "green"
            yield state, f"{name} in {place}, {free:.1f} GB free"


def check_book() -> Findings:
    versions, missing = {}, []
    for name in BOOK_TOOLS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        yield "yellow", f"not installed: {', '.join(missing)} (pip install 'compactnets[book]')"
    if versions.get("jupyter-book", "1").split(".")[0] != "1":
        yield "red", f"jupyter-book {versions['jupyter-book']}: version 1 is needed"
    elif versions:
        yield "green", ", ".join(f"{name} {number}" for name, number in versions.items())


def check_kernel_spec() -> Findings:
    try:
        from jupyter_client.kernelspec import KernelSpecManager
    except ImportError:
        yield "yellow", "no Jupyter: notebooks run as scripts only"
        return
    specs = KernelSpecManager().find_kernel_specs()
    if "python3" in specs:
        yield "green", f"kernel python3 in {specs['python3']}"
    else:
        yield "red", "no kernel python3: python -m ipykernel install --sys-prefix"


CHECKS: dict[str, Callable[[], Findings]] = {
    "Python": check_python,
    "torch": check_torch,
    "compiler": check_compiler,
    "CPU": check_cpu,
    "GPU": check_gpu,
    "kernels": check_kernels,
    "checkout": check_checkout,
    "data": check_data,
    "disk": check_disk,
    "book tools": check_book,
    "Jupyter": check_kernel_spec,
}
