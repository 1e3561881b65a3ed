"""Attention maps of a student beside a teacher's: what is lost by binarizing, and losses on it.

A map is (images, heads, queries, keys), each row a distribution over keys; maps come as one tensor
per block, in the network's order.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compactnets.method import Hook, Progress


def attentions(network: nn.Module) -> list[nn.Module]:
    """Its attention modules in order; TypeError if there is none (models.vit, models.swin)."""
    found = [m for m in network.modules() if hasattr(m, "attn_act") and hasattr(m, "qkv")]
    if not found:
        raise TypeError(
            f"{type(network).__name__} has no attention to binarize: needs modules with qkv, proj "
            "and attn_act, as in models.vit"
        )
    return found


@contextmanager
def seen(network: nn.Module, part: str, inputs: bool = False) -> Iterator[list[Tensor]]:
    """Outputs (or inputs) of one part of every attention, in order, of calls inside the block."""
    values: list[Tensor] = []

    def keep(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
        values.append(given[0] if inputs else result)

    parts = [attention.get_submodule(part) for attention in attentions(network)]
    handles = [module.register_forward_hook(keep) for module in parts]
    try:
        yield values
    finally:
        for handle in handles:
            handle.remove()


class Kept(nn.Module):
    """A module that leaves its last output in `last`, for the network around it to take."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.last = inner, None

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.inner(x)
        return self.last


class WithMaps(nn.Module):
    """A network that also returns its attention maps: {"logits", "maps"}.

    The network is taken as it is, not copied, and its softmaxes are wrapped. always=False: only in
    training mode; in evaluation mode the logits alone.
    """

    def __init__(self, network: nn.Module, always: bool = True):
        super().__init__()
        for attention in attentions(network):
            attention.softmax = Kept(attention.softmax)  # type: ignore[arg-type]
        self.network, self.always = network, always

    def forward(self, images: Tensor) -> Any:
        logits = self.network(images)
        kept = [module for module in self.network.modules() if isinstance(module, Kept)]
        maps = [module.last for module in kept]
        for module in kept:
            module.last = None  # or the graph would live on, and the network could not be copied
        return {"logits": logits, "maps": maps} if self.always or self.training else logits


def _same_maps(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape or student.shape[-1] < 2:
        raise ValueError(
            "rows over the same two or more keys are compared, got "
            f"{tuple(student.shape)} and {tuple(teacher.shape)}"
        )


def ranking_loss(
    student: Tensor, teacher: Tensor, margin: float = 0.1, keys: int | None = None
) -> Tensor:
    """mean over pairs of max(0, margin - sgn(a^T_j - a^T_k) N (a^S_j - a^S_k)): a scalar.

    student, teacher: rows (..., N) over the same N keys; gradients reach the student only. N makes
    the margin comparable to the mean entry 1/N. This is the book's form of the ranking-aware
    distillation of arXiv:2305.12354, whose formula could not be had.
    keys: the pairs of so many keys drawn anew from torch's global generator, the same for all rows:
    an unbiased estimate of the mean over all pairs. None: all pairs, N^2 work per row.
    ValueError for shapes that differ, or keys outside of 2 .. N.
    """
    _same_maps(student, teacher)
    size = student.shape[-1]
    if keys is not None and not 2 <= keys <= size:
        raise ValueError(f"keys must be from 2 to {size}, got {keys}")
    if keys is not None:
        chosen = torch.randperm(size)[:keys].to(student.device)
        student, teacher = student[..., chosen], teacher[..., chosen]
    j, k = torch.triu_indices(student.shape[-1], student.shape[-1], 1, device=student.device)
    order = torch.sign(teacher.detach()[..., j] - teacher.detach()[..., k])
    return (margin - order * (size * (student[..., j] - student[..., k]))).clamp_min(0).mean()


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher row || student row) in nats, mean over rows; entries below 1e-8 count as 1e-8."""
    _same_maps(student, teacher)
    p, q = teacher.detach().clamp_min(1e-8), student.clamp_min(1e-8)
    return (p * (p.log() - q.log())).sum(-1).mean()


def distillation_loss(
    output: Any,
    target: Tensor,
    teacher: Any,
    *,
    kappa: float = 0.5,
    rank_weight: float = 0.0,
    kl_weight: float = 0.0,
    keys: int | None = 8,
) -> Tensor:
    """(1 - kappa) CE(p, y) + kappa CE(p, argmax p^T) + rank_weight L_rank + kl_weight KL, nats.

    output, teacher: {"logits", "maps"} of WithMaps; maps of all blocks count equally. The first
    two terms are the released code's hard distillation, there with a head for each.
    """
    logits = output["logits"]
    hard = teacher["logits"].argmax(dim=-1)
    loss = (1 - kappa) * F.cross_entropy(logits, target) + kappa * F.cross_entropy(logits, hard)
    maps = list(zip(output["maps"], teacher["maps"], strict=True))
    if rank_weight:
        order = [ranking_loss(mine, wanted, keys=keys) for mine, wanted in maps]
        loss = loss + rank_weight * torch.stack(order).mean()
    if kl_weight:
        gap = [divergence(mine, wanted) for mine, wanted in maps]
        loss = loss + kl_weight * torch.stack(gap).mean()
    return loss


def kendall_tau(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - 2 (discordant pairs) / (pairs) of each row: (..., N) twice -> (...), in [-1, 1].

    A pair that is equal in either counts as discordant: an order that is lost is no order.
    """
    _same_maps(student, teacher)
    size = student.shape[-1]
    agreeing = torch.zeros(student.shape[:-1], device=student.device)
    for j in range(size - 1):  # memory of one row of pairs at a time
        s = student[..., j : j + 1] - student[..., j + 1 :]
        t = teacher[..., j : j + 1] - teacher[..., j + 1 :]
        agreeing += ((s.sign() * t.sign()) > 0).sum(-1)
    return 4 * agreeing / (size * (size - 1)) - 1


def top_overlap(student: Tensor, teacher: Tensor, k: int = 5) -> Tensor:
    """Share of the teacher's k strongest keys among the student's: (..., N) twice -> (...).

    Of equal entries the lower index counts as stronger.
    """
    _same_maps(student, teacher)
    if not 1 <= k <= student.shape[-1]:
        raise ValueError(f"k must be from 1 to {student.shape[-1]}, got {k}")

    def best(row: Tensor) -> Tensor:
        first = row.argsort(dim=-1, descending=True, stable=True)[..., :k]
        return torch.zeros_like(row, dtype=torch.bool).scatter(-1, first, True)

    return (best(student) & best(teacher)).sum(-1) / k


def row_entropy(attention: Tensor) -> Tensor:
    """Entropy in nats of each row divided by its sum, (..., N) -> (...); 0 for a row of zeros."""
    p = attention / attention.sum(-1, keepdim=True).clamp_min(1e-12)
    return torch.special.entr(p).sum(-1)


@torch.no_grad()
def compare(student: nn.Module, teacher: nn.Module, images: Tensor) -> list[dict[str, float]]:
    """One line per block and head: block, head, blocked, tau, top5, entropy; means over images.

    blocked: share of elements of the attention map (or score) that its quantizer's straight-through
    window cuts off, 0 without a quantizer. tau, top5: order of the student's real-valued maps (or
    scores) beside the teacher's maps. entropy: of the binarized rows, nats. images (n, 3, H, W).
    """
    with seen(student, "attn_act", inputs=True) as before, seen(student, "attn_act") as after:
        student(images)
    with seen(teacher, "softmax") as wanted:
        teacher(images)
    lines = []
    for block, attention in enumerate(attentions(student)):
        a, quantizer = before[block], attention.attn_act
        passed = torch.ones_like(a)
        if hasattr(quantizer, "window"):
            passed = quantizer.window(a)  # type: ignore[operator]
            a = a.bfloat16().float()  # equal integer scores may differ in their last bits
        found = {
            "blocked": 1 - passed.float().mean(dim=(0, 2, 3)),
            "tau": kendall_tau(a, wanted[block]).mean(dim=(0, 2)),
            "top5": top_overlap(a, wanted[block]).mean(dim=(0, 2)),
            "entropy": row_entropy(after[block]).mean(dim=(0, 2)),
        }
        for head in range(a.shape[1]):
            values = {name: float(value[head]) for name, value in found.items()}
            lines.append({"block": block, "head": head, **values})
    return lines


def gradient_norms(student: nn.Module, images: Tensor, labels: Tensor) -> list[tuple[float, float]]:
    """(behind, before) the attention map's quantizer: ||dL/dA_hat|| and ||dL/dA|| of each block.

    L is the cross-entropy of the logits in evaluation mode; without a quantizer both are equal.
    """
    with seen(student, "attn_act", inputs=True) as before, seen(student, "attn_act") as after:
        loss = F.cross_entropy(student(images), labels)
    both = torch.autograd.grad(loss, [*after, *before])
    norms = [float(g.norm()) for g in both]
    return list(zip(norms[: len(after)], norms[len(after) :], strict=True))


class AttentionMeter(Hook):
    """compare() at the start and several times an epoch, on fixed images, in the history.

    The epoch's line gets "attention": a list of {"step", "block", "head", ...}.
    """

    def __init__(self, images: Tensor, teacher: nn.Module, per_epoch: int = 4):
        if per_epoch < 1:
            raise ValueError(f"per_epoch must be at least 1, got {per_epoch}")
        self.per_epoch = per_epoch
        self._images, self._teacher, self._lines = images, teacher, []

    def start(self, progress: Progress) -> None:
        self._lines = []
        self._read(progress)

    def after_step(self, progress: Progress) -> None:
        every = max(progress.steps_per_epoch // self.per_epoch, 1)
        if progress.step % every == 0:
            self._read(progress)

    def epoch_end(self, progress: Progress) -> dict[str, Any]:
        lines, self._lines = self._lines, []
        return {"attention": lines}

    def _read(self, progress: Progress) -> None:
        modes = [(module, module.training) for module in progress.model.modules()]
        progress.model.eval()
        device = next(progress.model.parameters()).device
        teacher = self._teacher.to(device).eval()
        try:
            found = compare(progress.model, teacher, self._images.to(device))
        finally:
            for module, training in modes:
                module.training = training
        self._lines += [{"step": progress.step, **line} for line in found]
