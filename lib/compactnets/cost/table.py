"""What a network costs, layer by layer: the result of count()."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import pandas as pd


@dataclass(frozen=True)
class LayerCost:
    """One layer, for one sample.

    macs: multiply-adds of its matrix products and convolutions.
    params: its own parameters; weights: those of them that are held in weight_bits (the rest, such
    as biases, scales and BN, is held in 32). stored_bytes: both, packed.
    elementwise: additions of a convolution's bias and 2 operations per element of a BN.
    traffic_bytes: inputs read, outputs written and parameters read once in fp32 (0 without MACs).
    shapes: first tensor in and out of the first call, None if never called; calls: how often.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None
    calls: int
    params: int
    weights: int
    macs: int
    weight_bits: int
    activation_bits: int
    stored_bytes: int
    elementwise: int
    traffic_bytes: int

    @property
    def binary(self) -> bool:
        """Both operands of its products have one bit."""
        return self.weight_bits == 1 and self.activation_bits == 1


@dataclass(frozen=True)
class Costs:
    """Layers in the order of model.named_modules(), and their sums."""

    layers: tuple[LayerCost, ...]

    @property
    def params(self) -> int:
        """Number of parameters, tied ones once."""
        return sum(layer.params for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-adds for one sample, of any width."""
        return sum(layer.macs for layer in self.layers)

    @property
    def real_macs(self) -> int:
        """Multiply-adds outside the layers whose weights and activations have one bit."""
        return sum(layer.macs for layer in self.layers if not layer.binary)

    def bops(self) -> int:
        """Multiply-adds of layers with 1-bit weights and 1-bit activations, one BOP each."""
        return self.macs - self.real_macs

    @property
    def bytes(self) -> int:
        """Storage of the parameters as packed: weights in weight_bits, the rest in 32 bits."""
        return sum(layer.stored_bytes for layer in self.layers)

    @property
    def elementwise(self) -> int:
        """Bias additions of convolutions and 2 per BN element; not part of macs."""
        return sum(layer.elementwise for layer in self.layers)

    @property
    def traffic_bytes(self) -> int:
        """Memory access cost of the layers with MACs in fp32 bytes (arXiv:1807.11164, eq 1)."""
        return sum(layer.traffic_bytes for layer in self.layers)

    def __iter__(self) -> Iterator[LayerCost]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, name: str) -> LayerCost:
        """The layer of that name; KeyError lists the names."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        known = ", ".join(layer.name for layer in self.layers)
        raise KeyError(f"no layer {name!r} was counted; there are: {known}")

    def select(self, keep: Callable[[LayerCost], bool]) -> "Costs":
        """Costs of the layers that satisfy the predicate."""
        return Costs(tuple(layer for layer in self.layers if keep(layer)))

    def frame(self) -> pd.DataFrame:
        """One row per layer, columns as in LayerCost."""
        names = [field.name for field in fields(LayerCost)]
        rows = [[getattr(layer, name) for name in names] for layer in self.layers]
        return pd.DataFrame(rows, columns=pd.Index(names))

    def _repr_html_(self) -> str:
        return self.frame().to_html(index=False)
