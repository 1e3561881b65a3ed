"""The loss around a network, along random directions scaled filter by filter (arXiv:1712.09913).

Of a quantized network the latent weights move; what it computes with is quantized anew at each
place, so that the surface is the one that training sees.
"""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compactnets import seeds

Direction = dict[str, Tensor]


def random_direction(model: nn.Module, generator: torch.Generator) -> Direction:
    """A Gaussian direction: each row (output channel) of each weight has the norm of the model's.

    Weights of linear layers and convolutions move; biases, norms, positions and scales, whose names
    do not end in "weight" or which are vectors, stay (section 4 of the paper).
    """
    direction = {}
    for name, parameter in model.named_parameters():
        if not name.endswith("weight") or parameter.dim() < 2:
            continue
        noise = torch.randn(parameter.shape, generator=generator).flatten(1)
        rows = parameter.detach().cpu().flatten(1)
        unit = noise / noise.norm(dim=1, keepdim=True).clamp_min(1e-12)
        direction[name] = (unit * rows.norm(dim=1, keepdim=True)).view(parameter.shape)
    return direction


def directions(model: nn.Module, count: int, seed: int) -> list[Direction]:
    """As many independent directions; equal seeds give equal noise for equal layouts."""
    generator = seeds.generator(seed, "directions")
    return [random_direction(model, generator) for _ in range(count)]


@torch.no_grad()
def moved(model: nn.Module, along: Sequence[tuple[float, Direction]]) -> nn.Module:
    """A copy of the model at w + sum of radius * direction; radius 1 is as long as each row.

    ValueError for a direction of another network.
    """
    model = copy.deepcopy(model)
    parameters = dict(model.named_parameters())
    for radius, direction in along:
        if unknown := direction.keys() - parameters.keys():
            raise ValueError(f"the model has no {sorted(unknown)[0]!r}: the direction is another's")
        for name, step in direction.items():
            parameters[name].add_(radius * step.to(parameters[name]))
    return model
