"""Binary networks: one bit a weight, one bit an activation.

net = react_resnet_cifar(20)
run = train.fit(net, images, Recipe(epochs=12, optimizer="adam", lr=1e-3), method=ReBNN(), seed=0)
fast = ReBNN().deploy(run.model)  # the same outputs from packed bits
"""

from compactnets.binary.bireal import BiReal
from compactnets.binary.bnn import BNN
from compactnets.binary.deploy import deploy
from compactnets.binary.dorefa import DoReFa
from compactnets.binary.fda import FDA
from compactnets.binary.layers import BinaryConv2d, BinaryLinear, binarized
from compactnets.binary.mst import MSTCompression
from compactnets.binary.react import react_resnet_cifar, react_resnet_imagenet
from compactnets.binary.react_sign import ReAct
from compactnets.binary.rebnn import ReBNN
from compactnets.binary.recu import ReCU
from compactnets.binary.ste import hard_sign, sign
from compactnets.binary.xnor import XNOR
from compactnets.binary.xnor_pp import XNORPlusPlus

__all__ = [
    "BNN",
    "FDA",
    "XNOR",
    "BiReal",
    "BinaryConv2d",
    "BinaryLinear",
    "DoReFa",
    "MSTCompression",
    "ReAct",
    "ReBNN",
    "ReCU",
    "XNORPlusPlus",
    "binarized",
    "deploy",
    "hard_sign",
    "react_resnet_cifar",
    "react_resnet_imagenet",
    "sign",
]
