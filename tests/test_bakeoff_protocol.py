"""The bake-off's table of methods and its jobs: all in it, all trainable, all deployable."""

import pytest
import torch
from torch import nn

from compactnets import bakeoff, data, seeds
from compactnets.binary.convert import binary_layers
from compactnets.method import Method
from compactnets.train import fit

TRAIN = data.load("shapes32", "train", limit=32)


def settled(model):
    """The network with offsets as training leaves them: no sum of signs is exactly 0."""
    with torch.no_grad(), seeds.scoped(0, "offsets"):
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.05)
            elif isinstance(module, nn.Linear):
                module.bias.normal_(0, 0.05)
    return model


@pytest.mark.parametrize("name", bakeoff.METHODS)
@pytest.mark.parametrize("kind", bakeoff.KINDS)
def test_every_method_makes_every_network_binary_and_deploys_it(name, kind):
    images = torch.randn(2, 3, 32, 32, generator=seeds.generator(0, "images"))
    start = settled(bakeoff.network(kind, "smoke", 0))
    method = bakeoff.method(name, 0)
    model = method.prepare(start, images)
    assert isinstance(method, Method) and not list(binary_layers(start))
    if name == "FDA-BNN":
        for hook in method.hooks():  # its noise must fade before bits can be packed
            _last_epoch(hook, model)
    model.eval()
    with torch.inference_mode():
        expected, found = model(images), method.deploy(model)(images)
    assert torch.allclose(found, expected, atol=1e-3)


def _last_epoch(hook, model):
    from compactnets.method import Progress

    progress = Progress(model, None, 1, 1)  # type: ignore[arg-type]
    hook.start(progress)
    hook.epoch_end(progress)


def test_the_eight_operators_are_part_of_the_methods():
    assert len(bakeoff.OPERATORS) == 8
    assert all(bakeoff.METHODS[name] == method for name, method in bakeoff.OPERATORS.items())


def test_the_seed_reaches_the_methods_that_draw():
    assert bakeoff.method("ReCU", 3).seed == 3  # type: ignore[attr-defined]
    assert bakeoff.method("BNN", 3) == bakeoff.METHODS["BNN"]


def test_an_unknown_method_or_recipe_is_refused_and_the_known_ones_are_named():
    with pytest.raises(ValueError, match=r"IR-Net.*BNN, XNOR-Net"):
        bakeoff.method("IR-Net", 0)
    with pytest.raises(ValueError, match=r"LAMB.*SGD 0.1"):
        bakeoff.recipe_job(None, bakeoff.RESNET, "smoke", 0, recipe="LAMB", train=TRAIN)


@pytest.mark.parametrize("kind", bakeoff.KINDS)
def test_every_method_of_a_network_gets_the_same_recipe_start_and_data(kind):
    start = bakeoff.network(kind, "smoke", 0)
    jobs = [
        bakeoff.binary_job(name, kind, "smoke", 0, start=start, train=TRAIN)
        for name in bakeoff.METHODS
    ]
    assert all(job.model is start and job.data is TRAIN for job in jobs)
    assert all(job.recipe == jobs[0].recipe for job in jobs)
    assert len({repr(job.method) for job in jobs}) == len(jobs)


def test_recipes_differ_in_optimizer_and_rate_alone():
    jobs = [
        bakeoff.recipe_job("BNN", bakeoff.RESNET, "smoke", 0, recipe=name, train=TRAIN)
        for name in bakeoff.RECIPES
    ]
    assert len({(job.recipe.optimizer, job.recipe.lr) for job in jobs}) == len(jobs)
    assert len({(job.recipe.epochs, job.recipe.batch, job.recipe.schedule) for job in jobs}) == 1


def test_accuracies_are_those_of_the_corrupted_images():
    test = data.load("shapes32", "test", limit=32)
    sets = bakeoff.corrupted_sets(test, ["blur", "contrast"], [1, 5])
    assert list(sets) == [("blur", 1), ("blur", 5), ("contrast", 1), ("contrast", 5)]
    found = bakeoff.accuracies(bakeoff.network(bakeoff.VGG, "smoke", 0), sets, "a test")
    assert set(found) == set(sets) and all(0 <= a <= 100 for a in found.values())


@pytest.mark.parametrize("name", bakeoff.METHODS)
def test_a_step_of_training_moves_the_weights_and_stays_finite(name):
    start = bakeoff.network(bakeoff.VGG, "smoke", 0)
    run = fit(
        start,
        TRAIN,
        bakeoff.binary_recipe("ResNet-20", "smoke"),
        seed=0,
        method=bakeoff.method(name, 0),
        cache=False,
    )
    latent = dict(binary_layers(run.model))["conv2.conv"].weight
    assert latent.isfinite().all()
    assert not torch.equal(latent, start.conv2.conv.weight)  # type: ignore[union-attr]
