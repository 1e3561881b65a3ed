"""What an adder network costs on paper: operations, energy, gates, widths: models.

Energies per operation are those of a widely used 45 nm table, quoted from memory and not checked
against a source. The gate count is this book's plausibility model; the formula behind the paper's
"about 81 %" could not be had.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from compactnets import cost
from compactnets.binary.adder import adder_layers

Kind = Literal["CNN", "adder", "1-bit"]

# Number format -> pJ of an addition, of a multiplication (45 nm, unverified).
ENERGY = {"int8": (0.03, 0.2), "int32": (0.1, 3.1), "fp16": (0.4, 1.1), "fp32": (0.9, 3.7)}


@dataclass(frozen=True)
class Operations:
    """Multiplications, additions and XNORs of one inference."""

    mul: int = 0
    add: int = 0
    xnor: int = 0

    def __add__(self, other: "Operations") -> "Operations":
        return Operations(self.mul + other.mul, self.add + other.add, self.xnor + other.xnor)


def of_terms(kind: Kind, terms: int) -> Operations:
    """By the counting rule of the paper's tables: a product and a sum; two sums; XNOR and sum."""
    rules = {"CNN": (1, 1, 0), "adder": (0, 2, 0), "1-bit": (0, 1, 1)}
    if kind not in rules:
        raise ValueError(f"kind must be one of {', '.join(rules)}, got {kind!r}")
    return Operations(*(terms * each for each in rules[kind]))


def operations(model: nn.Module, example: Tensor) -> Operations:
    """Of every convolution and linear layer for one image, each by its own kind.

    First layer and classifier of an adder network count their multiplications, which the tables
    leave out. Normalizations and activations are not counted.
    """
    adders, total = dict(adder_layers(model)), Operations()
    for layer in cost.count(model, example):
        kind: Kind = "adder" if layer.name in adders else "1-bit" if layer.binary else "CNN"
        total = total + of_terms(kind, layer.macs)
    return total


def picojoules(counted: Operations, number: str) -> float:
    """Energy of additions and multiplications in one number format; XNORs are not in the table.

    ValueError for a format that the table lacks (16-bit integers, for one).
    """
    if number not in ENERGY:
        raise ValueError(f"the table has {', '.join(ENERGY)}, not {number!r}")
    add, mul = ENERGY[number]
    return add * counted.add + mul * counted.mul


def full_adders(kind: Literal["CNN", "adder"], bits: int, mux: float = 1 / 3) -> float:
    """Cells of one kernel with its accumulation: a plausibility model of this book.

    Product: an array of bits^2 cells, then 2 bits to accumulate. Difference: two subtractors, a
    selection of mux cells per bit (a guess), bits + 1 to accumulate; as in
    mqhuangGit/AdderNet-FPGA, conv_ctrl.v.
    """
    if bits < 1 or not mux >= 0:
        raise ValueError(f"bits must be at least 1 and mux not negative, got {bits} and {mux}")
    if kind == "CNN":
        return bits**2 + 2 * bits
    return 2 * bits + (bits + 1) + mux * (bits + 1)


def sum_bits(kind: Literal["CNN", "adder"], bits: int, terms: int) -> int:
    """Signed bits that hold the sum over terms: the bound by width of a term plus ceil(log2 terms).

    A difference of b-bit codes has b + 1 bits, a product 2 b (arXiv:2101.10015's hardware,
    mqhuangGit/AdderNet-FPGA, conv_defines.vh).
    """
    if bits < 1 or terms < 1:
        raise ValueError(f"bits and terms must be at least 1, got {bits} and {terms}")
    return (bits + 1 if kind == "adder" else 2 * bits) + (terms - 1).bit_length()
