"""Checkpoints: what files them, what a hit costs, and what accidents may not do to them."""

import importlib
import json
import os
import signal
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compactnets import models, paths, train
from compactnets.binary import ReBNN
from compactnets.binary.oscillation import ThresholdMeter
from compactnets.data.augment import RandomCrop
from compactnets.method import Hook
from compactnets.train import CheckpointCache, Run, cache
from compactnets.train.fit import Job, prepare
from train_toys import (
    one_thread,  # noqa: F401
    same_state,
    toy_images,
    toy_net,
    toy_recipe,
    train_toy,
)


class Counting(Hook):
    """Counts the trainings that really began, over all its copies."""

    started = 0

    def start(self, progress):
        Counting.started += 1


@pytest.fixture
def store(tmp_path):
    Counting.started = 0
    return CheckpointCache(tmp_path / "checkpoints")


def cached(store, **options):
    return train_toy(cache=store, hooks=[Counting()], epochs=1, **options)


def test_a_hit_returns_the_same_network_without_training(store):
    first, second = cached(store), cached(store)
    assert Counting.started == 1 and not first.cached and second.cached
    assert same_state(first.model, second.model) and not second.model.training
    facts = ("history", "seconds", "key", "device", "precision")
    assert [getattr(first, f) for f in facts] == [getattr(second, f) for f in facts]
    images = toy_images(split="tune")
    results = [train.evaluate(run.model, images, purpose="test") for run in (first, second)]
    assert results[0] == pytest.approx(results[1], abs=1e-6)


def test_a_hit_for_a_residual_network_takes_less_than_a_second(store):
    model = models.resnet_cifar(20)
    options = {"images": toy_images(8), "epochs": 1, "cache": store}
    train_toy(model, **options)
    began = time.process_time()  # of this process: what others do on the machine does not count
    assert train_toy(model, **options).cached
    assert time.process_time() - began < 1


def test_cache_false_keeps_nothing_and_cache_true_uses_the_folder_of_the_environment(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("COMPACTNETS_CACHE", str(tmp_path))
    train_toy(epochs=1)
    assert list(tmp_path.iterdir()) == []
    run = train_toy(epochs=1, cache=True)
    assert (tmp_path / "checkpoints" / run.key / "run.json").exists()


USUAL = {
    "model": toy_net(),
    "data": toy_images(),
    "recipe": toy_recipe(),
    "seed": 0,
    "method": ReBNN(),
    "hooks": (ThresholdMeter(every=10),),
}


def key(**changes):
    job = Job(**{**USUAL, **changes})
    return prepare(job, train.make_fabric(job.recipe, accelerator="cpu"))[1]


def trained_longer():
    model = toy_net()
    with torch.no_grad():
        model[0].weight[0, 0, 0, 0] += 1e-6
    return model


def one_label_changed():
    images = toy_images()
    labels = images.labels.clone()
    labels[0] = 3
    return replace(images, labels=labels)


@pytest.mark.parametrize(
    "changes",
    [
        {"recipe": toy_recipe(lr=0.051)},
        {"recipe": toy_recipe(augment=RandomCrop(4))},
        {"recipe": toy_recipe(augment=RandomCrop(4, "reflect"))},
        {"recipe": toy_recipe(precision="bf16")},
        {"seed": 1},
        {"model": trained_longer()},
        {"model": nn.Sequential(*toy_net(), nn.Identity())},
        {"data": toy_images(seed=1)},
        {"data": one_label_changed()},
        {"method": None},
        {"method": ReBNN(gamma=0.0)},
        {"method": ReBNN(latent_lr=2.0)},
        {"hooks": ()},
        {"hooks": (ThresholdMeter(every=11),)},
        {"teacher": toy_net()},
        {"loss": F.mse_loss},
        {"loss": partial(F.cross_entropy, label_smoothing=0.1)},
    ],
    ids=lambda changes: ", ".join(changes),
)
def test_the_key_changes_with_whatever_decides_the_bits(changes):
    assert key(**changes) != key()


def test_the_key_depends_on_the_teachers_weights():
    assert key(teacher=toy_net(0)) == key(teacher=toy_net(0)) != key(teacher=toy_net(1))


def test_the_key_does_not_change_with_the_name_or_with_equal_objects():
    same = {"name": "another row", "model": toy_net(), "data": toy_images(), "method": ReBNN()}
    assert key(**same) == key() and len(key()) == 64


def test_the_key_changes_with_the_code_that_trains_and_with_that_of_the_method(monkeypatch):
    before = cache.code_digest([ReBNN()])
    read, touched = Path.read_bytes, set()
    for file in ("train/fit.py", "binary/rebnn.py", "binary/ste.py", "seeds.py", "data/augment.py"):

        def edited(self, file=file):
            touched.add(file) if str(self).endswith(file) else None
            return read(self) + (b"#" if str(self).endswith(file) else b"")

        monkeypatch.setattr(Path, "read_bytes", edited)
        assert cache.code_digest([ReBNN()]) != before, file
        assert file in touched
    monkeypatch.setattr(Path, "read_bytes", read)
    assert cache.code_digest([ReBNN()]) == before != cache.code_digest([toy_net()])


def test_the_key_does_not_see_what_compiling_leaves_in_a_namespace(monkeypatch):
    before = key()
    traced = importlib.import_module("compactnets.binary.rebnn")
    assert "compactnets.models.vgg" not in cache._imported(traced.__name__)
    monkeypatch.setattr(traced, "__import_compactnets_dot_vgg", models.vgg_small, raising=False)
    assert key() == before
    monkeypatch.setattr(traced, "vgg_small", models.vgg_small, raising=False)  # a real import
    assert key() != before


@pytest.mark.parametrize("file", ["model.safetensors", "run.json"])
def test_a_truncated_checkpoint_is_set_aside_with_a_warning_and_made_anew(store, file):
    first = cached(store)
    victim = store.folder / first.key / file
    victim.write_bytes(victim.read_bytes()[:-40])
    with pytest.warns(UserWarning, match=rf"{first.key} is damaged .*training again"):
        second = cached(store)
    assert Counting.started == 2 and not second.cached
    assert same_state(first.model, second.model)
    assert (store.folder / f"{first.key}.damaged" / file).exists()
    assert cached(store).cached


def test_bytes_of_the_right_number_but_not_safetensors_are_set_aside_too(store):
    first = cached(store)
    victim = store.folder / first.key / "model.safetensors"
    victim.write_bytes(b"\xff" * victim.stat().st_size)
    with pytest.warns(UserWarning, match="damaged"):
        assert not cached(store).cached
    assert cached(store).cached


def write_half(*arguments):
    """Stands in for a writer that dies in the middle of its work."""
    if len(arguments) == 2:  # save_file(state, path)
        Path(arguments[1]).write_bytes(b"\x10" * 100)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("moment", ["save_file", "json"])
def test_a_writer_killed_half_way_leaves_no_entry(store, monkeypatch, moment):
    with monkeypatch.context() as patched:
        if moment == "json":  # the network is there, its facts are not
            patched.setattr(cache, "json", SimpleNamespace(dumps=lambda *_, **__: write_half()))
        else:
            patched.setattr(cache, "save_file", write_half)
        if (child := os.fork()) == 0:
            try:
                with store.locked("key"):
                    store.store("key", {"w": torch.zeros(3)}, {"history": []})
            finally:
                os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not store.has("key") and store.load("key") is None
    with store.locked("key"):  # the lock fell with its holder
        store.store("key", {"w": torch.ones(3)}, {"history": [1]})
    state, facts = store.load("key")
    assert state["w"].tolist() == [1, 1, 1] and facts == {"history": [1]}


def test_a_failed_write_leaves_the_old_entry(store, monkeypatch):
    store.store("key", {"w": torch.ones(3)}, {"n": 1})

    def full(state, path):
        Path(path).write_bytes(b"\x10" * 100)
        raise OSError("No space left on device")

    monkeypatch.setattr(cache, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        store.store("key", {"w": torch.zeros(3)}, {"n": 2})
    state, facts = store.load("key")
    assert state["w"].tolist() == [1, 1, 1] and facts == {"n": 1}
    assert sorted(p.name for p in (store.folder / "key").iterdir()) == [
        "model.safetensors",
        "run.json",
    ]


class Slowly:
    """Stands in for the training loop: leaves a mark, takes a while, changes nothing."""

    marks: Path

    def __init__(self, job, start, key, fabric):
        self.start, self.key = start, key

    def run(self):
        (Slowly.marks / str(os.getpid())).touch()
        time.sleep(0.5)
        return Run(self.start, [{"by": os.getpid()}], 0.5, False, self.key, "cpu", "32-true")


def test_two_processes_that_want_one_network_train_it_once(store, monkeypatch):
    loop = importlib.import_module("compactnets.train.fit")
    monkeypatch.setattr(loop, "_Training", Slowly)  # forked processes cannot run autograd
    Slowly.marks = store.folder.parent / "marks"
    Slowly.marks.mkdir()
    children = []
    for _ in range(2):
        if (child := os.fork()) == 0:
            code = 3
            try:
                code = int(train_toy(cache=store).cached)
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert sorted(codes) == [0, 1]  # one trained, one found the network
    (mark,) = Slowly.marks.iterdir()
    assert train_toy(cache=store).history == [{"by": int(mark.name)}]


def test_the_digest_of_a_state_sees_names_shapes_types_and_bytes():
    def state(**tensors):
        module = nn.Module()
        for name, tensor in tensors.items():
            module.register_buffer(name, tensor)
        return cache.state_digest(module)

    base = state(a=torch.zeros(2, 3))
    assert base == state(a=torch.zeros(2, 3).t().contiguous().t())  # layout is not content
    others = [
        state(b=torch.zeros(2, 3)),
        state(a=torch.zeros(3, 2)),
        state(a=torch.zeros(2, 3, dtype=torch.int32)),
        state(a=-torch.zeros(2, 3)),
        state(a=torch.zeros(2, 3), b=torch.zeros(0)),
    ]
    assert len({base, *others}) == 6


def test_entries_are_readable_json_beside_plain_safetensors(store):
    run = cached(store)
    facts = json.loads((store.folder / run.key / "run.json").read_text())
    assert facts["bytes"] == (store.folder / run.key / "model.safetensors").stat().st_size
    assert facts["run"]["history"] == run.history
    assert CheckpointCache().folder == paths.cache_dir() / "checkpoints"
