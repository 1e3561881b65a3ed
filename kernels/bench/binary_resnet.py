"""A whole 1-bit ResNet-18 at 224x224, batch 1, beside fp32 and int8 ResNet-18s.

Ours is laid out like Bi-Real net (arXiv:1808.00278): fp32 stem, fp32 1x1 convolutions (behind
average pooling) in the shortcuts that halve the map, fp32 head; 16 binary 3x3 convolutions, each
with its own normalisation, folded into the kernel, and its own shortcut. It is another network than
its peers on purpose, with weights drawn at random: no outputs are compared. (The 1-bit layers
themselves are compared with fp32 in binary_conv.)

    python -m kernels.bench.binary_resnet      prints where the time goes
"""

import tempfile
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from kernels.bench.contest import contest
from kernels.bench.entries import Entry, Settings
from kernels.bench.peers import Call, onnx_session
from torch import Tensor, nn
from torchvision.models import resnet18

from compactnets.binary.deploy import deploy
from compactnets.binary.layers import BinaryConv2d
from compactnets.binary.scales import AnalyticScale
from compactnets.binary.stages import network_stages
from compactnets.models.graph import fold_norms


class Block(nn.Module):
    """norm(conv(sign(x))) + shortcut(x)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        real = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv = BinaryConv2d(real, lambda weight: AnalyticScale())
        self.norm = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(2, ceil_mode=True),
                nn.Conv2d(inputs, outputs, 1, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) + self.shortcut(x)


class BiRealNet18(nn.Module):
    """Images (N, 3, H, W) -> 1000 logits."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.MaxPool2d(3, 2, 1)
        )
        widths = [64] * 4 + [128] * 4 + [256] * 4 + [512] * 4
        inputs = [64, *widths[:-1]]
        self.blocks = nn.Sequential(
            *(Block(a, b, 1 if a == b else 2) for a, b in zip(inputs, widths, strict=True))
        )
        self.head = nn.Linear(512, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def deployed() -> nn.Module:
    """The 1-bit network as one would ship it: normalisations folded, kernels in place."""
    torch.manual_seed(0)
    model = fold_norms(deploy(BiRealNet18().eval()))
    return model.to(memory_format=torch.channels_last)


def onnx_models(x: Tensor, threads: int) -> dict[str, Call]:
    """ONNX Runtime in fp32 and in int8, calibrated on the input; empty where not installed."""
    try:
        import onnxruntime.quantization.shape_inference  # noqa: F401  (not named by the package)
        from onnxruntime import quantization as q
    except ImportError:
        return {}
    image = x.contiguous().numpy()

    class Calibration(q.CalibrationDataReader):
        def __init__(self):
            self.left = [{"x": image}]

        def get_next(self):
            return self.left.pop() if self.left else None

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, ready, int8 = (Path(folder) / f"{name}.onnx" for name in ("fp32", "ready", "int8"))
        names = {"input_names": ["x"], "output_names": ["y"]}
        torch.onnx.export(_resnet18(), (x,), str(plain), dynamo=False, opset_version=17, **names)
        q.shape_inference.quant_pre_process(plain, ready)
        q.quantize_static(
            ready, int8, Calibration(), per_channel=True, activation_type=q.QuantType.QUInt8
        )
        found = {"onnxruntime fp32": plain, "onnxruntime int8": int8}
        return {name: onnx_session(str(path), x, threads) for name, path in found.items()}


def _resnet18() -> nn.Module:
    torch.manual_seed(0)
    return resnet18(weights=None).eval().to(memory_format=torch.channels_last)


def _compiled(model: nn.Module, x: Tensor) -> Call:
    """torch.compile with the weights as constants, laid out beforehand."""
    from torch._inductor import config

    config.freezing = True
    compiled = torch.compile(model)
    with torch.no_grad():
        compiled(x)
    return partial(compiled, x)


def measure(settings: Settings) -> Iterator[Entry]:
    """Rows of every peer."""
    x = torch.randn(1, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    network, dense = deployed(), _resnet18()
    peers = {"torch fp32": partial(dense, x), "torch fp32 compiled": _compiled(dense, x)}
    peers |= onnx_models(x, settings.threads)
    another = "fp32 or int8 weights and activations, one shortcut per two convolutions"
    yield from contest(
        "binary_resnet18",
        "224x224",
        settings,
        partial(network, x),
        peers,
        unequal=dict.fromkeys(peers, another),
    )


def stage_of(name: str, module: nn.Module) -> str | None:
    """The stages beside the 1-bit convolutions'."""
    if name.endswith("shortcut") and isinstance(module, nn.Sequential):
        return "shortcut convolutions"
    return name if name in ("stem", "head") else None


def parts() -> dict[str, float]:
    """Milliseconds of each stage of the network on one thread."""
    example = torch.randn(1, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    return network_stages(deployed(), example, stage_of)


if __name__ == "__main__":
    for part, milliseconds in parts().items():
        print(f"{part:<28} {milliseconds:9.3f} ms")
