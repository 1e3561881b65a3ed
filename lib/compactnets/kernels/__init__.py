"""Compiled operators, each with a reference in PyTorch: torch custom ops and layers on them."""

from compactnets.kernels import binary_conv
from compactnets.kernels.binary_conv import binary_conv2d, binary_conv2d_reference
from compactnets.kernels.binary_layers import BinaryConv2d, BinaryLinear
from compactnets.kernels.native import available, isa, supported

__all__ = [
    "BinaryConv2d",
    "BinaryLinear",
    "available",
    "binary_conv",
    "binary_conv2d",
    "binary_conv2d_reference",
    "isa",
    "supported",
]
