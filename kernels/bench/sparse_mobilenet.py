"""MobileNetV2 at 224x224, batch 1, all 1x1 convolutions 1x4-block-sparse, end to end.

The weights are those of a fresh network, batch normalization (statistics of a few random images)
folded in; the smallest half or three quarters of the blocks of each 1x1 convolution are zero. No
claim about accuracy: every contestant computes the same function, checked first, but the int8 one.
Ours runs channels first from end to end, so that pixels lie side by side: 1x1 layers, depthwise
ones (CSR with all weights kept) and the stem (blocks, all kept); the classifier is torch's.
Peers run the masked weights dense: torch as called by nn.Module, channels last, and compiled with
frozen weights; ONNX Runtime in fp32 and int8 (static, per channel). The rows named "stage" compare
the layers of one kind, run one after another on the inputs that they have in the network, with
torch's prepacked, channels last.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from kernels.bench import onnx_network
from kernels.bench.contest import contest
from kernels.bench.entries import Entry, Settings
from kernels.bench.peers import Call, onnx_session
from kernels.bench.sparse import masked_like
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from compactnets import kernels

SIZE = 224
SPARSITIES = (0.5, 0.75)


@dataclass(frozen=True)
class Conv:
    """A convolution with what was folded into it and the ReLU6 behind it."""

    layer: nn.Conv2d
    relu6: bool

    @property
    def kind(self) -> str:
        if self.layer.groups > 1:
            return "depthwise"
        return "1x1" if self.layer.kernel_size == (1, 1) else "stem"


@dataclass(frozen=True)
class Block:
    """Convolutions one after another; with residual, their input is added to the result."""

    convs: list[Conv]
    residual: bool = False


def network(sparsity: float) -> tuple[list[Block], nn.Linear]:
    """MobileNetV2's blocks and classifier, folded and masked."""
    from torchvision.models import mobilenet_v2

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = mobilenet_v2(dropout=0.0)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the average over what follows
        with torch.no_grad():
            model(torch.randn(4, 3, SIZE, SIZE))
    model.eval()
    blocks = []
    for feature in model.features:
        residual = getattr(feature, "use_res_connect", False)
        blocks.append(Block(list(_folded(feature, sparsity)), residual))
    return blocks, model.classifier[1]


def _folded(feature: nn.Module, sparsity: float) -> Iterator[Conv]:
    modules = [m for m in feature.modules() if not list(m.children())]
    for i, module in enumerate(modules):
        if not isinstance(module, nn.Conv2d):
            continue
        conv = fuse_conv_bn_eval(module, modules[i + 1]).requires_grad_(False)
        relu6 = len(modules) > i + 2 and isinstance(modules[i + 2], nn.ReLU6)
        if conv.kernel_size == (1, 1):
            conv.weight.copy_(masked_like(conv.weight, 4, sparsity))
        yield Conv(conv, relu6)


class Network(nn.Module):
    """The blocks with each convolution made by `make`."""

    def __init__(self, blocks: list[Block], head: nn.Linear, make: Callable[[Conv], nn.Module]):
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(*(make(conv) for conv in block.convs)) for block in blocks
        )
        self.residual = [block.residual for block in blocks]
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        for block, residual in zip(self.blocks, self.residual, strict=True):
            y = block(x)
            x = y.add_(x) if residual else y
        return self.head(x.mean((2, 3)))


def dense(conv: Conv) -> nn.Module:
    """As a user has it: nn.Conv2d and nn.ReLU6."""
    return nn.Sequential(conv.layer, nn.ReLU6(inplace=True)) if conv.relu6 else conv.layer


def prepacked(conv: Conv) -> nn.Module:
    """torch's convolution with the weight laid out beforehand and the ReLU6 inside."""
    return kernels.PrepackedConv2d(conv.layer, *((0.0, 6.0) if conv.relu6 else ()))


def ours(conv: Conv) -> nn.Module:
    """1x1 convolutions and the stem (which keeps all) in 1x4 blocks, depthwise ones as CSR."""
    limits = {"low": 0.0, "high": 6.0} if conv.relu6 else {}
    if conv.kind == "depthwise":
        return kernels.CSRConv2d.of(conv.layer, **limits)
    return kernels.BlockSparseConv2d.of(conv.layer, n=4, **limits)


def onnx_model(blocks: list[Block], head: nn.Linear):
    """The network as an ONNX model of the masked weights, dense."""
    graph = onnx_network.Graph()
    x = "x"
    for block in blocks:
        y = x
        for conv in block.convs:
            y = graph.conv(y, conv.layer, conv.relu6)
        x = graph.node("Add", [x, y]) if block.residual else y
    pooled = graph.node("Flatten", [graph.node("GlobalAveragePool", [x])])
    return graph.model(graph.linear(pooled, head), (1, 3, SIZE, SIZE))


def _onnx_peers(blocks, head, x: Tensor, threads: int) -> dict[str, Call | None]:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError:
        return {}
    model = onnx_model(blocks, head)
    return {
        "onnxruntime fp32": onnx_session(model.SerializeToString(), x, threads),
        "onnxruntime int8": onnx_network.int8_session(model, x, threads, [x]),
    }


def _compiled(net: nn.Module, x: Tensor) -> Call:
    """torch.compile with weights frozen, which lays them out once and fuses what follows."""
    from torch._inductor import config

    with config.patch(freezing=True), torch.no_grad():
        run = torch.compile(net)
        run(x)
    return partial(run, x)


def _stage_inputs(net: Network, blocks: list[Block], x: Tensor) -> dict[str, list]:
    """Per kind of layer: (layer, its input) in the order of the network."""
    calls: dict[str, list] = {}
    for block, convs, residual in zip(net.blocks, blocks, net.residual, strict=True):
        y = x
        for layer, conv in zip(block, convs.convs, strict=True):  # type: ignore[arg-type]
            calls.setdefault(conv.kind, []).append((layer, y))
            y = layer(y)
        x = x + y if residual else y
    calls["classifier"] = [(net.head, x.mean((2, 3)))]
    return calls


def _run_all(calls: list) -> Tensor:
    return [layer(x) for layer, x in calls][-1]


def measure(settings: Settings) -> Iterator[Entry]:
    """Rows of the whole network and of its stages at each sparsity."""
    x = torch.randn(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    last = x.contiguous(memory_format=torch.channels_last)
    for sparsity in SPARSITIES:
        blocks, head = network(sparsity)
        sparse, packed = (Network(blocks, head, make).eval() for make in (ours, prepacked))
        eager = Network(blocks, head, dense).eval().to(memory_format=torch.channels_last)
        label = f"1x4 {sparsity:.0%} {SIZE}x{SIZE}"
        yield from contest(
            "sparse_mobilenet_v2",
            label,
            settings,
            partial(sparse, x),
            {
                "torch fp32": partial(eager, last),
                "torch prepacked": partial(packed, last),
                "torch compiled": _compiled(eager, last),
                **_onnx_peers(blocks, head, x, settings.threads),
            },
            tolerance=1e-4,
            unequal={"onnxruntime int8": "computes in int8"},
        )
        with torch.inference_mode():
            stages = (_stage_inputs(sparse, blocks, x), _stage_inputs(packed, blocks, last))
        for kind in stages[0]:
            yield from contest(
                "sparse_mobilenet_v2",
                f"{label}: stage {kind}",
                settings,
                partial(_run_all, stages[0][kind]),
                {"torch prepacked": partial(_run_all, stages[1][kind])},
                tolerance=1e-4,
            )
