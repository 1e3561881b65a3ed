"""Many trainings at once: the same networks as one by one, failures and resumption."""

from pathlib import Path

import pytest
import torch

from compactnets import train
from compactnets.binary import ReBNN
from compactnets.train import CheckpointCache, Job, many
from compactnets.train.many import TrainingFailed
from train_toys import (
    CountsThreads,
    one_thread,  # noqa: F401
    same_state,
    toy_images,
    toy_net,
    toy_recipe,
)


def job(seed, name="row", **options):
    recipe = toy_recipe(**{"epochs": 1, **options})
    return Job(toy_net(seed), toy_images(32), recipe, seed, method=ReBNN(), name=name)


def test_a_failing_run_is_reported_after_the_others_are_done_and_those_equal_fit(tmp_path):
    cache = CheckpointCache(tmp_path)
    good = [job(0), job(1), job(2, optimizer="adam", lr=1e-3)]
    bad = job(0, name="too hot", lr=1e30, epochs=4)
    with pytest.raises(TrainingFailed, match=r"too hot: loss (nan|inf) in epoch"):
        train.fit_many([good[0], bad, *good[1:]], at_once=2, cache=cache)
    resumed = train.fit_many([*good, good[0]], at_once=2, cache=cache)
    assert all(run.cached for run in resumed)
    for one, run in zip(good, resumed, strict=False):
        alone = train.fit(
            one.model, one.data, one.recipe, seed=one.seed, method=ReBNN(), cache=False
        )
        assert alone.key == run.key
        assert alone.device != "cpu" or same_state(alone.model, run.model)  # GPUs may round anew
        losses = [[line["loss"] for line in r.history] for r in (alone, run)]
        assert losses[0] == pytest.approx(losses[1], rel=0 if alone.device == "cpu" else 1e-3)


def test_one_at_a_time_needs_no_workers_and_trains_a_repeated_job_once(tmp_path, monkeypatch):
    monkeypatch.setattr(many, "_train_in_workers", None)  # a call would fail
    cache = CheckpointCache(tmp_path)
    first, again = train.fit_many([job(0), job(0)], at_once=1, cache=cache)
    assert (first.cached, again.cached) == (False, True)
    (hit,) = train.fit_many([job(0)], at_once=2, cache=cache)  # nothing left to share
    assert hit.cached and same_state(hit.model, first.model)
    (alone,) = train.fit_many([job(5)], at_once=2, cache=cache)  # one is not shared either
    assert not alone.cached


def test_a_handful_of_images_is_trained_here_with_the_threads_of_a_worker(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(many, "_train_in_workers", lambda jobs, *_: started.append(len(jobs)))
    torch.set_num_threads(2)  # the fixture sets it back
    jobs = [
        Job(toy_net(), toy_images(32), toy_recipe(epochs=1), seed, method=CountsThreads())
        for seed in (0, 1)
    ]
    runs = train.fit_many(jobs, cache=CheckpointCache(tmp_path / "here"))
    assert started == [] and [float(run.model.threads) for run in runs] == [1.0, 1.0]
    monkeypatch.setattr(many, "FEW_IMAGES", 2 * 32 - 1)
    train.fit_many(jobs, cache=CheckpointCache(tmp_path / "workers"))
    assert started == [2]


def test_no_jobs_are_no_runs_and_at_once_is_checked(tmp_path):
    assert train.fit_many([], cache=CheckpointCache(tmp_path)) == []
    with pytest.raises(ValueError, match="at_once must be at least 1, got 0"):
        train.fit_many([job(0)], at_once=0, cache=CheckpointCache(tmp_path))


def test_runs_of_workers_are_found_again_when_a_method_depends_on_the_number_of_threads(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))  # workers unpickle the method
    cache, method = CheckpointCache(tmp_path), CountsThreads()
    jobs = [
        Job(toy_net(), toy_images(32), toy_recipe(epochs=1), seed, method=method) for seed in (0, 1)
    ]
    torch.set_num_threads(2)  # the fixture sets it back
    runs = train.fit_many(jobs, at_once=2, cache=cache)
    assert all(run.cached for run in runs) and torch.get_num_threads() == 2
    assert [float(run.model.threads) for run in runs] == [1.0, 1.0]
