"""3-D convolution 3x3x3, batch 1, stride 1, padding 1: Winograd beside direct convolutions.

fp32 in and out, channels_last_3d, both transforms included. The peers compute the same function by
direct convolution, so that outputs are compared; torch is called as nn.Conv3d calls it, which lays
its weight out anew in every call, and with the weight laid out beforehand, which is the honest one.

A layer whose columns are pruned computes another function than a direct convolution can: it is
compared with the reference before the clock starts, and timed beside the dense peers.
"""

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F
from kernels.bench import peers
from kernels.bench.contest import contest
from kernels.bench.entries import Entry, Settings
from torch import Tensor

from compactnets import cost, kernels

SHAPES = ((64, 64, (8, 28, 28)), (128, 128, (4, 14, 14)), (32, 32, (8, 56, 56)))
PRUNED = (0.0, 0.5, 0.75, 0.9)
_WHY = "the peer is dense: no direct convolution has columns per Winograd position"


def _video(channels: int, sizes: tuple[int, ...]) -> Tensor:
    x = torch.randn(1, channels, *sizes, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last_3d)


def _torch(x: Tensor, weight: Tensor) -> peers.Call:
    weight = weight.contiguous(memory_format=torch.channels_last_3d)
    return lambda: F.conv3d(x, weight, None, 1, 1)


def _torch_prepacked(x: Tensor, weight: Tensor) -> peers.Call:
    one = [1, 1, 1]
    packed = torch.ops.mkldnn._reorder_convolution_weight(weight, one, one, one, 1, list(x.shape))
    return lambda: torch.ops.mkldnn._convolution_pointwise(
        x, packed, None, one, one, one, 1, "none", [], ""
    )


def _onnx(x: Tensor, weight: Tensor, threads: int) -> peers.Call | None:
    attributes = {"pads": [1] * 6, "kernel_shape": [3, 3, 3]}
    return peers.onnx_node("Conv", x, {"w": weight}, threads, attributes)


def _check(layer: kernels.Winograd3d, x: Tensor) -> None:
    """The pruned layer against its reference, where no peer can vouch for it."""
    expected = kernels.winograd3d_reference(
        x, layer.packed, layer.keep, layer.bias, out_channels=layer.out_channels, padding=(1, 1, 1)
    )
    if (error := (layer(x) - expected).abs().max().item()) > 2e-5:
        raise cost.OutputsDiffer(f"winograd3d: {error:.3g} from the reference")


def measure(settings: Settings) -> Iterator[Entry]:
    """Rows of every shape, share of pruned columns and peer."""
    for channels, outputs, sizes in SHAPES:
        x = _video(channels, sizes)
        generator = torch.Generator().manual_seed(1)
        weight = torch.randn(outputs, channels, 3, 3, 3, generator=generator)
        weight /= (27 * channels) ** 0.5
        every = {
            "torch fp32": _torch(x, weight),
            "torch prepacked": _torch_prepacked(x, weight),
            "openvino fp32": peers.openvino_conv(x, weight, settings.threads, padding=1),
            "onnxruntime fp32": _onnx(x, weight, settings.threads),
        }
        for pruned in PRUNED:
            keep = torch.rand(64, channels, generator=generator) >= pruned
            layer = kernels.Winograd3d(weight, keep=keep, padding=1)
            dense = pruned == 0
            _check(layer, x)
            size = "x".join(map(str, sizes))
            yield from contest(
                "winograd3d",
                f"{channels}->{outputs} {size}" + ("" if dense else f" -{pruned:.0%}"),
                settings,
                partial(layer, x),
                every if dense else {"torch prepacked": every["torch prepacked"]},
                tolerance=2e-5,
                unequal={} if dense else {"torch prepacked": _WHY},
                operations=layer.cost_macs(x.shape, (1, outputs, *sizes)),
                unit="fp32",
                traffic=4.0 * (x.numel() * (1 + outputs / channels) + layer.packed.numel()),
            )
