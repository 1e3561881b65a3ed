"""Methods that quantize EDSR: DDTB (arXiv:2203.03844) and what it is compared with.

Each takes as example the images (N, 3, h, w) to calibrate on, training patches: the first 48 set
the bounds, all of them say in which layers the range changes.
"""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from compactnets import seeds
from compactnets.method import Hook
from compactnets.quant.ddtb import (
    DualBounds,
    Gate,
    OpenGates,
    TraceBounds,
    dynamic_intensity,
    most_dynamic,
)
from compactnets.quant.pams import MaxAbs, Pams, Start
from compactnets.sr.quantized import (
    Order,
    Student,
    Zero,
    activation_quantizers,
    calibrate,
    extremes,
    quantized,
)

BATCH = 16  # images that count as one batch of calibration
SEEN = 48  # images of an example that set the bounds; all of them rank the layers


@dataclass(frozen=True)
class DDTB:
    """Two trained bounds per layer and gates on the most dynamic layers; DDTB() is the method.

    dynamic: the share P of quantizers with a gate, 0 (static dual bounds) to 1. percent: the
    percentile that bounds start from; None leaves the constructor's +-10, as the released code does
    at 3 and 4 bits. warmup: epochs before the gates open. bounds_lr: rate of the bounds relative to
    that of the weights. error_term, order: see affine and QuantizedBlock. released_gate: only a
    gate's second layer learns. images_per_extreme: 16 takes the extremes of dynamic intensity over
    mini-batches, as the released code does. trace: note the bounds every so many steps, 0 never.
    seed: of the gates' first weights.
    """

    bits: int = 2
    dynamic: float = 0.3
    percent: float | None = 99.0
    warmup: int = 5
    bounds_lr: float = 100.0
    error_term: bool = True
    order: Order = "quantized"
    released_gate: bool = False
    images_per_extreme: int = 1
    trace: int = 0
    seed: int = 0

    def prepare(self, model: nn.Module, example: Tensor) -> Student:
        """A student with calibrated bounds, and gates where the ranges of `example` vary most."""
        student = quantized(
            model, lambda: DualBounds(self.bits, self.error_term), self.bits, self.order
        )
        if self.percent is not None:
            percent = self.percent
            calibrate(student, example[:SEEN], lambda q, x: q.calibrate(x.split(BATCH), percent))
        quantizers: list[Any] = activation_quantizers(student)
        with seeds.scoped(self.seed, "ddtb", "gates"):
            for index in self.dynamic_layers(model, example):
                features = student.network.fuse.in_channels
                quantizers[index].gate = Gate(features, released=self.released_gate)
        return student

    def dynamic_layers(self, model: Any, example: Tensor) -> list[int]:
        """Indices of the quantizers of an EDSR that get a gate, the most dynamic first."""
        highest, lowest = extremes(model, example)
        if (size := self.images_per_extreme) > 1:
            highest = _groups(highest, size).amax(dim=2)
            lowest = _groups(lowest, size).amin(dim=2)
        return most_dynamic(dynamic_intensity(highest, lowest), self.dynamic)

    def parameter_groups(self, model: nn.Module) -> list[dict]:
        """The weights, then the bounds with their own rate."""
        return _rates(model, self.bounds_lr)

    def hooks(self) -> tuple[Hook, ...]:
        """Opening the gates after the warm-up; tracing the bounds if asked for."""
        trace = (TraceBounds(self.trace),) if self.trace else ()
        return (OpenGates(self.warmup), *trace)

    def deploy(self, model: nn.Module) -> nn.Module:
        """The trained student with its quantized convolutions in integers."""
        from compactnets.sr.deploy import deploy  # here: kernels must not enter training's key

        return deploy(model)


@dataclass(frozen=True)
class OneBound:
    """The baselines: one symmetric bound per layer, or none.

    kind: "pams" trains the bound, from a moving average of the largest magnitudes (start "ema") or
    from their 99th percentile (start "percentile"); "max-abs" keeps the largest magnitude; "zero"
    makes every quantizer return 0, which leaves the long skip. Weights, order and bounds_lr as in
    DDTB.
    """

    bits: int = 2
    kind: Literal["pams", "max-abs", "zero"] = "pams"
    start: Start = "ema"
    bounds_lr: float = 100.0
    order: Order = "quantized"

    def prepare(self, model: nn.Module, example: Tensor) -> Student:
        """A student with calibrated bounds; ValueError for an unknown kind."""
        makers = {"pams": Pams, "max-abs": MaxAbs, "zero": Zero}
        if self.kind not in makers:
            raise ValueError(f"kind must be one of {sorted(makers)}, got {self.kind!r}")
        student = quantized(model, lambda: makers[self.kind](self.bits), self.bits, self.order)
        options = {"start": self.start} if self.kind == "pams" else {}
        calibrate(student, example[:SEEN], lambda q, x: q.calibrate(x.split(BATCH), **options))
        return student

    def parameter_groups(self, model: nn.Module) -> list[dict]:
        """The weights, then the bounds with their own rate."""
        return _rates(model, self.bounds_lr)

    def hooks(self) -> tuple[Hook, ...]:
        """Nothing happens between the steps."""
        return ()

    def deploy(self, model: nn.Module) -> nn.Module:
        """The trained student with its quantized convolutions in integers."""
        from compactnets.sr.deploy import deploy

        return deploy(model)


def _groups(values: Tensor, size: int) -> Tensor:
    """(layers, N) -> (layers, N // size, size); the last incomplete group is left out."""
    whole = values.shape[1] - values.shape[1] % size
    return values[:, :whole].unflatten(1, (-1, size))


def _rates(model: nn.Module, bounds_lr: float) -> list[dict]:
    bounds = [p for q in activation_quantizers(model) for p in q.parameters(recurse=False)]
    apart = {id(p) for p in bounds}
    rest = [p for p in model.parameters() if id(p) not in apart]
    groups = [{"params": rest}, {"params": bounds, "lr_scale": bounds_lr}]
    return [group for group in groups if group["params"]]
