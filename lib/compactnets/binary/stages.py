"""The stages of the 1-bit kernel, which does all of them in one call, told apart by other calls.

    whole = call + packing + GEMM + epilogue

"call": Python and the operator, a convolution of one pixel to one block of channels. "packing":
kernels.pack_signs alone, without the call (on an int8 matrix unit the kernel writes bytes in place
of bits; the floats it reads are the same). "epilogue": scale, bias, writing the result and getting
memory for it: a 1x1 convolution of packed signs of 64 channels that writes as large a result, less
the call and its one of the d steps of the GEMM. "GEMM": what is left of the whole.
"""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn

from compactnets import kernels
from compactnets.binary.fused import FusedPReLU
from compactnets.cost import latency, stage_times
from compactnets.cost.stages import StageOf

STEP = 64  # input channels of a step of the GEMM
REST = "additions, pooling, calls"


def kernel_stages(
    layer: kernels.BinaryConv2d, x: Tensor, *, rounds: int = 30, threads: int | None = 1
) -> dict[str, float]:
    """Milliseconds of "call", "packing", "GEMM", "epilogue" of one packed layer on x (N, C, H, W).

    They add up to the time of the whole call, or to more where noise made the GEMM's part negative
    (it is 0 then).
    """
    images, outputs, height, width = layer(x).shape
    signs = torch.zeros(images, height, width, STEP // 32, dtype=torch.int32, device=x.device)
    one_step = kernels.BinaryConv2d(torch.ones(outputs, STEP, 1, 1), layer.scale, bias=layer.bias)
    smallest = kernels.BinaryConv2d(torch.ones(16, STEP, 1, 1))
    pixel = signs[:1, :1, :1]
    with torch.inference_mode():
        calls = {
            "whole": lambda: layer(x),
            "packing": lambda: kernels.pack_signs(x, layer.input_shift),
            "result": lambda: one_step(signs),
            "call": lambda: smallest(pixel),
        }
        times = latency(calls, "whole", rounds=rounds, threads=threads)
    return split(layer, {name: times.minimum(name) for name in calls})


def split(layer: kernels.BinaryConv2d, times: dict[str, float]) -> dict[str, float]:
    """The four stages from the times of "whole", "packing", "result" and "call" (see above)."""
    taps = layer.kernel_size[0] * layer.kernel_size[1]
    steps = taps * -(-(layer.in_channels // layer.groups) // STEP)  # d
    packing = max(times["packing"] - times["call"], 0.0)
    beyond = times["whole"] - packing - times["result"]  # d - 1 steps of the GEMM
    gemm = max(beyond * steps / (steps - 1), 0.0) if steps > 1 else 0.0
    epilogue = max(times["result"] - times["call"] - gemm / steps, 0.0)
    return {"call": times["call"], "packing": packing, "GEMM": gemm, "epilogue": epilogue}


def network_stages(
    model: nn.Module,
    x: Tensor,
    stage_of: StageOf | None = None,
    *,
    rounds: int = 30,
    threads: int | None = 1,
) -> dict[str, float]:
    """Milliseconds of a deployed network's stages on x; they add up to one call of it.

    The kernels' stages are measured layer by layer on what each layer reads in the network and
    scaled to the time that all of them take within it. stage_of(name, module) names the stages of
    the other modules (cost.stage_times). ValueError if there is no kernels.BinaryConv2d.
    """
    packed = "1-bit"

    def stage(name: str, module: nn.Module) -> str | None:
        if isinstance(module, kernels.BinaryConv2d):
            return packed
        return stage_of(name, module) if stage_of else None

    times = stage_times(model, x, stage, rest=REST, rounds=rounds, threads=threads)
    if packed not in times:
        raise ValueError(f"{type(model).__name__} has no 1-bit kernel: deploy it first")
    parts: Counter[str] = Counter()
    for layer, inputs in _inputs(model, x):
        parts.update(kernel_stages(layer, inputs, rounds=rounds, threads=threads))
    scale = times.pop(packed) / sum(parts.values())
    return {name: scale * value for name, value in parts.items()} | times


def _inputs(model: nn.Module, x: Tensor) -> list[tuple[kernels.BinaryConv2d, Tensor]]:
    """Every packed layer with what it reads in the network."""
    seen: list[tuple[Any, Tensor]] = []
    layers = [m for m in model.modules() if isinstance(m, kernels.BinaryConv2d)]
    handles = [
        m.register_forward_pre_hook(lambda module, inputs: seen.append((module, inputs[0])))
        for m in layers
    ]
    try:
        with torch.inference_mode():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def react_stage(name: str, module: nn.Module) -> str | None:
    """Stages of the real-valued layers of a react_resnet_imagenet, deployed and fused."""
    if name in ("stem", "head"):
        return name
    if name.endswith(".shortcut") and not isinstance(module, nn.Identity):
        return "shortcut convolutions"
    if isinstance(module, FusedPReLU) and not name.startswith("stem"):
        return "PReLU"
    return None
