"""Swin transformers (arXiv:2103.14030): attention in windows that shift from block to block."""

import torch
from torch import Tensor, nn

from compactnets.models.vit import Attention, PatchEmbed, initialize_transformer, mlp


def to_windows(x: Tensor, window: int, side: int) -> Tensor:
    """(B, side, side, C) -> (B * windows, window^2, C), windows of an image one after another."""
    parts = side // window
    x = x.unflatten(2, (parts, window)).unflatten(1, (parts, window))
    return x.transpose(2, 3).flatten(3, 4).flatten(0, 2)


def from_windows(x: Tensor, window: int, side: int) -> Tensor:
    """The inverse of to_windows."""
    parts = side // window
    x = x.unflatten(0, (-1, parts, parts)).unflatten(3, (window, window))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def relative_index(window: int) -> Tensor:
    """(window^2, window^2) int64: which of the (2 window - 1)^2 offsets separates two pixels."""
    rows, columns = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    offsets = [(c.flatten()[:, None] - c.flatten()) + window - 1 for c in (rows, columns)]
    return offsets[0] * (2 * window - 1) + offsets[1]


def shift_mask(window: int, shift: int, side: int) -> Tensor:
    """(windows, window^2, window^2): 0 for two pixels that were neighbors before the image was
    rolled by -shift, -100 for two that the roll brought together (Swin, section 3.2)."""
    region = torch.zeros(side)
    region[side - window : side - shift] = 1
    region[side - shift :] = 2
    label = (3 * region[:, None] + region)[None, :, :, None]
    label = to_windows(label, window, side)[..., 0]
    return torch.where(label[:, :, None] == label[:, None], 0.0, -100.0)


class WindowPosition(nn.Module):
    """Adds a learned bias per head and offset to the scores (B * windows, heads, n, n), and the
    mask of a shifted grid, if any."""

    index: Tensor
    mask: Tensor | None

    def __init__(self, heads: int, window: int, mask: Tensor | None = None):
        super().__init__()
        self.table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        self.register_buffer("index", relative_index(window), persistent=False)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, scores: Tensor) -> Tensor:
        scores = scores + self.table[self.index].permute(2, 0, 1)
        if self.mask is None:
            return scores
        windows = len(self.mask)
        return (scores.unflatten(0, (-1, windows)) + self.mask[:, None]).flatten(0, 1)


class SwinBlock(nn.Module):
    """Attention in windows, then an MLP, each with its norm before and x added after.

    (B, side, side, dim) -> the same. A window as large as the map is neither cut nor shifted.
    """

    def __init__(self, dim: int, heads: int, window: int, shift: int, side: int, mlp_ratio: int):
        super().__init__()
        window, shift = (side, 0) if side <= window else (window, shift)
        if side % window:
            raise ValueError(f"windows of {window} do not tile a map of {side} x {side} tokens")
        self.window, self.shift, self.side = window, shift, side
        mask = shift_mask(window, shift, side) if shift else None
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim, heads, WindowPosition(heads, window, mask))
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = mlp(dim, mlp_ratio * dim)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.roll(self.norm1(x), (-self.shift, -self.shift), (1, 2))
        y = self.attn(to_windows(y, self.window, self.side))
        y = torch.roll(from_windows(y, self.window, self.side), (self.shift, self.shift), (1, 2))
        x = x + y
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Four neighboring tokens become one of twice the channels: (B, H, W, C) -> (B, H/2, W/2, 2C).

    The four follow one another column by column, as in the published weights.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H/2, 2, W/2, 2, C)
        return self.reduction(self.norm(x.permute(0, 1, 3, 4, 2, 5).flatten(3)))


class SwinTransformer(nn.Module):
    """patch_embed - layers (patch merging before all but the first, then blocks) - norm - head.

    Images (N, in_channels, size, size) -> logits (N, classes). depths, heads: blocks and heads of
    each layer; channels double and the map halves from layer to layer. Every second block shifts
    its windows by half a window.
    """

    def __init__(
        self,
        dim: int,
        depths: tuple[int, ...],
        heads: tuple[int, ...],
        window: int,
        patch: int,
        size: int,
        classes: int,
        mlp_ratio: int = 4,
        in_channels: int = 3,
    ):
        super().__init__()
        if len(depths) != len(heads) or not depths or min(*depths, classes, window) < 1:
            raise ValueError(
                f"depths {depths} and heads {heads} must be as many positive numbers, classes and "
                f"window positive, got {classes} and {window}"
            )
        self.patch_embed = PatchEmbed(dim, patch, size, in_channels, nn.LayerNorm(dim))
        self.side = side = self.patch_embed.side
        self.layers = nn.Sequential()
        for i, (depth, head) in enumerate(zip(depths, heads, strict=True)):
            merging: nn.Module = nn.Identity()
            if i:
                if side % 2:
                    raise ValueError(f"a map of {side} x {side} tokens cannot be halved")
                merging, dim, side = PatchMerging(dim), 2 * dim, side // 2
            shifts = (0 if j % 2 == 0 else window // 2 for j in range(depth))
            blocks = (SwinBlock(dim, head, window, shift, side, mlp_ratio) for shift in shifts)
            layer = nn.Sequential()
            layer.add_module("downsample", merging)
            layer.add_module("blocks", nn.Sequential(*blocks))
            self.layers.append(layer)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, classes)
        initialize_transformer(self)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images).unflatten(1, (self.side, self.side))
        return self.head(self.norm(self.layers(x)).mean((1, 2)))


def swin_cifar(
    dim: int = 32,
    depths: tuple[int, ...] = (2, 2),
    heads: tuple[int, ...] = (1, 2),
    window: int = 4,
    patch: int = 2,
    classes: int = 10,
    *,
    mlp_ratio: int = 4,
    size: int = 32,
    in_channels: int = 3,
) -> SwinTransformer:
    """Swin-like network for size x size images: by default 16x16 and 8x8 tokens, windows of 4."""
    return SwinTransformer(dim, depths, heads, window, patch, size, classes, mlp_ratio, in_channels)


def swin_tiny(classes: int = 1000) -> SwinTransformer:
    """Swin-T, 224x224, windows of 7: 28,288,354 parameters with 1000 classes."""
    return SwinTransformer(96, (2, 2, 6, 2), (3, 6, 12, 24), 7, 4, 224, classes)


def swin_small(classes: int = 1000) -> SwinTransformer:
    """Swin-S, 224x224, windows of 7: 49,606,258 parameters with 1000 classes."""
    return SwinTransformer(96, (2, 2, 18, 2), (3, 6, 12, 24), 7, 4, 224, classes)
