"""Values of which a layer has one per channel."""

import torch
from torch import Tensor


def per_channel(name: str, values: Tensor, channels: int) -> Tensor:
    """A float32 copy of shape (channels,), of any shape with as many elements.

    ValueError names the argument if it has another number of them.
    """
    if values.numel() != channels:
        raise ValueError(f"{name} must have {channels} values, got shape {tuple(values.shape)}")
    return values.detach().reshape(channels).to(torch.float32, copy=True)


def per_channel_if_any(name: str, values: Tensor | None, channels: int) -> Tensor | None:
    """The same; None stays None."""
    return None if values is None else per_channel(name, values, channels)
