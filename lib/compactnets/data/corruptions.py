"""Common corruptions of small images in five severities, made here from the clean test split.

The constants are those with which CIFAR-10-C was made (Hendrycks and Dietterich, arXiv:1903.12261;
hendrycks/robustness, ImageNet-C/create_c/make_cifar_c.py). The images are not those of CIFAR-10-C:
random numbers differ, values are rounded where the originals are cut off, and pixelation averages
areas exactly. Left out are the corruptions that need other libraries or pictures (weather, motion).

Every function takes uint8 (N, 3, H, W), leaves it untouched and returns a new tensor of the same
kind; random ones draw from the generator alone.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Generator, Tensor

from compactnets import seeds
from compactnets.data.images import ImageSet

SEVERITIES = (1, 2, 3, 4, 5)


def gaussian_noise(images: Tensor, sigma: float, generator: Generator) -> Tensor:
    """Adds normal noise of standard deviation sigma, of images in [0, 1]."""
    noise = torch.randn(images.shape, generator=generator, device=generator.device)
    return _bytes(_unit(images) + sigma * noise.to(images.device))


def shot_noise(images: Tensor, photons: float, generator: Generator) -> Tensor:
    """Poisson counts of a sensor that sees `photons` where a value is 1, back in [0, 1]."""
    expected = (_unit(images) * photons).to(generator.device)
    return _bytes(torch.poisson(expected, generator=generator).to(images.device) / photons)


def impulse_noise(images: Tensor, share: float, generator: Generator) -> Tensor:
    """That share of the values becomes 0 or 1, half and half."""
    drawn = torch.rand(images.shape, generator=generator, device=generator.device).to(images.device)
    salted = torch.where(drawn < share / 2, 255, images)
    return torch.where(drawn > 1 - share / 2, 0, salted).to(torch.uint8)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Convolution with a Gaussian of sigma pixels, cut off at 4 sigma, the border repeated."""
    return _separable(images, lambda size: _blur_matrix(size, sigma))


def brightness(images: Tensor, more: float) -> Tensor:
    """Adds to the value (the largest channel) at the same hue and saturation; black turns gray."""
    x = _unit(images)
    value = x.amax(dim=1, keepdim=True)
    brighter = (value + more).clamp(max=1)
    return _bytes(torch.where(value > 0, x * (brighter / value), brighter.expand_as(x)))


def contrast(images: Tensor, factor: float) -> Tensor:
    """Draws every value to the mean of its image and channel: distance times factor."""
    x = _unit(images)
    mean = x.mean(dim=(2, 3), keepdim=True)
    return _bytes((x - mean) * factor + mean)


def pixelate(images: Tensor, factor: float) -> Tensor:
    """Averages over int(size * factor) equal areas a side, shown as squares of the old size."""
    return _separable(images, lambda size: _pixel_matrix(size, int(size * factor)))


def jpeg(images: Tensor, quality: float) -> Tensor:
    """Through JPEG (libjpeg, chroma at half resolution) and back; quality from 1 to 100."""
    from torchvision.io import decode_jpeg, encode_jpeg  # here: it imports all of torchvision

    coded = encode_jpeg(list(images.cpu().contiguous().unbind()), int(quality))
    return torch.stack([decode_jpeg(one) for one in coded]).to(images.device)  # type: ignore[arg-type]


# Name -> function, does it draw, the strength of severities 1 to 5.
_TABLE: dict[str, tuple[Callable[..., Tensor], bool, tuple[float, ...]]] = {
    "Gaussian noise": (gaussian_noise, True, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot noise": (shot_noise, True, (500, 250, 100, 75, 50)),
    "impulse noise": (impulse_noise, True, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "blur": (gaussian_blur, False, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "brightness": (brightness, False, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (contrast, False, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "pixelation": (pixelate, False, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "JPEG": (jpeg, False, (80, 65, 58, 50, 40)),
}
CORRUPTIONS = tuple(_TABLE)


def corrupt(images: Tensor, name: str, severity: int, generator: Generator) -> Tensor:
    """The images under a corruption of CORRUPTIONS; severity 0 (a copy) to 5.

    TypeError unless they are uint8, ValueError for another shape, name or severity.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8, got {images.dtype}")
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be (N, 3, H, W), got {tuple(images.shape)}")
    if name not in _TABLE:
        raise ValueError(f"unknown corruption {name!r}: choose one of {', '.join(CORRUPTIONS)}")
    if severity not in (0, *SEVERITIES):
        raise ValueError(f"severity must be a whole number from 0 to 5, got {severity}")
    if severity == 0 or len(images) == 0:
        return images.clone()
    function, draws, strengths = _TABLE[name]
    return function(images, strengths[severity - 1], *[generator] * draws)


def corrupted(data: ImageSet, name: str, severity: int, seed: int = 0) -> ImageSet:
    """The same set with corrupted images; the noise depends on seed, name and severity only."""
    generator = seeds.generator(seed, "corruption", name, severity)
    images = corrupt(data.images, name, severity, generator)
    return replace(data, name=f"{data.name} under {name}, severity {severity}", images=images)


def _unit(images: Tensor) -> Tensor:
    return images.to(torch.float32) / 255


def _bytes(x: Tensor) -> Tensor:
    return (x.clamp(0, 1) * 255).round().to(torch.uint8)


def _separable(images: Tensor, matrix: Callable[[int], Tensor]) -> Tensor:
    """Applies matrix(size) (size, size) to the columns and to the rows of every image."""
    rows, columns = (matrix(size).to(images.device) for size in images.shape[-2:])
    return _bytes(rows @ _unit(images) @ columns.T)


def _blur_matrix(size: int, sigma: float) -> Tensor:
    radius = int(4 * sigma + 0.5)
    offset = torch.arange(-radius, radius + 1)
    weight = torch.exp(-0.5 * (offset / sigma) ** 2)
    place = (torch.arange(size)[:, None] + offset).clamp(0, size - 1)
    weights = (weight / weight.sum()).expand(size, -1)
    return torch.zeros(size, size).scatter_add_(1, place, weights)


def _pixel_matrix(size: int, count: int) -> Tensor:
    """Pixel i -> the mean over that one of `count` equal areas in which its center lies."""
    edge = torch.arange(count + 1) * (size / count)
    place = torch.arange(size)
    end = torch.minimum(edge[1:, None], place + 1)
    overlap = (end - torch.maximum(edge[:-1, None], place)).clamp(min=0)  # (count, size)
    area = ((place + 0.5) * count / size).floor().long()
    return (overlap * (count / size))[area]
