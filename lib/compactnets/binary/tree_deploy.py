"""A trained binary network with every convolution along its tree, on the bit-sliced kernel."""

import torch
from torch import nn

from compactnets import kernels
from compactnets.binary import trees
from compactnets.binary.convert import replace
from compactnets.binary.deploy import deploy as deploy_dense


def deploy(model: nn.Module, method: object = None) -> nn.Module:
    """binary.deploy, then a kernels.TreeConv2d in place of each packed convolution.

    Outputs equal those of binary.deploy bit for bit; linear layers stay as they are there.
    ValueError if the model is in training mode, has no 1-bit layer or a grouped one, or,
    with a method given, was prepared by another one.
    """
    network = deploy_dense(model, method)
    layers = {n: m for n, m in network.named_modules() if isinstance(m, kernels.BinaryConv2d)}
    for name, layer in layers.items():
        replace(network, name, along_tree(layer))
    return network


def along_tree(layer: kernels.BinaryConv2d, tree: trees.Tree | None = None) -> kernels.TreeConv2d:
    """A packed convolution as one along a tree, by default a shallow minimum spanning tree."""
    if layer.groups > 1:
        raise ValueError(f"{layer} is grouped: its channels share no inputs, no tree can serve it")
    weight = layer.sign_weight()
    if tree is None:
        tree = trees.minimum_spanning_tree(trees.hamming(trees.kernels_of(weight)))
    return kernels.TreeConv2d(
        weight,
        torch.from_numpy(tree.parent),
        layer.scale,
        bias=layer.bias,
        input_shift=layer.input_shift,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
    )
