"""1-bit 3x3 convolution, batch 1: fp32 in, fp32 out, packing and exact zero padding included.

Input and weights are ±1, so that the fp32 convolution with alpha * weight computes the very same
function and outputs can be compared. Peers: torch's convolution as called by nn.Conv2d, which lays
its weight out anew in every call, and the same with the weight laid out beforehand, which is the
honest one; ONNX Runtime in fp32 where it is installed (pip install "compactnets[bench]").
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from kernels.bench.entries import Entry, Settings
from torch import Tensor

from compactnets import cost, kernels

SHAPES = ((64, 56), (128, 28), (256, 14), (512, 7))  # channels, height and width


def _signs(*shape: int, seed: int) -> Tensor:
    bits = torch.randint(2, shape, generator=torch.Generator().manual_seed(seed))
    return (2.0 * bits - 1).contiguous(memory_format=torch.channels_last)


def _onnxruntime(x: Tensor, weight: Tensor, threads: int) -> Callable[[], Tensor] | None:
    """The convolution as a model of one node, or None if onnx or onnxruntime is missing."""
    try:
        import onnxruntime
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        return None
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], kernel_shape=[3, 3])
    named = (("x", list(x.shape)), ("y", [1, weight.shape[0], *x.shape[2:]]))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, size) for n, size in named]
    stored = numpy_helper.from_array(weight.contiguous().numpy(), "w")
    graph = helper.make_graph([node], "conv", ends[:1], ends[1:], [stored])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {"x": x.contiguous().numpy()}
    return lambda: torch.from_numpy(session.run(["y"], feed)[0])


def _contestants(channels: int, size: int, threads: int) -> dict[str, Callable[[], Tensor]]:
    x = _signs(1, channels, size, size, seed=0)
    weight = _signs(channels, channels, 3, 3, seed=1)
    alpha = torch.rand(channels, generator=torch.Generator().manual_seed(2)) + 0.5
    layer = kernels.BinaryConv2d(weight, alpha, padding=1)
    dense = (alpha[:, None, None, None] * weight).contiguous(memory_format=torch.channels_last)
    pair = [1, 1]
    prepacked = torch.ops.mkldnn._reorder_convolution_weight(
        dense, pair, pair, pair, 1, list(x.shape)
    )
    contestants = {
        "ours": lambda: layer(x),
        "torch fp32": lambda: F.conv2d(x, dense, None, 1, 1),
        "torch prepacked": lambda: torch.ops.mkldnn._convolution_pointwise(
            x, prepacked, None, pair, pair, pair, 1, "none", [], ""
        ),
    }
    if (session := _onnxruntime(x, dense, threads)) is not None:
        contestants["onnxruntime fp32"] = session
    return contestants


@torch.inference_mode()
def measure(settings: Settings) -> Iterator[Entry]:
    """Rows of every shape and peer."""
    for channels, size in SHAPES:
        contestants = _contestants(channels, size, settings.threads)
        outputs = {name: run() for name, run in contestants.items()}
        times = cost.latency(
            contestants,
            "ours",
            rounds=settings.rounds,
            threads=settings.threads,
            equal_to="torch fp32",
            atol=1e-2,  # sums of up to 4608 terms of about 1 in fp32
        )
        for peer in list(contestants)[1:]:
            low, high = times.spread(peer)  # of ours / peer
            yield Entry(
                kernel="binary_conv2d",
                shape=f"3x3 {channels}x{size}x{size}",
                threads=settings.threads,
                isa=kernels.isa(),
                ours_us=1e3 * times.minimum("ours"),
                peer=peer,
                peer_us=1e3 * times.minimum(peer),
                ratio=times.minimum(peer) / times.minimum("ours"),
                max_error=(outputs["ours"] - outputs[peer]).abs().max().item(),
                ours_median_us=1e3 * times.median("ours"),
                peer_median_us=1e3 * times.median(peer),
                ratio_p5=1 / high,
                ratio_p95=1 / low,
            )
