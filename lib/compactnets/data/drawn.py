"""Images drawn for restoration: gradients, edges, textures, thin lines, strokes like writing.

Stand-ins where no photographs are at hand: they have what interpolation loses (sharp edges, fine
periodic texture, hairlines) beside what it keeps (slopes, clouds).
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from compactnets.seeds import generator as stream


def scenes(n: int, size: int = 128, seed: int = 0) -> Tensor:
    """(n, 3, size, size) uint8; the first n of a larger request are the same images.

    ValueError if n is negative or size below 16.
    """
    if n < 0 or size < 16:
        raise ValueError(f"scenes needs n >= 0 and size >= 16, got n={n}, size={size}")
    images = torch.empty(n, 3, size, size, dtype=torch.uint8)
    for i in range(n):
        images[i] = _Scene(size, stream(seed, "scenes", size, i)).draw()
    return images


class _Scene:
    """One image in the making: canvas (3, size, size) fp32 in [0, 1], lengths in pixels."""

    def __init__(self, size: int, generator: torch.Generator) -> None:
        self.size, self.generator = size, generator
        place = torch.arange(size) + 0.5
        self.y, self.x = torch.meshgrid(place, place, indexing="ij")
        self.canvas = torch.zeros(3, size, size)

    def draw(self) -> Tensor:
        """Paints from back to front: (3, size, size) uint8."""
        self.canvas = self._filling()
        for _ in range(self._whole(5, 9)):
            self._paint(self._region(), self._filling())
        for _ in range(self._whole(2, 6)):
            ends = torch.rand(4, generator=self.generator) * self.size
            self._stroke(ends.tolist(), self._between(0.6, 2.5), self._color())
        for _ in range(self._whole(1, 3)):
            self._writing()
        grain = torch.randn(3, self.size, self.size, generator=self.generator)
        return ((self.canvas + 0.006 * grain) * 255).round().clamp(0, 255).to(torch.uint8)

    def _between(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def _whole(self, low: int, high: int) -> int:
        """A whole number in [low, high]."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def _color(self) -> Tensor:
        """(3, 1, 1), muted: a grey with some hue."""
        hue = torch.rand(3, 1, 1, generator=self.generator) - 0.5
        return (self._between(0.08, 0.92) + 0.35 * hue).clamp(0, 1)

    def _turned(self) -> tuple[Tensor, Tensor]:
        """Pixel coordinates from the center, turned by a random angle."""
        angle = self._between(0, math.tau)
        x, y = self.x - self.size / 2, self.y - self.size / 2
        return x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)

    def _clouds(self) -> Tensor:
        """(size, size) in about [-1, 1], amplitude falling with frequency as in photographs."""
        total = torch.zeros(self.size, self.size)
        for octave in range(1, 6):
            grid = torch.randn(1, 1, 2**octave + 1, 2**octave + 1, generator=self.generator)
            smooth = F.interpolate(grid, (self.size, self.size), mode="bicubic", align_corners=True)
            total += smooth[0, 0] / 1.8**octave
        return total

    def _texture(self) -> Tensor:
        """(size, size) in about [-1, 1]: slope, stripes, checkerboard, dots, bricks or clouds."""
        u, v = self._turned()
        pitch = self._between(3.5, 14)
        match self._whole(0, 5):
            case 0:
                return 2 * u / self.size
            case 1:
                return (4 * (math.tau * u / pitch).sin()).tanh()
            case 2:
                return (6 * (math.pi * u / pitch).sin() * (math.pi * v / pitch).sin()).tanh()
            case 3:
                du, dv = ((w.remainder(pitch) - pitch / 2) for w in (u, v))
                return 2 * (0.5 + 0.3 * pitch - du.hypot(dv)).clamp(0, 1) - 1
            case 4:
                row = (v / pitch).floor()
                across = (u + row.remainder(2) * pitch).remainder(2 * pitch)
                mortar = torch.minimum(v.remainder(pitch), across)
                return 2 * (mortar - 0.5).clamp(0, 1) - 1
            case _:
                return self._clouds()

    def _filling(self) -> Tensor:
        """(3, size, size): a color, its texture and its light."""
        texture = self._texture() * self._between(0.02, 0.3)
        tint = 1 + 0.5 * (torch.rand(3, 1, 1, generator=self.generator) - 0.5)
        light = 0.08 * self._clouds() + self._between(-0.2, 0.2) * self._turned()[0] / self.size
        return (self._color() + texture * tint + light).clamp(0, 1)

    def _region(self) -> Tensor:
        """Cover (size, size) in [0, 1] of an ellipse, a rectangle or a half plane."""
        u, v = self._turned()
        u = u + self._between(-0.5, 0.5) * self.size
        v = v + self._between(-0.5, 0.5) * self.size
        a, b = (self._between(0.06, 0.33) * self.size for _ in range(2))
        match self._whole(0, 4):
            case 0 | 1:
                distance = ((u / a).hypot(v / b) - 1) * min(a, b)
            case 2 | 3:
                distance = torch.maximum(u.abs() - a, v.abs() - b)
            case _:
                distance = u - a
        return (0.5 - distance).clamp(0, 1)

    def _paint(self, cover: Tensor, color: Tensor) -> None:
        self.canvas = self.canvas + cover * (color - self.canvas)

    def _stroke(self, ends: list[float], width: float, color: Tensor) -> None:
        """A straight line with round ends from (ends[0], ends[1]) to (ends[2], ends[3])."""
        ax, ay, bx, by = ends
        rows, columns = (
            slice(max(0, int(min(a, b) - width - 1)), max(0, int(max(a, b) + width + 2)))
            for a, b in ((ay, by), (ax, bx))
        )
        x, y = self.x[rows, columns], self.y[rows, columns]
        ex, ey = bx - ax, by - ay
        along = (((x - ax) * ex + (y - ay) * ey) / max(ex * ex + ey * ey, 1e-6)).clamp(0, 1)
        distance = (x - ax - along * ex).hypot(y - ay - along * ey) - width / 2
        part = self.canvas[:, rows, columns]
        self.canvas[:, rows, columns] += (0.5 - distance).clamp(0, 1) * (color - part)

    def _writing(self) -> None:
        """A few rows of glyphs: three or four strokes each, between points of a 3 x 3 grid."""
        height = self._between(6, max(7.0, self.size / 9))
        width, color = height * 0.55, self._color()
        pen = max(0.7, height / 9)
        x0, y0 = (self._between(0, 0.6) * self.size for _ in range(2))
        for row in range(self._whole(1, 3)):
            for column in range(self._whole(4, 9)):
                left, top = x0 + column * 1.45 * width, y0 + row * 1.6 * height
                points = torch.randint(3, (self._whole(4, 5), 2), generator=self.generator).tolist()
                for (px, py), (qx, qy) in pairwise(points):
                    ends = [left + px * width / 2, top + py * height / 2]
                    self._stroke([*ends, left + qx * width / 2, top + qy * height / 2], pen, color)
