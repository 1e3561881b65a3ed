"""Compiled operators, each with a reference in PyTorch: torch custom ops and layers on them."""

from compactnets.kernels import binary_conv
from compactnets.kernels.binary_conv import binary_conv2d, binary_conv2d_reference
from compactnets.kernels.binary_layers import BinaryConv2d, BinaryLinear
from compactnets.kernels.int8 import (
    int8_conv2d,
    int8_conv2d_reference,
    int8_linear,
    int8_linear_reference,
    int8_quantize,
    int8_quantize_reference,
)
from compactnets.kernels.int8_layers import Int8Conv2d, Int8Linear
from compactnets.kernels.native import available, isa, supported

__all__ = [
    "BinaryConv2d",
    "BinaryLinear",
    "Int8Conv2d",
    "Int8Linear",
    "available",
    "binary_conv",
    "binary_conv2d",
    "binary_conv2d_reference",
    "int8_conv2d",
    "int8_conv2d_reference",
    "int8_linear",
    "int8_linear_reference",
    "int8_quantize",
    "int8_quantize_reference",
    "isa",
    "supported",
]
