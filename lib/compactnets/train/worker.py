"""A worker process of fit_many: python -m compactnets.train.worker QUEUE CACHE.

Takes <n>.job files (pickled Jobs) from the queue folder by renaming them, trains, repeats until
none is left; the networks end in the cache. Exits with 1 if a job failed, after trying the rest.
"""

import pickle
import sys
import traceback
from pathlib import Path

import torch
import torch._dynamo

from compactnets.train.cache import CheckpointCache
from compactnets.train.fit import Job, fit_job


def take(queue: Path) -> Job | None:
    """The next job nobody else has taken, or None."""
    for file in sorted(queue.glob("*.job")):
        taken = file.with_suffix(".taken")
        try:
            file.rename(taken)  # atomic: one worker wins
        except FileNotFoundError:
            continue
        return pickle.loads(taken.read_bytes())
    return None


def main(queue: Path, folder: Path) -> int:
    torch.set_num_threads(1)
    # A queue holds many methods on one network; past 8 variants dynamo would quietly run eagerly.
    torch._dynamo.config.recompile_limit = 64
    cache, failed = CheckpointCache(folder), 0
    while (job := take(queue)) is not None:
        try:
            run = fit_job(job, cache=cache)
            last = run.history[-1]
            print(f"{job.name}: {run.seconds:.0f} s, loss {last['loss']:.3f}", flush=True)
        except Exception:
            traceback.print_exc()
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
