"""Compiled operators, each with a reference in PyTorch: torch custom ops and layers on them."""

from compactnets.kernels import binary_conv
from compactnets.kernels.binary_conv import binary_conv2d, binary_conv2d_reference
from compactnets.kernels.binary_layers import BinaryConv2d, BinaryLinear
from compactnets.kernels.lowbit import lowbit_linear, lowbit_linear_reference
from compactnets.kernels.lowbit_layers import LowBitConv2d, LowBitLinear
from compactnets.kernels.native import available, isa, supported
from compactnets.kernels.nm import nm_conv2d, nm_conv2d_reference
from compactnets.kernels.nm_layers import NMConv2d, NMLinear

__all__ = [
    "BinaryConv2d",
    "BinaryLinear",
    "LowBitConv2d",
    "LowBitLinear",
    "NMConv2d",
    "NMLinear",
    "available",
    "binary_conv",
    "binary_conv2d",
    "binary_conv2d_reference",
    "isa",
    "lowbit_linear",
    "lowbit_linear_reference",
    "nm_conv2d",
    "nm_conv2d_reference",
    "supported",
]
