"""Linear layers with weights of 4 bits and 2 bits (ternary), int8 inside, fp32 in and out.

Activations are whole numbers that reach 127 in every block of 32, so that quantizing them, per row
as ours do or per block as ONNX Runtime's MatMulNBits does, changes nothing and all contestants
compute the same function. Peers hold the same integers: MatMulNBits with scales per block of 32,
equal ones where ours are per output; ONNX Runtime's int8 product; PyTorch in fp32 and its int4 and
int8 weights with bf16 activations.
"""

from collections.abc import Iterator
from functools import partial

import torch
from kernels.bench import peers, peers_int8, peers_lowbit
from kernels.bench.contest import contest
from kernels.bench.entries import Entry, Settings
from torch import Tensor

from compactnets import kernels

SHAPES = ((1024, 1), (4096, 1), (1024, 64))  # inputs and outputs, rows
BLOCK = 32  # of MatMulNBits
BF16 = "its activations and scales are bf16"
FORMS = {
    "W4A8": {"bits": 4},
    "W4A8 groups of 32": {"bits": 4, "group": 32},
    "W4A8 groups of 128": {"bits": 4, "group": 128},
    "W2A8 ternary": {"bits": 2, "ternary": True},
}


def _activations(rows: int, inputs: int) -> Tensor:
    x = torch.randint(-127, 128, (rows, inputs), generator=torch.Generator().manual_seed(0)).float()
    x[:, ::BLOCK] = 127
    return x


def _peers(x: Tensor, layer: kernels.LowBitLinear, settings: Settings) -> dict:
    integers, threads = layer.integers(), settings.threads
    inputs = integers.shape[1]
    of_block = layer.scale.repeat_interleave(inputs // BLOCK // layer.scale.shape[0], 0).t()
    found = {
        "onnxruntime 4 bit": peers_lowbit.onnx_nbits(x, integers, of_block, threads, bits=4),
        "torch fp32": peers.torch_linear(x, layer.dense_weight()),
    }
    if layer.weight_bits == 2:
        found["onnxruntime 2 bit"] = peers_lowbit.onnx_nbits(x, integers, of_block, threads, bits=2)
    if layer.group is None:
        dense = peers_int8.Int8Layer(x, integers, 1.0, 128, layer.scale[0])
        found["onnxruntime int8"] = peers_int8.onnx_int8_linear(dense, threads)
    return found


def _bf16_peers(x: Tensor, layer: kernels.LowBitLinear) -> dict:
    integers = layer.integers()
    group = integers.shape[1] // layer.scale.shape[0]
    of_block = layer.scale.repeat_interleave(group // BLOCK, 0).t()
    found = {"torch int4 bf16": peers_lowbit.torch_int4pack(x, integers, of_block)}
    if layer.group is None:
        found["torch int8 bf16"] = peers_lowbit.torch_int8pack(x, integers, layer.scale[0])
    return found


def measure(settings: Settings) -> Iterator[Entry]:
    """Rows of every shape, form of the weight and peer."""
    for size, rows in SHAPES:
        x = _activations(rows, size)
        weight = torch.randn(size, size, generator=torch.Generator().manual_seed(1))
        plain = kernels.LowBitLinear(weight)
        for form, options in FORMS.items():
            layer = kernels.LowBitLinear(weight, **options)
            found = _peers(x, layer, settings)
            if layer.weight_bits == 2:
                found["ours W4A8"] = partial(plain, x)
            # The bf16 peers apart: whoever comes after one of them is slower for a while.
            for rivals in (found, _bf16_peers(x, layer)):
                yield from contest(
                    "lowbit_linear",
                    f"{form} {size}x{size} x{rows}",
                    settings,
                    partial(layer, x),
                    rivals,
                    tolerance=2e-5 * size * 127,  # fp32 sums in another order
                    unequal={
                        "torch int4 bf16": BF16,
                        "torch int8 bf16": BF16,
                        "ours W4A8": "it holds other weights",
                    },
                    operations=rows * size**2,
                    unit="int8",
                    traffic=size**2 * options["bits"] // 8 + 8 * rows * size,
                )
