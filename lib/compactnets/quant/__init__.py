"""Low-bit quantization: uniform grids, trainable ranges, and what they do to a network.

quantizer = Pams(bits=2)
quantizer.calibrate(batches, start="percentile")
x_hat, codes = quantizer(x), quantizer.codes(x)  # x_hat == codes.decode()
"""

from compactnets.quant.deploy import CodedConv2d
from compactnets.quant.lsq import Lsq, lsq
from compactnets.quant.pact import Pact, pact
from compactnets.quant.pams import MaxAbs, Pams, pams
from compactnets.quant.quantizer import Codes, Grid, Quantizer, encode
from compactnets.quant.ste import round_ste
from compactnets.quant.ternary import Ternary, ternarize
from compactnets.quant.tervit import TerViT

__all__ = [
    "CodedConv2d",
    "Codes",
    "Grid",
    "Lsq",
    "MaxAbs",
    "Pact",
    "Pams",
    "Quantizer",
    "TerViT",
    "Ternary",
    "encode",
    "lsq",
    "pact",
    "pams",
    "round_ste",
    "ternarize",
]
