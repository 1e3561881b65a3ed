"""What a run needs of a machine, and checks that it is there before anything starts."""

import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from functools import cache

from compactnets import paths
from compactnets.book.notebook import Notebook, NotebookError
from compactnets.profiles import check


@dataclass(frozen=True)
class Resources:
    """One job's share: threads, memory, longest duration, GPUs, free disk in the build folder."""

    threads: int
    mem_mb: int
    runtime: int  # minutes; a scheduler ends the job after it
    gpu: int = 0
    disk_mb: int = 500


# Two threads, because the budgets of the profiles are stated for two cores.
DEFAULTS: dict[str, Resources] = {
    "smoke": Resources(threads=2, mem_mb=4_000, runtime=10, disk_mb=200),
    "quick": Resources(threads=2, mem_mb=6_000, runtime=20),
    "standard": Resources(threads=2, mem_mb=8_000, runtime=150, disk_mb=1_000),
    "full": Resources(threads=8, mem_mb=32_000, runtime=24 * 60, gpu=1, disk_mb=5_000),
}


class NotReady(RuntimeError):
    """The machine lacks something a run needs; the message names it and the cure."""


def of(notebook: Notebook, profile: str) -> Resources:
    """The profile's resources with the notebook's own wishes on top.

    A notebook states wishes in its front matter, per profile:
    `compactnets: {resources: {full: {gpu: 2, runtime: 600}}}`.
    """
    wishes = notebook.settings.get("resources", {}).get(check(profile), {})
    known = {field.name for field in fields(Resources)}
    if unknown := set(wishes) - known:
        raise NotebookError(
            f"{notebook.path}: unknown resources {sorted(unknown)}; known are {sorted(known)}"
        )
    return replace(DEFAULTS[profile], **wishes)


def check_machine(
    notebooks: Iterable[Notebook], profile: str, *, without_gpu: bool = False, local: bool = True
) -> None:
    """NotReady if the disk is too full for these runs, or if they need a GPU and there is none.

    `without_gpu` accepts a CPU for the `full` profile. On a cluster (`local=False`) GPUs are the
    scheduler's business.
    """
    wanted = [of(notebook, profile) for notebook in notebooks]
    if not wanted:
        return
    check_disk(max(need.disk_mb for need in wanted))
    if local and not without_gpu and any(need.gpu for need in wanted) and not gpus():
        hours = sum(need.runtime for need in wanted if need.gpu) / 60
        raise NotReady(
            f"profile {profile} wants a GPU and this machine has none: {len(wanted)} notebook(s), "
            f"up to {hours:.0f} h on a GPU and some 20 to 100 times that on a CPU. Choose "
            "PROFILE=standard, run it on a cluster (EXECUTOR=slurm), or confirm with "
            "--yes-without-gpu"
        )


def check_disk(needed_mb: int) -> None:
    """NotReady if the build folder's disk has less than this free."""
    place = paths.build_dir()
    while not place.exists():
        place = place.parent
    free_mb = shutil.disk_usage(place).free // 2**20
    if free_mb < needed_mb:
        raise NotReady(
            f"only {free_mb} MB free on the disk of {place}, {needed_mb} MB needed: free some "
            "space, or let COMPACTNETS_BUILD name a folder on another disk"
        )


@cache
def gpus() -> int:
    """Number of CUDA devices that torch can use."""
    import torch  # takes seconds, and only the GPU check needs it

    return torch.cuda.device_count()


def as_snakemake(need: Resources) -> dict[str, int]:
    """The resources by the names Snakemake and its executors know; threads are apart there."""
    return {name: value for name, value in asdict(need).items() if name != "threads"}
