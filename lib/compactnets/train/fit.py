"""The training loop: one for every page, on Lightning Fabric."""

import copy
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils._pytree import tree_map
from tqdm.auto import tqdm

from compactnets import seeds
from compactnets.method import Hook, Method, Progress
from compactnets.train.cache import (
    CheckpointCache,
    code_digest,
    digest,
    function_digest,
    state_digest,
)
from compactnets.train.devices import make_fabric, precision_of, wants_compiling
from compactnets.train.recipe import Recipe

# (output, target) -> scalar, or (output, target, teacher_output). An output is what the model
# returns: a tensor, or tensors in a tuple or dict (features beside the result).
Loss = Callable[..., Tensor]


@dataclass(frozen=True)
class Job:
    """One training, described: what fit and fit_many take.

    model: initial weights; it is copied, never changed. data: anything with the batches / chunks /
    fingerprint protocol of data.ImageSet. seed: data order and augmentation. teacher: frozen, its
    output is the loss's third argument. loss: default cross-entropy; with a teacher, soft
    cross-entropy at temperature 1. name: for progress lines only. example: the inputs that the
    method's prepare sees (to calibrate on, say); default: the first two of the data.
    """

    model: nn.Module = field(repr=False)
    data: Any = field(repr=False)
    recipe: Recipe
    seed: int
    loss: Loss | None = None
    method: Method | None = None
    teacher: nn.Module | None = field(default=None, repr=False)
    hooks: tuple[Hook, ...] = ()
    name: str = "fit"
    example: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Run:
    """A finished training: the network, a line of history per epoch, and what it took.

    seconds: of the training itself, also when the network came from the cache.
    """

    model: nn.Module = field(repr=False)
    history: list[dict[str, Any]] = field(repr=False)
    seconds: float
    cached: bool
    key: str
    device: str
    precision: str


def fit(
    model: nn.Module,
    data: Any,
    recipe: Recipe,
    *,
    seed: int,
    loss: Loss | None = None,
    method: Method | None = None,
    teacher: nn.Module | None = None,
    hooks: Iterable[Hook] = (),
    name: str = "fit",
    example: Tensor | None = None,
    cache: CheckpointCache | bool = True,
    fabric: Fabric | None = None,
) -> Run:
    """Trains a copy of the model (prepared by the method, if any) and returns its last state.

    Arguments as in Job. cache: True keeps the network under a key of everything that decides its
    bits and returns it the next time. fabric: made by make_fabric; needed for several devices.
    Same seed, same machine, same thread count: same bits on a CPU. ValueError if the loss stops
    being finite.
    """
    job = Job(model, data, recipe, seed, loss, method, teacher, tuple(hooks), name, example)
    return fit_job(job, cache=cache, fabric=fabric)


def fit_job(job: Job, *, cache: CheckpointCache | bool = True, fabric: Fabric | None = None) -> Run:
    """fit, for a job; see there."""
    fabric = fabric or make_fabric(job.recipe)
    start, key = prepare(job, fabric)
    store = CheckpointCache() if cache is True else (cache or None)
    if store is None or fabric.world_size > 1:  # processes of one run must not wait for each other
        return _Training(job, start, key, fabric).run()
    with store.locked(key):
        if found := store.load(key):
            state, facts = found
            start.load_state_dict(state)
            return Run(start.to(fabric.device).eval(), cached=True, key=key, **facts)
        run = _Training(job, start, key, fabric).run()
        facts = {n: getattr(run, n) for n in ("history", "seconds", "device", "precision")}
        store.store(key, run.model.state_dict(), facts)
        return run


def prepare(job: Job, fabric: Fabric) -> tuple[nn.Module, str]:
    """The network at its start, and the key: a hash of all that decides the trained bits but the
    make of the machine and the number of threads."""
    if len(job.data) == 0:
        raise ValueError(f"{job.name}: no data to train on ({job.data.name} {job.data.split})")
    example = next(iter(job.data.chunks(2)))[0] if job.example is None else job.example
    start = job.method.prepare(job.model, example) if job.method else copy.deepcopy(job.model)
    teacher = [repr(job.teacher), state_digest(job.teacher)] if job.teacher else None
    defining = [*start.modules(), *job.hooks, job.recipe.augment]
    defining += [job.method, *job.method.hooks()] if job.method else []
    key = digest(
        [repr(start), state_digest(start), repr(job.recipe), job.data.fingerprint, job.seed],
        [repr(job.method), [repr(hook) for hook in job.hooks], teacher],
        function_digest(_loss_of(job)),
        [str(torch.__version__), fabric.device.type, fabric.world_size, precision_of(fabric)],
        code_digest(defining),
    )
    return start, key


def soft_cross_entropy(output: Tensor, target: Tensor, teacher_output: Tensor) -> Tensor:
    """Cross-entropy to the teacher's probabilities at temperature 1, mean over the batch, nats."""
    return F.cross_entropy(output, teacher_output.softmax(dim=-1))


def _loss_of(job: Job) -> Loss:
    if job.loss is not None:
        return job.loss
    if job.teacher is not None:
        return soft_cross_entropy
    return partial(F.cross_entropy, label_smoothing=job.recipe.label_smoothing)


class _Training:
    """The state of one run of the loop."""

    def __init__(self, job: Job, start: nn.Module, key: str, fabric: Fabric):
        self.job, self.key, self.fabric = job, key, fabric
        self.recipe, self.loss = job.recipe, _loss_of(job)
        self.data = job.data.to(fabric.device)
        self.hooks = [*(job.method.hooks() if job.method else ()), *job.hooks]
        self.model = _placed(start, fabric).train()
        optimizer = self.recipe.make_optimizer(_groups(self.model, job.method))
        steps = -(-len(self.data) // self.recipe.batch)
        compiled = wants_compiling(self.recipe, self.recipe.epochs * steps, fabric.device)
        forward: Any = torch.compile(self.model) if compiled else self.model
        self.forward, optimizer = fabric.setup(forward, optimizer)
        self.teacher = _placed(copy.deepcopy(job.teacher), fabric).eval() if job.teacher else None
        self.average = _Average(self.model, self.recipe.ema)
        self.progress = Progress(self.model, optimizer, steps, self.recipe.epochs)

    def run(self) -> Run:
        began = time.perf_counter()
        for hook in self.hooks:
            hook.start(self.progress)
        history = []
        epochs = range(self.recipe.epochs)
        silent = not sys.stderr.isatty()
        for epoch in (bar := tqdm(epochs, desc=self.job.name, unit="epoch", disable=silent)):
            self.progress.epoch = epoch
            with seeds.scoped(self.job.seed, "layers", epoch):  # dropout draws from torch's own
                line = self.epoch()
            for hook in self.hooks:
                line |= hook.epoch_end(self.progress) or {}
            history.append(json.loads(json.dumps(line)))
            bar.set_postfix(loss=f"{line['loss']:.3f}", accuracy=line.get("train_accuracy"))
        self.average.copy_to(self.model)
        seconds = time.perf_counter() - began
        device, precision = str(self.fabric.device), precision_of(self.fabric)
        return Run(self.model.eval(), history, seconds, False, self.key, device, precision)

    def epoch(self) -> dict[str, Any]:
        """One pass over the data; returns the history line: mean loss, train accuracy if the
        outputs are logits and the targets classes, learning rate, seconds."""
        began = time.perf_counter()
        fabric, recipe, progress = self.fabric, self.recipe, self.progress
        generator = seeds.generator(self.job.seed, "order", progress.epoch, device=fabric.device)
        sums = torch.zeros(3, dtype=torch.float64, device=fabric.device)  # loss, right, items
        classes = False
        batches = self.data.batches(recipe.batch, generator=generator, augment=recipe.augment)
        for inputs, target in batches:
            if len(target) < fabric.world_size:
                continue  # fewer items than processes: some would have none (on one, never)
            inputs, target, weight = _share(inputs, target, fabric)
            output, value = self.step(inputs, target, weight)
            classes = _are_logits(output, target)
            sums[0] += value * len(target)
            sums[1] += (output.argmax(1) == target).sum() if classes else 0
            sums[2] += len(target)
        total: Any = fabric.all_reduce(sums, reduce_op="sum")
        loss, right, items = total.tolist()
        if not abs(loss) < float("inf"):
            raise ValueError(
                f"{self.job.name}: loss {loss} in epoch {progress.epoch}; lower the learning rate"
            )
        line = {"epoch": progress.epoch, "loss": loss / items}
        if classes:
            line["train_accuracy"] = 100 * right / items
        lr = progress.optimizer.param_groups[0]["lr"]
        return line | {"lr": lr, "seconds": time.perf_counter() - began}

    def step(self, inputs: Tensor, target: Tensor, weight: float) -> tuple[Any, Tensor]:
        """Forward, backward, optimizer; returns detached output (as the model shapes it), loss."""
        progress, recipe = self.progress, self.recipe
        factor = recipe.lr_factor(progress.step, progress.steps_per_epoch)
        for group in progress.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        output = self.forward(inputs)
        extra = () if self.teacher is None else (self.teach(self.teacher, inputs),)
        value = self.loss(output, target, *extra)
        progress.optimizer.zero_grad()
        self.fabric.backward(value * weight)
        for hook in self.hooks:
            hook.after_backward(progress)
        if recipe.grad_clip is not None:
            self.fabric.clip_gradients(self.forward, progress.optimizer, max_norm=recipe.grad_clip)
        progress.optimizer.step()
        progress.step += 1
        for hook in self.hooks:
            hook.after_step(progress)
        self.average.update(self.model)
        return tree_map(torch.Tensor.detach, output), value.detach()

    @torch.no_grad()
    def teach(self, teacher: nn.Module, inputs: Tensor) -> Any:
        with self.fabric.autocast():
            return tree_map(torch.Tensor.float, teacher(inputs))


def _are_logits(output: Any, target: Tensor) -> bool:
    """Is this a classifier's output beside class labels, so that accuracy means something?"""
    labels = target.ndim == 1 and not target.is_floating_point()
    return isinstance(output, Tensor) and output.ndim == 2 and labels


def _placed(model: nn.Module, fabric: Fabric) -> nn.Module:
    """The model on the fabric's device, 4-D weights channels-last."""
    return model.to(fabric.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _groups(model: nn.Module, method: Method | None) -> list[dict]:
    chosen = getattr(method, "parameter_groups", None)
    if chosen is None:
        return [{"params": [p for p in model.parameters() if p.requires_grad]}]
    return chosen(model)


def _share(inputs: Tensor, target: Tensor, fabric: Fabric) -> tuple[Tensor, Tensor, float]:
    """This process' slice of a global batch, and the weight that makes the mean of the processes'
    gradients (which data-parallel training takes) the gradient of the batch's mean."""
    if fabric.world_size == 1:
        return inputs, target, 1.0
    mine = slice(fabric.global_rank, None, fabric.world_size)
    inputs, whole, target = inputs[mine], len(target), target[mine]
    return inputs, target, len(target) * fabric.world_size / whole


class _Average:
    """Exponential moving average of a model's floating-point state; idle if decay is None."""

    def __init__(self, model: nn.Module, decay: float | None):
        self.decay = decay
        self.state = copy.deepcopy(model.state_dict()) if decay is not None else {}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        if self.decay is None:
            return
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - self.decay)
            else:
                self.state[name].copy_(value)

    def copy_to(self, model: nn.Module) -> None:
        if self.decay is not None:
            model.load_state_dict(self.state)
