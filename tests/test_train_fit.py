"""The training loop: what it computes, step by step, beside loops written out by hand."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from compactnets import data, seeds, train
from compactnets.data.augment import Compose, RandomCrop, RandomFlip
from compactnets.train.fit import soft_cross_entropy
from train_toys import (
    DEVICES,
    Log,
    copied,
    one_thread,  # noqa: F401
    same_state,
    toy_images,
    toy_net,
    toy_recipe,
    train_toy,
)

AUGMENT = Compose(RandomCrop(1), RandomFlip())


@pytest.mark.parametrize("device", DEVICES)
def test_the_given_model_its_mode_and_the_global_generator_stay_as_they_were(device):
    model = toy_net().eval()
    before, random = copied(model), torch.get_rng_state()
    run = train_toy(model, device=device, augment=AUGMENT)
    assert not model.training and not run.model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not same_state(run.model.cpu(), model)
    assert torch.equal(random, torch.get_rng_state())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(precision):
    options = {"precision": precision, "augment": AUGMENT, "optimizer": "adam", "lr": 1e-3}
    first, second, other = (train_toy(seed=seed, **options) for seed in (0, 0, 1))
    assert first.precision == {"fp32": "32-true", "bf16": "bf16-mixed"}[precision]
    assert same_state(first.model, second.model) and not same_state(first.model, other.model)
    assert [line["loss"] for line in first.history] == [line["loss"] for line in second.history]
    assert first.key == second.key != other.key


@pytest.mark.parametrize("device", DEVICES)
def test_fit_takes_the_steps_of_a_loop_written_by_hand(device):
    images, model = toy_images(40), toy_net()
    run = train_toy(model, images, device=device, augment=AUGMENT, weight_decay=1e-3)
    by_hand = copy.deepcopy(model).to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(by_hand.parameters(), 0.05, momentum=0.9, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    losses = []
    for epoch in range(2):
        generator = seeds.generator(0, "order", epoch, device=device)
        batches = images.to(device).batches(16, generator=generator, augment=AUGMENT)
        for inputs, labels in batches:  # 16, 16, 8
            loss = F.cross_entropy(by_hand(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item() * len(labels) / 40)
    for name, value in by_hand.state_dict().items():
        assert torch.allclose(run.model.state_dict()[name], value, atol=1e-6), name
    assert [line["loss"] for line in run.history] == pytest.approx(
        [sum(losses[:3]), sum(losses[3:])]
    )


def test_history_names_epoch_loss_accuracy_rate_and_time_and_training_learns():
    run = train_toy(epochs=8, optimizer="adam", lr=0.02, schedule="linear")
    assert [line["epoch"] for line in run.history] == list(range(8))
    assert run.history[-1]["loss"] < run.history[0]["loss"] / 2
    assert run.history[-1]["train_accuracy"] > 60
    assert run.history[-1]["lr"] == pytest.approx(0.02 / 32)  # of the last of 32 steps
    assert all(line["seconds"] >= 0 for line in run.history)
    assert sum(line["seconds"] for line in run.history) <= run.seconds
    assert not run.cached and run.device == "cpu"


def test_hooks_are_called_in_order_and_add_to_the_history():
    run = train_toy(toy_net(), toy_images(20), hooks=[log := Log()], warmup_epochs=1)
    step = ["after_backward", "after_step"]
    assert log._seen == ["start", *2 * [*2 * step, "epoch_end"]]
    assert [line["steps"] for line in run.history] == [2, 4]
    assert log._rates == pytest.approx([0.025, 0.05, 0.05, 0.025])


def test_the_running_mean_of_the_weights_equals_one_computed_by_hand():
    run = train_toy(ema=0.8, hooks=[log := Log()])
    first, *states = log._states
    for name, value in run.model.state_dict().items():
        if value.is_floating_point():
            mean = first[name].double()
            for state in states:
                mean = 0.8 * mean + 0.2 * state[name].double()
        else:
            mean = states[-1][name]  # counters are not averaged
        assert torch.allclose(value.double(), mean.double(), atol=1e-6), name
    assert not torch.equal(run.model[0].weight, states[-1]["0.weight"])


def test_soft_cross_entropy_is_minus_sum_p_log_q():
    output, teacher = torch.randn(2, 5, 4, dtype=torch.float64)
    p, log_q = teacher.exp() / teacher.exp().sum(1, keepdim=True), output.log_softmax(1)
    expected = -(p * log_q).sum(1).mean()
    assert torch.isclose(soft_cross_entropy(output, torch.zeros(5), teacher), expected)


def test_a_teacher_is_only_read_and_the_gradient_reaches_the_student_alone():
    teacher, seen = toy_net(7).train(), []

    def spying(output, target, teacher_output):
        seen.append((output.requires_grad, teacher_output.requires_grad, teacher_output.clone()))
        return soft_cross_entropy(output, target, teacher_output)

    before, images = copied(teacher), toy_images(16)
    spied = train_toy(images=images, teacher=teacher, loss=spying, epochs=1)
    default = train_toy(images=images, teacher=teacher, epochs=1)
    assert same_state(spied.model, default.model)
    assert [(s, t) for s, t, _ in seen] == [(True, False)]
    assert teacher.training and all(p.grad is None for p in teacher.parameters())
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())
    generator = seeds.generator(0, "order", 0)
    inputs, _ = next(images.batches(16, generator=generator))
    expected = copy.deepcopy(teacher).eval()(inputs)  # its normalisation does not move
    assert torch.allclose(seen[0][2], expected, atol=1e-6)


def test_gradients_are_clipped_to_the_norm_before_the_step():
    options = {"epochs": 1, "batch": 64, "momentum": 0.0, "lr": 1.0, "schedule": "constant"}
    model, log = toy_net(), Log()
    train_toy(model, hooks=[log], grad_clip=1e-3, **options)
    norm = torch.cat([g.flatten() for g in log._gradients[0]]).norm()
    before, after = log._states
    names = [name for name, _ in model.named_parameters()]
    step = torch.cat([(after[n] - before[n]).flatten() for n in names]).norm()
    assert norm > 1e-2 and float(step) == pytest.approx(1e-3, rel=1e-3)
    train_toy(model, hooks=[free := Log()], grad_clip=1e6, **options)
    train_toy(model, hooks=[unclipped := Log()], **options)
    assert all(torch.equal(free._states[1][n], unclipped._states[1][n]) for n in names)


def test_label_smoothing_is_that_of_the_default_loss():
    smoothed = train_toy(label_smoothing=0.2)
    given = train_toy(loss=partial(F.cross_entropy, label_smoothing=0.2))
    assert same_state(smoothed.model, given.model)
    assert not same_state(smoothed.model, train_toy().model)


def test_a_diverging_run_stops_with_its_name_and_the_cure():
    with pytest.raises(ValueError, match=r"too hot: loss (nan|inf) in epoch \d; lower the learn"):
        train_toy(lr=1e30, epochs=4, name="too hot")


def test_frozen_parameters_do_not_move():
    model = toy_net()
    model[0].weight.requires_grad_(False)
    run = train_toy(model, weight_decay=0.1)
    assert torch.equal(run.model[0].weight, model[0].weight)
    assert not torch.equal(run.model[3].weight, model[3].weight)


class Doubled:
    """A method that prepares, groups its parameters and watches; nothing to ship."""

    def __init__(self, scale: float = 0.0):
        self.scale, self.logs = scale, []

    def __repr__(self) -> str:
        return f"Doubled(scale={self.scale})"

    def prepare(self, model, example):
        assert example.shape == (2, 3, 8, 8) and example.dtype == torch.float32
        model = copy.deepcopy(model)
        with torch.no_grad():
            model[-1].weight.mul_(2)
        return model

    def parameter_groups(self, model):
        head = list(model[-1].parameters())
        rest = [p for layer in model[:-1] for p in layer.parameters()]
        return [{"params": rest}, {"params": head, "lr_scale": self.scale}]

    def hooks(self):
        self.logs.append(Log())
        return self.logs[-1:]

    def deploy(self, model):
        return model


def test_a_method_prepares_the_network_groups_its_parameters_and_brings_its_hooks():
    model, method = toy_net(), Doubled(scale=0.0)
    run = train_toy(model, method=method, epochs=1)
    assert torch.equal(run.model[-1].weight, 2 * model[-1].weight)  # lr_scale 0: it stayed
    assert not torch.equal(run.model[0].weight, model[0].weight)
    assert (
        sum(
            log._seen == ["start", *4 * ["after_backward", "after_step"], "epoch_end"]
            for log in method.logs
        )
        == 1
    )  # fresh hooks: one set of them has worked


class Upscaler(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 12, 3, padding=1), nn.PixelShuffle(2))


@pytest.mark.parametrize("device", DEVICES)
def test_the_loop_also_trains_super_resolution(device):
    scenes = tuple(torch.randint(0, 256, (3, 24, 20 + 2 * i), dtype=torch.uint8) for i in range(3))
    smooth = tuple(F.avg_pool2d(s.float(), 5, 1, 2).to(torch.uint8) for s in scenes)
    patches = data.PatchSet("toy scenes", "train", smooth, "embedded", 2, 16, patches=24)
    with seeds.scoped(0, "init"):
        model = Upscaler()
    options = {"batch": 10, "optimizer": "adam", "lr": 0.02, "epochs": 4, "loss": F.l1_loss}
    run = train_toy(model, patches, device=device, **options)
    assert "train_accuracy" not in run.history[0]
    assert run.history[-1]["loss"] < 0.7 * run.history[0]["loss"]
    again = train_toy(model, patches, device=device, **options)
    assert device != "cpu" or same_state(run.model, again.model)
    whole = data.PatchSet("toy scenes", "tune", smooth, "embedded", 2, 16)
    error = {"l1": lambda out, high: (out - high).abs().mean(dim=(1, 2, 3))}
    untrained = train.evaluate(model, whole, purpose="test", metrics=error)["l1"]
    assert train.evaluate(run.model, whole, purpose="test", metrics=error)["l1"] < untrained


@pytest.mark.parametrize("device", DEVICES)
def test_precision_auto_is_what_the_device_multiplies_fast(device):
    recipe = toy_recipe(precision="auto")
    fabric = train.make_fabric(recipe, accelerator=device)
    fast = train.devices.bf16_is_fast(fabric.device)
    expected = "bf16-mixed" if fast else "32-true"
    assert train.devices.precision_of(fabric) == expected
    assert train_toy(precision="auto", device=device).precision == expected


def test_compiling_pays_only_for_long_runs_unless_asked_for():
    cpu, least = torch.device("cpu"), train.devices.STEPS_THAT_PAY_FOR_COMPILING
    auto = toy_recipe(compile="auto")
    assert not train.devices.wants_compiling(auto, least - 1, cpu)
    assert train.devices.wants_compiling(toy_recipe(compile=True), 1, cpu)
    assert not train.devices.wants_compiling(toy_recipe(compile=False), 10 * least, cpu)


def test_without_a_compiler_nothing_is_compiled(monkeypatch):
    monkeypatch.setenv("PATH", "")
    auto, cpu = toy_recipe(compile="auto"), torch.device("cpu")
    assert not train.devices.wants_compiling(auto, 10**6, cpu)


class _TwoOutputs(nn.Module):
    """A network that returns its logits and the map before them."""

    def __init__(self):
        super().__init__()
        self.body, self.head = toy_net()[:5], toy_net()[5:]

    def forward(self, x):
        maps = self.body(x)
        return {"logits": self.head(maps), "maps": maps}


def _matching_maps(output, target, teacher_output):
    task = F.cross_entropy(output["logits"], target)
    return task + F.mse_loss(output["maps"], teacher_output["maps"])


def test_outputs_and_teachers_may_be_structures_of_tensors():
    teacher = _TwoOutputs()
    run = train_toy(_TwoOutputs(), loss=_matching_maps, teacher=teacher, epochs=3)
    assert "train_accuracy" not in run.history[0]
    assert run.history[-1]["loss"] < run.history[0]["loss"]


class _Shifted:
    """Adds the mean of what prepare was shown."""

    def prepare(self, model, example):
        with torch.no_grad():
            (changed := copy.deepcopy(model))[0].weight.add_(example.mean())
        return changed

    def hooks(self):
        return ()

    def deploy(self, model):
        return model

    def __repr__(self):
        return "Shifted()"


def test_a_method_prepares_on_the_example_of_the_job_or_on_the_first_two_images():
    images, model = toy_images(), toy_net()
    first_two = next(iter(images.chunks(2)))[0]
    usual, same, other = (
        train_toy(model, images, method=_Shifted(), example=example)
        for example in (None, first_two, first_two + 1)
    )
    assert usual.key == same.key != other.key and same_state(usual.model, same.model)
    assert not same_state(usual.model, other.model)
