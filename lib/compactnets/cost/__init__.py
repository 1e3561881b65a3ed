"""What a network costs: parameters, MACs, bit operations, bytes by count(); time by latency(), and
where in the network it goes by stage_times()."""

from compactnets.cost.conventions import bops_product, macs_thop, ops_bireal, storage_bits
from compactnets.cost.counting import count
from compactnets.cost.stages import stage_times
from compactnets.cost.table import Costs, LayerCost
from compactnets.cost.timing import LatencyTable, OutputsDiffer, latency

__all__ = [
    "Costs",
    "LatencyTable",
    "LayerCost",
    "OutputsDiffer",
    "bops_product",
    "count",
    "latency",
    "macs_thop",
    "ops_bireal",
    "stage_times",
    "storage_bits",
]
