"""Where a number comes from: code, packages and machine."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

import torch

import compactnets
from compactnets import paths
from compactnets.study.record import Provenance

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scipy",
    "pandas",
    "lightning-fabric",
    "safetensors",
    "timm",
    "triton",
)


def collect(precision: str = "fp32") -> Provenance:
    """Everything about this process and this checkout that can move a result."""
    revision, clean = git_state()
    return Provenance(
        revision=revision,
        clean=clean,
        key=os.environ.get("COMPACTNETS_RUN_KEY"),
        python=platform.python_version(),
        packages=package_versions(),
        platform=platform.platform(),
        cpu=cpu_model(),
        gpu=gpu_model(),
        threads=torch.get_num_threads(),
        precision=precision,
        kernels=kernel_path(),
    )


def git_state() -> tuple[str | None, bool | None]:
    """(commit, are the tracked files as committed?); (None, None) without git or a checkout.

    Untracked files do not count. Nor do changes under data/results: recording one run must not
    make the next one look as if it had run on changed code.
    """
    try:
        root = paths.project_root()
        revision = _git(root, "rev-parse", "HEAD")
        status = ("status", "--porcelain", "--untracked-files=no", "--", ".")
        changes = _git(root, *status, ":(exclude)data/results")
    except (OSError, subprocess.SubprocessError):
        return None, None
    return revision, not changes


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that compute, and of compactnets itself."""
    versions = {"compactnets": compactnets.__version__}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def cpu_model() -> str:
    """Name of the CPU with the number of usable cores."""
    name = platform.processor() or platform.machine() or "unknown CPU"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((one.split(":", 1)[1].strip() for one in lines if "model name" in one), name)
    except OSError:  # macOS, Windows
        pass
    return f"{name}, {usable_cores()} cores"


def usable_cores() -> int:
    """Cores that this process may use (a container may have fewer than the machine)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def gpu_model() -> str | None:
    """Names of the GPUs that torch sees; None if there is none."""
    if not torch.cuda.is_available():
        return None
    count = torch.cuda.device_count()
    name = torch.cuda.get_device_name(0)
    return f"{count} x {name}" if count > 1 else name


def kernel_path() -> str:
    """Instruction-set path of the native kernels; "reference" where they are not built."""
    from compactnets import kernels

    isa = getattr(kernels, "isa", None)
    return isa() if isa else "reference"
