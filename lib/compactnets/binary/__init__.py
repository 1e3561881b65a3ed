"""Binary networks: one bit a weight, one bit an activation.

net = react_resnet_cifar(20)
run = train.fit(net, images, Recipe(epochs=12, optimizer="adam", lr=1e-3), method=ReBNN(), seed=0)
fast = ReBNN().deploy(run.model)  # the same outputs from packed bits
"""

from compactnets.binary.deploy import deploy
from compactnets.binary.layers import BinaryConv2d
from compactnets.binary.react import react_resnet_cifar, react_resnet_imagenet
from compactnets.binary.rebnn import ReBNN
from compactnets.binary.ste import hard_sign, sign

__all__ = [
    "BinaryConv2d",
    "ReBNN",
    "deploy",
    "hard_sign",
    "react_resnet_cifar",
    "react_resnet_imagenet",
    "sign",
]
