"""Small networks with named stages, and adapters to the large ones. Nothing here downloads
unless asked to; weights are drawn from torch's global generator (wrap in seeds.scoped)."""

from compactnets.models.resnet import BasicBlock, ResNetCifar, resnet18_cifar, resnet_cifar

__all__ = ["BasicBlock", "ResNetCifar", "resnet18_cifar", "resnet_cifar"]
