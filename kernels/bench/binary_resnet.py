"""A whole 1-bit ResNet-18 at 224x224, batch 1, beside fp32 and int8 ResNet-18s.

Ours is laid out like Bi-Real net (arXiv:1808.00278): fp32 stem, fp32 1x1 convolutions (behind
average pooling) in the shortcuts that halve the map, fp32 head; 16 binary 3x3 convolutions, each
with its own normalisation, folded into the kernel, and its own shortcut. It is another network than
its peers on purpose, with weights drawn at random: no outputs are compared. (The 1-bit layers
themselves are compared with fp32 in binary_conv.)

    python -m kernels.bench.binary_resnet      prints where the time goes
"""

import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from kernels.bench.contest import contest
from kernels.bench.entries import Entry, Settings
from kernels.bench.peers import Call, onnx_session
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models import resnet18

from compactnets import kernels
from compactnets.binary.deploy import deploy
from compactnets.binary.layers import BinaryConv2d
from compactnets.binary.scales import AnalyticScale


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
    model = deploy(BiRealNet18().eval())
    shortcuts = [b.shortcut for b in model.blocks if isinstance(b.shortcut, nn.Sequential)]
    for sequence in (model.stem, *shortcuts):
        for i in range(len(sequence) - 1):
            if isinstance(sequence[i], nn.Conv2d) and isinstance(sequence[i + 1], nn.BatchNorm2d):
                sequence[i] = fuse_conv_bn_eval(sequence[i], sequence[i + 1])
                sequence[i + 1] = nn.Identity()
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


def shares(model: nn.Module, x: Tensor, rounds: int = 40) -> dict[str, float]:
    """Part -> microseconds of a call, least of the rounds; the rest is adding and calling."""
    parts = {}
    for name, module in model.named_modules():
        if isinstance(module, kernels.BinaryConv2d):
            parts[module] = "binary convolutions"
        elif name.endswith("shortcut") and isinstance(module, nn.Sequential):
            parts[module] = "shortcut convolutions"
        elif name in ("stem", "head"):
            parts[module] = name
    least: dict[str, float] = {}
    with torch.inference_mode():
        for _ in range(rounds):
            spent: dict[str, float] = defaultdict(float)

            def before(module, _):
                module._began = time.perf_counter()

            def after(module, *_, spent=spent):
                spent[parts[module]] += time.perf_counter() - module._began

            hooks = [m.register_forward_pre_hook(before) for m in parts]
            hooks += [m.register_forward_hook(after) for m in parts]
            start = time.perf_counter()
            model(x)
            total = time.perf_counter() - start
            for hook in hooks:
                hook.remove()
            spent["additions, pooling, calls"] = total - sum(spent.values())
            for part, seconds in spent.items():
                least[part] = min(least.get(part, 1e9), 1e6 * seconds)
    return least


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


def parts() -> dict[str, float]:
    """Microseconds of each part of the network on one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        example = torch.randn(1, 3, 224, 224).contiguous(memory_format=torch.channels_last)
        return shares(deployed(), example)
    finally:
        torch.set_num_threads(before)


if __name__ == "__main__":
    for part, microseconds in parts().items():
        print(f"{part:<28} {microseconds:9.0f} us")
