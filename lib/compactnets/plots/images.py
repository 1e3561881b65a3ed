"""Images side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from compactnets.plots.look import INK, PALETTE, WIDTH, canvas, theme

Box = tuple[int, int, int, int]  # top, left, height, width in pixels
MARK = PALETTE[1]  # of the box on an image, and of the crop that it marks
WIDE = 1.6  # width of the whole image in crops


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


@theme()
def crops(
    images: Mapping[str, torch.Tensor],
    box: Box,
    notes: Mapping[str, str] | None = None,
    *,
    columns: int = 3,
) -> Figure:
    """The first image whole with a box in it; beside it what every image shows inside the box.

    images: title -> (1 or 3, H, W), uint8 or float in [0, 1], the ground truth first. One may be
    smaller by a whole factor, a low-resolution input, and is cut at the same place. box: (top,
    left, height, width) in pixels of the first; notes: title -> what to write below its crop, such
    as its PSNR. Pixels are enlarged as they are, without smoothing. ValueError: a box outside the
    image or between a small image's pixels, notes for no image, sizes that do not fit.
    """
    if not images:
        raise ValueError("no images to show")
    notes = notes or {}
    if unknown := sorted(notes.keys() - images.keys()):
        raise ValueError(f"notes for {unknown}, but the images are {list(images)}")
    whole = next(iter(images.values()))
    parts = {title: _cut(title, image, whole, box) for title, image in images.items()}
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    crop_height = WIDTH / (columns + WIDE) * box[2] / box[3]
    height = max(2.2, rows * (crop_height + (0.65 if notes else 0.35)))  # room for the whole image
    figure, axes = _beside(rows, columns, height)
    _plain(axes[0], whole, INK)
    top, left, *extent = box
    axes[0].add_patch(
        Rectangle((left - 0.5, top - 0.5), *extent[::-1], fill=False, edgecolor=MARK, linewidth=2)
    )
    for ax, (title, part) in zip(axes[1:], parts.items(), strict=False):
        _plain(ax, part, MARK if title == next(iter(images)) else INK, title, notes.get(title, ""))
    return figure


def _beside(rows: int, columns: int, height: float) -> tuple[Figure, list[Any]]:
    """A figure and its Axes, all off: one wide cell on the left, then rows x columns in order."""
    figure = plt.figure(figsize=(WIDTH, height))
    grid = figure.add_gridspec(rows, 1 + columns, width_ratios=[WIDE, *[1.0] * columns])
    cells = [grid[:, 0], *(grid[row, 1 + i] for row in range(rows) for i in range(columns))]
    axes = [figure.add_subplot(cell) for cell in cells]
    for ax in axes:
        ax.axis("off")
    return figure, axes


def _plain(ax: Any, image: torch.Tensor, frame: str, title: str = "", note: str = "") -> None:
    """One image in a thin frame, with words above and below and no ticks."""
    ax.axis("on")
    ax.imshow(_pixels(image), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set(visible=True, color=frame, linewidth=0.8 if frame == INK else 2)
    ax.set_title(title, fontsize=11, fontweight="normal", loc="center")
    ax.set_xlabel(note, fontsize=11)


def _cut(title: str, image: torch.Tensor, whole: torch.Tensor, box: Box) -> torch.Tensor:
    """What lies in the box, given in pixels of `whole`, of an image 1, 2, 3 ... times smaller."""
    size, full = tuple(image.shape[-2:]), tuple(whole.shape[-2:])
    factor = max(1, full[0] // max(1, size[0]))
    if (size[0] * factor, size[1] * factor) != full:
        raise ValueError(f"{title!r} is {size}, no whole part of the first image's {full}")
    top, left, height, width = box
    inside = 0 <= top < top + height <= full[0] and 0 <= left < left + width <= full[1]
    if not inside or any(edge % factor for edge in box):
        raise ValueError(
            f"box {box} must lie in the {full[0]} x {full[1]} pixels of the first image, on "
            f"multiples of {factor} for {title!r}"
        )
    top, left, height, width = (edge // factor for edge in box)
    return image[..., top : top + height, left : left + width]


@theme()
def masks(
    masks: Mapping[str, torch.Tensor], *, columns: int = 4, axes: tuple[str, str] = ("", "")
) -> Figure:
    """Boolean masks (out, in) side by side: dark = kept, white = zero, with the share kept above.

    masks: title -> mask. axes: the words along the two sides, ("inputs", "outputs") for a linear
    layer. Cut large ones: a printed square needs a few pixels. ValueError: no mask, or one that is
    not 2-D and boolean.
    """
    if not masks:
        raise ValueError("no masks to show")
    for title, mask in masks.items():
        if mask.ndim != 2 or mask.dtype != torch.bool or not mask.numel():
            raise ValueError(
                f"{title!r} must be a boolean mask (out, in), got {mask.dtype} {tuple(mask.shape)}"
            )
    columns = min(columns, len(masks))
    rows = -(-len(masks) // columns)
    tallest = max(mask.shape[0] / mask.shape[1] for mask in masks.values())
    words = 0.5 + 0.2 * bool(axes[0])
    figure, grid = canvas(rows, columns, rows * (WIDTH / columns * tallest + words), squeeze=False)
    for ax in grid.flat:
        ax.axis("off")
    for i, (ax, (title, mask)) in enumerate(zip(grid.flat, masks.items(), strict=False)):
        share = f"{100 * float(mask.double().mean()):.1f} % kept"
        _plain(ax, torch.zeros(1, *mask.shape), INK, f"{title}\n{share}", axes[0])
        ax.set_ylabel(axes[1] if i % columns == 0 else "", fontsize=11)
        ax.images[0].set(data=mask.cpu().numpy(), cmap=ListedColormap(["white", INK]))
    return figure


def _pixels(image: torch.Tensor) -> np.ndarray:
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise ValueError(f"an image is (1 or 3, H, W), got {tuple(image.shape)}")
    values = image.detach().cpu().float() / (255 if image.dtype == torch.uint8 else 1)
    array = values.clamp(0, 1).permute(1, 2, 0).numpy()
    return array[..., 0] if array.shape[-1] == 1 else array
