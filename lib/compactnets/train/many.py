"""Many trainings, several at a time.

A small network gains little from a second core: its layers are too short to share. Two networks on
two cores gain almost all of it, and two on one GPU fill the gaps that one leaves. So a table of
rows and seeds is trained by worker processes with one CPU thread each, which meet in the
checkpoint cache; a notebook then takes its networks from there.
"""

import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from lightning_fabric import Fabric
from tqdm.auto import tqdm

from compactnets.train.cache import CheckpointCache
from compactnets.train.devices import make_fabric
from compactnets.train.fit import Job, Run, fit_job, prepare

RUNS_PER_GPU = 3
FEW_IMAGES = 2_500  # trained here before two worker processes have even loaded PyTorch


class TrainingFailed(RuntimeError):
    """A worker process ended with an error; the message holds its last lines."""


def fit_many(
    jobs: Sequence[Job], *, at_once: int | None = None, cache: CheckpointCache | None = None
) -> list[Run]:
    """Runs in the order of the jobs; trained at_once at a time, each network only once.

    at_once: default one per CPU thread torch would use (each run then has one thread), or 3 on
    each GPU; a handful of images is trained in this process. Everything goes through the cache, so
    that a killed call resumes where it was. TrainingFailed if a run failed; the others are finished
    first.
    """
    cache = cache or CheckpointCache()
    fabrics = [make_fabric(job.recipe) for job in jobs]
    may_stay = at_once is None  # what is not worth the start of workers, in this process
    if at_once is None:
        on_gpu = bool(fabrics) and fabrics[0].device.type == "cuda"
        at_once = RUNS_PER_GPU * torch.cuda.device_count() if on_gpu else torch.get_num_threads()
    if at_once < 1:
        raise ValueError(f"at_once must be at least 1, got {at_once}")
    # A method that calibrates adds up in another order on more threads; its key would differ.
    alone = at_once == 1 or len(jobs) == 1
    with _threads(torch.get_num_threads() if alone else 1):
        return _through_cache(jobs, fabrics, at_once, cache, may_stay)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _through_cache(
    jobs: Sequence[Job],
    fabrics: Sequence[Fabric],
    at_once: int,
    cache: CheckpointCache,
    may_stay: bool,
) -> list[Run]:
    keys = [prepare(job, fabric)[1] for job, fabric in zip(jobs, fabrics, strict=True)]
    todo = {k: j for k, j in zip(keys, jobs, strict=True) if not cache.has(k)}
    few = may_stay and sum(len(j.data) * j.recipe.epochs for j in todo.values()) <= FEW_IMAGES
    if len(todo) > 1 and at_once > 1 and not few:
        _train_in_workers(list(todo.values()), min(at_once, len(todo)), cache.folder)
    runs, failed = [], []
    for job in tqdm(jobs, desc="runs", unit="run", disable=not sys.stderr.isatty()):
        try:
            runs.append(fit_job(job, cache=cache))
        except Exception as error:  # the others are finished first
            failed.append(f"{job.name}: {error}")
    if failed:
        raise TrainingFailed("\n".join(failed))
    return runs


def _train_in_workers(jobs: list[Job], workers: int, folder: Path) -> None:
    """Splits the jobs over worker processes by a shared queue of files."""
    with tempfile.TemporaryDirectory(prefix="compactnets-jobs-") as queue:
        for index, job in enumerate(jobs):
            (Path(queue) / f"{index:05d}.job").write_bytes(pickle.dumps(job))
        command = [sys.executable, "-m", "compactnets.train.worker", queue, str(folder)]
        started = [
            subprocess.Popen(command, env=_environment(i), stderr=subprocess.PIPE, text=True)
            for i in range(workers)
        ]
        try:
            errors = [process.communicate()[1] for process in started]
        except BaseException:
            for process in started:
                process.kill()
            raise
    for said, process in zip(errors, started, strict=True):
        if process.returncode:
            last = "\n".join(said.strip().splitlines()[-15:])
            raise TrainingFailed(last or f"a worker ended with status {process.returncode}")


def _environment(worker: int) -> dict[str, str]:
    """One CPU thread for each worker; workers take turns with the GPUs, if there are several."""
    own = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    if (count := torch.cuda.device_count()) > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
        own["CUDA_VISIBLE_DEVICES"] = visible.split(",")[worker % count]
    return os.environ | own
