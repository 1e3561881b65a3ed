"""Snakemake runs what is due and nothing else, also after a crash, also on a cluster."""

import os
import signal
import subprocess
import sys
import time

import pytest

from compactnets.book import pipeline, runs
from compactnets.book.__main__ import main
from compactnets.book.execute import RunFailed, execute
from pipeline_toy import ToyBook

SMALL = "compactnets: {resources: {smoke: {threads: 1}}}"


@pytest.fixture
def toy(tmp_path, monkeypatch):
    return ToyBook(tmp_path, monkeypatch)


def states(outcomes):
    return {outcome.job.slug: outcome.status for outcome in outcomes}


def wait_for(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def test_only_what_is_due_runs_and_failures_are_tried_again(toy, capfd):
    right = toy.page("right", "from toynets import right\nraise OSError(right())")
    execute("left", "smoke")
    with pytest.raises(RunFailed, match="OSError: right 1"):
        execute("right", "smoke")
    right.write_text(right.read_text().replace("raise OSError(right())", "print(right())"))
    toy.page("left", "from toynets import left\nprint(left(), profile)", prose="Other prose.")
    assert states(pipeline.run(profile="smoke")) == {"left": "cached", "right": "fresh"}
    toy.module("right", "def right():\n    return 2\n")
    due = [job.slug for job in pipeline.plan(profile="smoke") if not job.is_done]
    assert due == ["right"]
    capfd.readouterr()
    assert main(["why", "--profile", "smoke"]) == 0
    said = capfd.readouterr().out
    assert "left (smoke): up to date" in said and "module toynets.right changed" in said


def test_a_pipeline_killed_in_the_middle_completes_the_rest(toy):
    toy.page("left", "print('quickly done')", front=SMALL)
    started, go = toy.build / "started", toy.build / "go"
    pause = f"from pathlib import Path\nPath({str(started)!r}).touch()\nimport time\n"
    pause += f"time.sleep(0 if Path({str(go)!r}).exists() else 100)"
    toy.page("right", pause, front=SMALL)
    command = [sys.executable, "-m", "compactnets.book", "run", "--profile", "smoke"]
    command += ["--cores", "2"]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: started.exists() and runs.newest("left", "smoke"))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    first = runs.newest("left", "smoke")
    go.touch()
    assert states(pipeline.run(profile="smoke")) == {"left": "cached", "right": "fresh"}
    assert runs.newest("left", "smoke") == first


def test_a_forced_run_that_fails_leaves_the_earlier_one(toy, monkeypatch):
    job = pipeline.plan(["left"], "smoke")[0]
    report = runs.Report("left", "smoke", job.key, "2026", 1.0, 1.0, 2, 1, {})
    runs.write(report, runs.folder("left", "smoke", job.key) / "report.json")
    seen = []
    monkeypatch.setattr(pipeline, "_snakemake", lambda due, *rest: seen.append(due[0].is_done))
    assert states(pipeline.run(["left"], "smoke", force=True)) == {"left": "fresh"}
    assert seen == [False]  # it was out of the way, so that Snakemake had work to do
    assert runs.report("left", "smoke", job.key) == report


def test_the_slurm_profile_plans_each_notebook_with_its_resources(toy):
    toy.page("left", "1", front="compactnets: {resources: {full: {gpu: 4, mem_mb: 64000}}}")
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--nocolor"]
    command += ["--cores", "64"]  # a dry run has one core else, and would scale the threads down
    command += ["--snakefile", str(toy.root / "Snakefile"), "--config", "profile=full"]
    command += ["--profile", str(toy.root / "workflow" / "profiles" / "slurm")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=toy.root)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "left at full: 8 threads, 64000 MB, 1440 min, 4 GPU" in said
    assert "right at full: 8 threads, 32000 MB, 1440 min, 1 GPU" in said
    assert not list(toy.build.rglob("notebook.ipynb"))


def test_unknown_names_are_refused_with_the_known_ones(toy, capfd):
    with pytest.raises(ValueError, match="unknown executor 'slumr': choose one of local, slurm"):
        pipeline.run(profile="smoke", executor="slumr")
    assert main(["run", "lefft", "--profile", "smoke"]) == 2
    assert "did you mean left" in capfd.readouterr().err
    with pytest.raises(ValueError, match="unknown profile 'tiny'"):
        pipeline.plan(profile="tiny")
