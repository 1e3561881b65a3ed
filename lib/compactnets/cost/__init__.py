"""What a network costs: parameters, MACs, bit operations, bytes by count(); time by latency()."""

from compactnets.cost.conventions import bops_product, macs_thop, memory_bits, ops_bireal
from compactnets.cost.counting import count
from compactnets.cost.table import Costs, LayerCost

__all__ = [
    "Costs",
    "LayerCost",
    "bops_product",
    "count",
    "macs_thop",
    "memory_bits",
    "ops_bireal",
]
