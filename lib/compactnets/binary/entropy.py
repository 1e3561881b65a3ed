"""How much of their one bit signs use: 1 where half are +1, 0 where all are alike."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compactnets.binary.convert import binary_layers
from compactnets.binary.layers import BinaryLayer
from compactnets.binary.oscillation import latent
from compactnets.method import Hook, Progress


def binary_entropy(p: Tensor) -> Tensor:
    """-p log2 p - (1 - p) log2(1 - p) in bits, elementwise; 0 at p = 0 and 1."""
    return (torch.special.entr(p) + torch.special.entr(1 - p)) / torch.log(torch.tensor(2.0))


def sign_entropy(w: Tensor) -> Tensor:
    """Entropy of a filter's signs in bits, (out, ...) -> (out,); sign(0) = +1."""
    return binary_entropy((w >= 0).flatten(1).float().mean(dim=1))


@torch.no_grad()
def activation_entropy(model: nn.Module, x: Tensor) -> dict[str, float]:
    """1-bit layer -> entropy in bits of the signs of its input, mean over channels.

    Taken over all samples and places of one pass of x; the model's mode stays as it is, so call
    eval() first where running statistics must not move.
    """
    found: dict[str, float] = {}

    def watch(name: str, layer: BinaryLayer) -> RemovableHandle:
        channels = 1 if isinstance(layer, nn.Conv2d) else -1

        def look(module: nn.Module, inputs: object, signs: Tensor) -> None:
            share = (signs.movedim(channels, 0) >= 0).flatten(1).float().mean(dim=1)
            found[name] = float(binary_entropy(share).mean())

        return layer.activation.register_forward_hook(look)

    handles = [watch(name, layer) for name, layer in binary_layers(model)]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


class SignEntropy(Hook):
    """Entropy of the weights' signs of every 1-bit layer per epoch, mean over filters, bits."""

    def epoch_end(self, progress: Progress) -> dict[str, Any]:
        layers = binary_layers(progress.model)
        return {"entropy": {name: float(sign_entropy(latent(m)).mean()) for name, m in layers}}
