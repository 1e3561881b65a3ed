"""Images side by side."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure

from compactnets.plots.look import WIDTH, canvas, theme


@theme()
def image_grid(
    images: Sequence[torch.Tensor], titles: Sequence[str] = (), *, columns: int = 5
) -> Figure:
    """Images (C, H, W), uint8 or float in [0, 1], C = 1 or 3, side by side with titles."""
    if not len(images):
        raise ValueError("no images to show")
    if titles and len(titles) != len(images):
        raise ValueError(f"{len(titles)} titles for {len(images)} images")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    cell = WIDTH / columns
    figure, axes = canvas(rows, columns, rows * (cell + (0.3 if titles else 0)), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for i, (image, ax) in enumerate(zip(images, axes.flat, strict=False)):
        ax.imshow(_pixels(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(titles[i] if titles else "", fontsize=11, fontweight="normal", loc="center")
    return figure


def _pixels(image: torch.Tensor) -> np.ndarray:
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"an image is (1 or 3, H, W), got {tuple(image.shape)}")
    values = image.detach().cpu().float() / (255 if image.dtype == torch.uint8 else 1)
    array = values.clamp(0, 1).permute(1, 2, 0).numpy()
    return array[..., 0] if array.shape[-1] == 1 else array
