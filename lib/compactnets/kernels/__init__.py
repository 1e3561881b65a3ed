"""Compiled operators, each with a reference in PyTorch: torch custom ops and layers on them."""

from compactnets.kernels import binary_conv
from compactnets.kernels.adder import (
    adder_conv2d_packed,
    adder_conv2d_packed_reference,
    adder_distances,
    pack_adder_weight,
)
from compactnets.kernels.adder_gradient import adder_conv2d
from compactnets.kernels.adder_layers import AdderConv2d, AdderLinear, adder_codes
from compactnets.kernels.binary_chain import BinaryConv2dSigns, BinaryLinearSigns, chain
from compactnets.kernels.binary_conv import (
    binary_conv2d,
    binary_conv2d_reference,
    binary_conv2d_signs,
    binary_conv2d_signs_reference,
)
from compactnets.kernels.binary_layers import BinaryConv2d, BinaryLinear
from compactnets.kernels.binary_signs import pack_signs, pack_signs_reference, unpack_signs
from compactnets.kernels.dct import (
    DCTMask,
    dct8x8,
    dct8x8_reference,
    dct_mask,
    dct_mask_reference,
    idct8x8,
    idct8x8_reference,
)
from compactnets.kernels.int8 import (
    int8_conv2d,
    int8_conv2d_reference,
    int8_linear,
    int8_linear_reference,
    int8_quantize,
    int8_quantize_reference,
)
from compactnets.kernels.int8_layers import Int8Conv2d, Int8Linear
from compactnets.kernels.lowbit import lowbit_linear, lowbit_linear_reference
from compactnets.kernels.lowbit_layers import LowBitConv2d, LowBitLinear
from compactnets.kernels.native import available, isa, supported
from compactnets.kernels.nm import nm_conv2d, nm_conv2d_reference
from compactnets.kernels.nm_layers import NMConv2d, NMLinear
from compactnets.kernels.prepacked import PrepackedConv2d
from compactnets.kernels.shift import ShiftConv2d, shift2d, shift2d_reference
from compactnets.kernels.sparse import (
    sparse_conv2d,
    sparse_conv2d_reference,
    sparse_linear,
    sparse_linear_reference,
)
from compactnets.kernels.sparse_layers import (
    BlockSparseConv2d,
    BlockSparseLinear,
    CSRConv2d,
    CSRLinear,
)
from compactnets.kernels.sparse_pack import pack_blocks, pack_csr
from compactnets.kernels.tree import TreeConv2d, tree_conv2d, tree_conv2d_reference
from compactnets.kernels.winograd import winograd3d, winograd3d_reference
from compactnets.kernels.winograd_layers import Winograd3d

__all__ = [
    "AdderConv2d",
    "AdderLinear",
    "BinaryConv2d",
    "BinaryConv2dSigns",
    "BinaryLinear",
    "BinaryLinearSigns",
    "BlockSparseConv2d",
    "BlockSparseLinear",
    "CSRConv2d",
    "CSRLinear",
    "DCTMask",
    "Int8Conv2d",
    "Int8Linear",
    "LowBitConv2d",
    "LowBitLinear",
    "NMConv2d",
    "NMLinear",
    "PrepackedConv2d",
    "ShiftConv2d",
    "TreeConv2d",
    "Winograd3d",
    "adder_codes",
    "adder_conv2d",
    "adder_conv2d_packed",
    "adder_conv2d_packed_reference",
    "adder_distances",
    "available",
    "binary_conv",
    "binary_conv2d",
    "binary_conv2d_reference",
    "binary_conv2d_signs",
    "binary_conv2d_signs_reference",
    "chain",
    "dct8x8",
    "dct8x8_reference",
    "dct_mask",
    "dct_mask_reference",
    "idct8x8",
    "idct8x8_reference",
    "int8_conv2d",
    "int8_conv2d_reference",
    "int8_linear",
    "int8_linear_reference",
    "int8_quantize",
    "int8_quantize_reference",
    "isa",
    "lowbit_linear",
    "lowbit_linear_reference",
    "nm_conv2d",
    "nm_conv2d_reference",
    "pack_adder_weight",
    "pack_blocks",
    "pack_csr",
    "pack_signs",
    "pack_signs_reference",
    "shift2d",
    "shift2d_reference",
    "sparse_conv2d",
    "sparse_conv2d_reference",
    "sparse_linear",
    "sparse_linear_reference",
    "supported",
    "tree_conv2d",
    "tree_conv2d_reference",
    "unpack_signs",
    "winograd3d",
    "winograd3d_reference",
]
