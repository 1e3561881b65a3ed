"""Sizes of a convolution, checked once for all families."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

_NUMBER = {2: "two", 3: "three"}


@functools.lru_cache(maxsize=1024)
def _checked(name: str, value: int | tuple[int, ...], least: int, axes: int) -> tuple[int, ...]:
    sizes = (value,) * axes if isinstance(value, int) else value
    if len(sizes) != axes or min(sizes) < least:
        raise ValueError(f"{name} must be {_NUMBER[axes]} integers >= {least}, got {sizes}")
    return sizes


def pair(name: str, value: int | Sequence[int], least: int = 1) -> tuple[int, int]:
    """(vertical, horizontal); one integer stands for both. ValueError below `least`."""
    first, second = _checked(name, value if isinstance(value, int) else tuple(value), least, 2)
    return first, second


def triple(name: str, value: int | Sequence[int], least: int = 1) -> tuple[int, int, int]:
    """(depth, height, width); one integer stands for all. ValueError below `least`."""
    sizes = _checked(name, value if isinstance(value, int) else tuple(value), least, 3)
    return sizes[0], sizes[1], sizes[2]


def positions(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    """Output positions along one axis; ValueError if the kernel does not fit."""
    room = size + 2 * padding - dilation * (kernel - 1) - 1
    if size == 0 or room < 0:
        raise ValueError(
            f"kernel_size {kernel} (dilation {dilation}) does not fit x of size {size} "
            f"with padding {padding}"
        )
    return room // stride + 1


Pair = tuple[int, int]


def conv_geometry(kernel_size, stride, padding, dilation) -> tuple[Pair, Pair, Pair, Pair]:
    """The four of a 2-D convolution as pairs; ValueError names the one that is none."""
    return (
        pair("kernel_size", kernel_size),
        pair("stride", stride),
        pair("padding", padding, least=0),
        pair("dilation", dilation),
    )


def memory_format(x: Tensor) -> torch.memory_format:
    """Of the result for x: channels_last if it has its channels side by side, else contiguous."""
    return torch.channels_last if x.stride(1) == 1 else torch.contiguous_format
