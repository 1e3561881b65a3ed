"""Evaluation, always at the end of training, never for choosing."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from compactnets import data as datasets

Metric = Callable[[Tensor, Tensor], Tensor]  # (output, target) -> one value per item


def right(output: Tensor, target: Tensor) -> Tensor:
    """100 where the highest logit is the label, else 0: its mean is top-1 accuracy in percent."""
    return 100.0 * (output.argmax(dim=1) == target).float()


def cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    """Nats per image."""
    return F.cross_entropy(output, target, reduction="none")


CLASSIFICATION: dict[str, Metric] = {"accuracy": right, "loss": cross_entropy}


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    data: Any,
    *,
    purpose: str,
    metrics: dict[str, Metric] | None = None,
    batch: int = 500,
) -> dict[str, float]:
    """Mean of each metric over the data, in fp32 and eval mode, on the model's own device.

    purpose: a word for the log of test reads (data.test_reads), e.g. "standard, ReBNN, seed 0".
    Every module keeps its mode. ValueError if the data are empty.
    """
    if len(data) == 0:
        raise ValueError(f"nothing to evaluate on: {data.name} {data.split} is empty")
    if data.split == "test":
        datasets.log_test_read(data, purpose)
    metrics = metrics or CLASSIFICATION
    parameter = next(model.parameters(), None)
    data = data.to(parameter.device if parameter is not None else "cpu")
    sums = dict.fromkeys(metrics, 0.0)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        for inputs, target in data.chunks(batch):
            output = model(inputs)
            for name, metric in metrics.items():
                sums[name] += float(metric(output, target).double().sum())
    finally:
        for module, training in modes:
            module.training = training
    return {name: total / len(data) for name, total in sums.items()}
