"""Small networks with named stages, and adapters to the large ones. Nothing here downloads
unless asked to; weights are drawn from torch's global generator (wrap in seeds.scoped)."""

from compactnets.models.adapters import (
    PUBLIC_CIFAR_MEAN,
    PUBLIC_CIFAR_STD,
    from_timm,
    from_torchvision,
    load_public_resnet,
)
from compactnets.models.mobilenet import (
    InvertedResidual,
    MobileNetCifar,
    SeparableBlock,
    mobilenet_v1_cifar,
    mobilenet_v2_cifar,
)
from compactnets.models.resnet import BasicBlock, ResNetCifar, resnet18_cifar, resnet_cifar
from compactnets.models.swin import SwinTransformer, swin_cifar, swin_small, swin_tiny
from compactnets.models.vgg import VGG16_WIDTHS, VggCifar, VggSmall, vgg16_bn_cifar, vgg_small
from compactnets.models.vit import (
    Attention,
    VisionTransformer,
    deit_cifar,
    deit_small,
    deit_tiny,
    timm_weights,
)

__all__ = [
    "PUBLIC_CIFAR_MEAN",
    "PUBLIC_CIFAR_STD",
    "VGG16_WIDTHS",
    "Attention",
    "BasicBlock",
    "InvertedResidual",
    "MobileNetCifar",
    "ResNetCifar",
    "SeparableBlock",
    "SwinTransformer",
    "VggCifar",
    "VggSmall",
    "VisionTransformer",
    "deit_cifar",
    "deit_small",
    "deit_tiny",
    "from_timm",
    "from_torchvision",
    "load_public_resnet",
    "mobilenet_v1_cifar",
    "mobilenet_v2_cifar",
    "resnet18_cifar",
    "resnet_cifar",
    "swin_cifar",
    "swin_small",
    "swin_tiny",
    "timm_weights",
    "vgg16_bn_cifar",
    "vgg_small",
]
