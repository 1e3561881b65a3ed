"""The whole pipeline: which notebooks are due, Snakemake to run them, then the site."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import psutil

from compactnets import paths
from compactnets.book import keys, notebook, report, resources, runs, site
from compactnets.book.notebook import Notebook
from compactnets.profiles import BUDGET_SECONDS, check

Status = Literal["fresh", "cached", "failed", "not run"]


@dataclass(frozen=True)
class Job:
    """One notebook at one profile in the present state of its sources."""

    notebook: Notebook
    profile: str
    key: str

    @property
    def slug(self) -> str:
        return self.notebook.slug

    @property
    def is_done(self) -> bool:
        return runs.is_done(self.slug, self.profile, self.key)

    @property
    def output(self) -> str:
        """The file that stands for the finished run, relative to the build folder."""
        return f"runs/{self.slug}/{self.profile}/{self.key}/report.json"


@dataclass(frozen=True)
class Outcome:
    """What became of a job: "fresh" ran now, "cached" had been run before."""

    job: Job
    status: Status
    report: runs.Report | None = None
    failure: runs.Failure | None = None


def plan(slugs: Iterable[str] = (), profile: str = "quick") -> list[Job]:
    """Jobs for these notebooks (none named: all), done or not; NotebookError for unknown slugs."""
    check(profile)
    keys.forget()
    chosen = [notebook.find(slug) for slug in slugs] or list(notebook.every().values())
    return [Job(nb, profile, keys.key(nb, profile)) for nb in chosen]


def run(
    slugs: Iterable[str] = (),
    profile: str = "quick",
    *,
    force: bool = False,
    executor: str = "local",
    cores: int | None = None,
    without_gpu: bool = False,
) -> list[Outcome]:
    """Runs the notebooks whose present state has not been run (all of them with `force`).

    executor names a folder of workflow/profiles: "local", "slurm". One failing notebook does not
    stop the others; look at the outcomes. NotReady before anything starts if the machine lacks disk
    or a GPU (`without_gpu` accepts a CPU for the full profile).
    """
    jobs = plan(slugs, profile)
    due = [job for job in jobs if force or not job.is_done]
    resources.check_machine(
        (job.notebook for job in due), profile, without_gpu=without_gpu, local=executor == "local"
    )
    if due:
        _announce(due, profile)
        aside = [_set_aside(job) for job in due if job.is_done]
        try:
            _snakemake(due, profile, executor, cores, without_gpu)
        finally:
            _put_back(aside)
    ran = {job.slug for job in due}
    return [_outcome(job, job.slug in ran) for job in jobs]


def build(
    slugs: Iterable[str] | None = None,
    profile: str = "quick",
    *,
    force: bool = False,
    executor: str = "local",
    cores: int | None = None,
    without_gpu: bool = False,
) -> int:
    """Runs what is due (slugs=None: every notebook), builds the site, reports; 0 if all is well.

    The site is built also if notebooks fail: their pages say so, and the result is 1.
    """
    start = time.monotonic()
    outcomes = run(
        slugs or (), profile, force=force, executor=executor, cores=cores, without_gpu=without_gpu
    )
    ran = time.monotonic()
    is_new = site.build(profile)
    _write_report(outcomes, ran - start, time.monotonic() - start)
    say(summary(outcomes))
    state = "built" if is_new else "unchanged"
    say(f"site {state}: {paths.build_dir() / 'html' / 'index.html'} "
        f"({time.monotonic() - start:.0f} s in all)")  # fmt: skip
    return finish(outcomes)


def finish(outcomes: Sequence[Outcome]) -> int:
    """Prints the table of failures, if any; the exit status that says whether there were."""
    failures = [o.failure for o in outcomes if o.failure]
    if failures:
        say(f"\n{len(failures)} of {len(outcomes)} notebooks failed:\n")
        say(report.failure_table(failures))
        for failed in failures:
            folder = runs.failed_folder(failed.slug, failed.profile, failed.key)
            say(f"traceback of {failed.slug}: {folder / 'failed.ipynb'}")
    for outcome in outcomes:
        if outcome.status == "not run":
            say(f"{outcome.job.slug} was not run; see {log_path(outcome.job)}")
    return int(any(outcome.status in ("failed", "not run") for outcome in outcomes))


def summary(outcomes: Sequence[Outcome]) -> str:
    """One line a notebook: fresh or cached, wall time, peak memory."""
    rows: list[tuple[str, ...]] = [("notebook", "profile", "state", "seconds", "GB")]
    for outcome in outcomes:
        run = outcome.report
        cost = (f"{run.wall_seconds:.0f}", f"{run.peak_memory_mb / 1000:.1f}") if run else ("", "")
        rows.append((outcome.job.slug, outcome.job.profile, outcome.status, *cost))
    return report.table(rows)


def log_path(job: Job) -> Path:
    """Where a running notebook says what it does; follow it with tail -f."""
    return paths.build_dir() / "logs" / f"{job.slug}.{job.profile}.{job.key}.log"


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _announce(due: Sequence[Job], profile: str) -> None:
    budget = BUDGET_SECONDS.get(profile)
    if budget is None:
        minutes = sum(resources.of(job.notebook, profile).runtime for job in due)
        bound = f"up to {minutes / 60:.0f} h on a GPU"
    else:
        bound = f"up to {len(due) * budget / 60:.0f} min on two cores"
    say(f"{len(due)} notebook(s) to run at profile {profile}, {bound}; {log_path(due[0]).parent}")
    for job in due:
        reasons = runs.why(job.notebook, profile)
        more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
        say(f"  {job.slug}: {'; '.join(reasons[:3]) or 'asked for'}{more}")


def _snakemake(
    due: Sequence[Job], profile: str, executor: str, cores: int | None, without_gpu: bool
) -> None:
    """Hands the due jobs to Snakemake; what failed is read from the folders afterwards."""
    root, build = paths.project_root(), paths.build_dir()
    settings = root / "workflow" / "profiles" / executor
    if not settings.is_dir():
        known = sorted(path.name for path in settings.parent.glob("*"))
        raise ValueError(f"unknown executor {executor!r}: choose one of {', '.join(known)}")
    build.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile")]
    command += ["--directory", str(build), "--profile", str(settings)]
    if cores:
        command += ["--cores", str(cores)]
    if executor == "local":
        needs = [resources.of(job.notebook, profile) for job in due]
        memory = max(psutil.virtual_memory().total // 2**20, *(need.mem_mb for need in needs))
        # A job that asks for more than there is would never start: the check came before.
        gpus = 1_000 if without_gpu else resources.gpus() if any(n.gpu for n in needs) else 0
        command += ["--resources", f"mem_mb={memory}", f"gpu={gpus}"]
    slugs = ",".join(job.slug for job in due)
    command += ["--config", f"profile={profile}", f"slugs={slugs}"]
    environment = {
        **os.environ,
        "COMPACTNETS_HOME": str(root),
        "COMPACTNETS_BUILD": str(build.resolve()),
    }
    subprocess.run(command, env=environment, check=False)


def _set_aside(job: Job) -> tuple[Path, Path]:
    """Moves a finished run out of the way of a forced one."""
    target = runs.folder(job.slug, job.profile, job.key)
    aside = target.with_name(f".{target.name}.before")
    shutil.rmtree(aside, ignore_errors=True)
    target.rename(aside)
    return aside, target


def _put_back(aside: Iterable[tuple[Path, Path]]) -> None:
    """The earlier run returns unless a new one has taken its place."""
    for old, target in aside:
        if (target / "report.json").exists():
            shutil.rmtree(old)
        else:
            shutil.rmtree(target, ignore_errors=True)
            old.rename(target)


def _outcome(job: Job, ran: bool) -> Outcome:
    failed = runs.failure(job.slug, job.profile, job.key)
    found = runs.report(job.slug, job.profile, job.key)
    if failed is not None and ran:
        return Outcome(job, "failed", failure=failed)
    if found is None:
        return Outcome(job, "not run")
    return Outcome(job, "fresh" if ran else "cached", report=found)


def _write_report(outcomes: Sequence[Outcome], run_seconds: float, all_seconds: float) -> None:
    """_build/report.json: what this build ran or took from before, and what it cost."""
    entries = [
        {
            "slug": outcome.job.slug,
            "profile": outcome.job.profile,
            "status": outcome.status,
            "report": asdict(outcome.report) if outcome.report else None,
            "failure": asdict(outcome.failure) if outcome.failure else None,
        }
        for outcome in outcomes
    ]
    totals = {"run_seconds": round(run_seconds, 1), "all_seconds": round(all_seconds, 1)}
    with paths.write_atomically(paths.build_dir() / "report.json") as temporary:
        temporary.write_text(json.dumps({**totals, "notebooks": entries}, indent=1), "utf-8")
