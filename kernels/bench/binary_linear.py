"""1-bit linear layer beside fp32 on ±1 weights and inputs, where both compute the same function."""

from collections.abc import Iterator
from functools import partial

import torch
from kernels.bench import peers
from kernels.bench.contest import contest
from kernels.bench.entries import Entry, Settings
from torch import Tensor

from compactnets import kernels

SHAPES = ((1, 1024), (64, 1024), (197, 1024))  # tokens, features


def _signs(*shape: int, seed: int) -> Tensor:
    return 2.0 * torch.randint(2, shape, generator=torch.Generator().manual_seed(seed)) - 1


def measure(settings: Settings) -> Iterator[Entry]:
    """Rows of every shape and peer."""
    for tokens, width in SHAPES:
        x, weight = _signs(tokens, width, seed=0), _signs(width, width, seed=1)
        alpha = torch.rand(width, generator=torch.Generator().manual_seed(2)) + 0.5
        dense = alpha[:, None] * weight
        yield from contest(
            "binary_linear",
            f"{width}x{width} x{tokens}",
            settings,
            partial(kernels.BinaryLinear(weight, alpha), x),
            {
                "torch fp32": peers.torch_linear(x, dense),
                "onnxruntime fp32": peers.onnx_linear(x, dense, settings.threads),
            },
            tolerance=1e-2,  # sums of 1024 terms of about 1 in fp32
            operations=tokens * width**2,
            unit="1-bit",
            traffic=8 * x.numel() + weight.numel() / 8,
        )
