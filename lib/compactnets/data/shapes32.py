"""shapes32, the embedded data set: ten kinds of shapes, 32 x 32 RGB, drawn from a seed.

What the class does not fix is drawn anew for every image: place, size, angle, stretch, wobble,
color and texture of shape and ground, clutter behind, bars in front, light, blur and noise. Color,
texture and size say nothing about the class; the outline alone does. Images come in blocks, each
with a random stream of its own, so that the first n of a larger request are the n of a smaller one.
"""

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from compactnets.data.images import ImageSet, Split
from compactnets.seeds import generator as stream

CLASSES = (
    "disk",
    "ring",
    "crescent",
    "heart",
    "triangle",
    "square",
    "star",
    "cross",
    "arrow",
    "bowtie",
)
SIZES: dict[str, int] = {"train": 50_000, "test": 10_000}
SIDE = 32
_BLOCK = 100  # images per random stream; a multiple of the class count
_REACH = 1.6  # templates cover [-reach, reach] squared; shapes have a radius of about 1
_TEMPLATE = 96  # pixels a side

_POLYGONS: dict[str, list[tuple[float, float]]] = {
    "triangle": [(math.sin(a), -math.cos(a)) for a in (0.0, 2 * math.pi / 3, 4 * math.pi / 3)],
    "square": [(-0.75, -0.75), (0.75, -0.75), (0.75, 0.75), (-0.75, 0.75)],
    "star": [
        ((0.42 if i % 2 else 1.05) * math.sin(i * math.pi / 5),
         -(0.42 if i % 2 else 1.05) * math.cos(i * math.pi / 5))
        for i in range(10)
    ],
    "cross": [
        (-0.3, -1.0), (0.3, -1.0), (0.3, -0.3), (1.0, -0.3), (1.0, 0.3), (0.3, 0.3),
        (0.3, 1.0), (-0.3, 1.0), (-0.3, 0.3), (-1.0, 0.3), (-1.0, -0.3), (-0.3, -0.3),
    ],
    "arrow": [
        (0.0, -1.05), (0.8, -0.1), (0.28, -0.1), (0.28, 1.0), (-0.28, 1.0), (-0.28, -0.1),
        (-0.8, -0.1),
    ],
    "bowtie": [(-0.95, -0.8), (0.0, -0.16), (0.95, -0.8), (0.95, 0.8), (0.0, 0.16), (-0.95, 0.8)],
}  # fmt: skip


def _polygon_distance(x: Tensor, y: Tensor, corners: list[tuple[float, float]]) -> Tensor:
    """Signed distance of the points (x, y) to a simple polygon, negative inside."""
    distance = torch.full_like(x, math.inf)
    inside = torch.zeros_like(x, dtype=torch.bool)
    for (ax, ay), (bx, by) in zip(corners, corners[1:] + corners[:1], strict=True):
        ex, ey = bx - ax, by - ay
        along = (((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey)).clamp(0, 1)
        distance = distance.minimum((x - ax - along * ex).hypot(y - ay - along * ey))
        if ay != by:  # a ray to the right crosses this edge
            crossing = ax + (y - ay) * ex / ey
            inside ^= ((y < ay) != (y < by)) & (x < crossing)
    return torch.where(inside, -distance, distance)


@lru_cache(maxsize=1)
def templates() -> Tensor:
    """(10, 1, 96, 96) fp32: signed distance to each class's outline over [-1.6, 1.6] squared."""
    place = torch.linspace(-_REACH, _REACH, _TEMPLATE, dtype=torch.float64)
    y, x = torch.meshgrid(place, place, indexing="ij")
    disk = x.hypot(y) - 0.9
    drawn = {name: _polygon_distance(x, y, corners) for name, corners in _POLYGONS.items()}
    drawn["disk"] = disk
    drawn["ring"] = (x.hypot(y) - 0.76).abs() - 0.2
    drawn["crescent"] = (x.hypot(y) - 0.95).maximum(0.75 - (x - 0.5).hypot(y))
    lobes = ((x.abs() - 0.43).hypot(y + 0.35) - 0.5).minimum(
        _polygon_distance(x, y, [(-0.86, -0.1), (0.0, -0.4), (0.86, -0.1), (0.0, 0.98)])
    )
    drawn["heart"] = lobes
    return torch.stack([drawn[name] for name in CLASSES]).float()[:, None]


class _Draw:
    """Random numbers of one block, one per image unless said otherwise, shaped (n, 1, 1)."""

    def __init__(self, n: int, generator: torch.Generator) -> None:
        self.n, self.generator = n, generator

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand((self.n, *(shape or (1, 1))), generator=self.generator)
        return low + (high - low) * drawn

    def normal(self, *shape: int) -> Tensor:
        return torch.randn((self.n, *shape), generator=self.generator)

    def maybe(self, p: float) -> Tensor:
        return (self.uniform(0, 1) < p).float()

    def color(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        return self.uniform(low, high, 3, 1, 1)


def _turned(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = angle.cos(), angle.sin()
    return x * cos + y * sin, y * cos - x * sin


def _texture(x: Tensor, y: Tensor, draw: _Draw) -> Tensor:
    """(n, 32, 32) in about [-1, 1]: a slope, stripes, a checkerboard or cloudy noise."""
    u, v = _turned(x, y, draw.uniform(0, math.tau))
    pitch = draw.uniform(4, 16)
    wave_u = (pitch * u + draw.uniform(0, math.tau)).sin()
    wave_v = (pitch * v + draw.uniform(0, math.tau)).sin()
    clouds = F.interpolate(draw.normal(1, 7, 7), (SIDE, SIDE), mode="bicubic")[:, 0]
    kinds = torch.stack((u, (3 * wave_u).tanh(), (4 * wave_u * wave_v).tanh(), clouds))
    kind = torch.randint(4, (draw.n,), generator=draw.generator)
    return kinds[kind, torch.arange(draw.n)].clamp(-1.5, 1.5)


def _paint(canvas: Tensor, cover: Tensor, color: Tensor) -> Tensor:
    """The color laid over the canvas (n, 3, 32, 32) where cover (n, 32, 32) in [0, 1] says so."""
    return canvas + cover[:, None] * (color - canvas)


def _patch(x: Tensor, y: Tensor, draw: _Draw, length: Tensor, width: Tensor) -> Tensor:
    """Cover (n, 32, 32) of one ellipse or rectangle of those half-axes at a random place."""
    u, v = _turned(x - draw.uniform(-1, 1), y - draw.uniform(-1, 1), draw.uniform(0, math.pi))
    u, v = u / length, v / width
    box = draw.maybe(0.5)
    far = box * u.abs().maximum(v.abs()) + (1 - box) * u.hypot(v)
    return (0.5 - (far - 1) * width * SIDE / 2).clamp(0, 1)


def _shape(x: Tensor, y: Tensor, labels: Tensor, draw: _Draw) -> Tensor:
    """Cover (n, 32, 32) of the image's shape: turned, stretched, wobbling, somewhere inside."""
    radius = draw.uniform(0.6, 0.95)
    room = 0.6 * (1 - 0.8 * radius)
    u = (x - draw.uniform(-1, 1) * room) / radius
    v = (y - draw.uniform(-1, 1) * room) / radius
    u, v = u / draw.uniform(0.75, 1.0), v / draw.uniform(0.75, 1.0)
    u, v = _turned(u, v, draw.uniform(-0.45, 0.45))
    swing = draw.uniform(0.0, 0.13)
    u, v = (
        u + swing * (2.5 * v + draw.uniform(0, math.tau)).sin(),
        v + swing * (2.5 * u + draw.uniform(0, math.tau)).sin(),
    )
    grid = torch.stack((u, v), dim=-1) / _REACH
    distance = F.grid_sample(templates()[labels], grid, padding_mode="border", align_corners=True)[
        :, 0
    ]
    return (0.5 - distance * radius * (SIDE / 2) / draw.uniform(0.9, 1.8)).clamp(0, 1)


def _render(labels: Tensor, generator: torch.Generator) -> Tensor:
    """(n, 3, 32, 32) uint8, one image for each label."""
    draw = _Draw(len(labels), generator)
    place = (torch.arange(SIDE) + 0.5) * 2 / SIDE - 1
    y, x = place[:, None].expand(1, -1, SIDE), place[None, :].expand(1, SIDE, -1)

    ground = draw.color(0.15, 0.85)
    canvas = ground + draw.color(-0.12, 0.12) * _texture(x, y, draw)[:, None]
    for _ in range(2):
        cover = _patch(x, y, draw, draw.uniform(0.1, 0.4), draw.uniform(0.06, 0.25))
        color = ground + draw.color(-0.35, 0.35)
        canvas = _paint(canvas, cover * draw.maybe(0.6), color)

    # Mostly lighter or darker than the ground, partly of another hue.
    direction = F.normalize(draw.normal(1, 1, 1) + 0.5 * draw.normal(3, 1, 1), dim=1)
    own = ground + direction * draw.uniform(0.5, 1.2, 1, 1, 1)
    own = own + draw.color(-0.12, 0.12) * _texture(x, y, draw)[:, None]
    canvas = _paint(canvas, _shape(x, y, labels, draw), own)

    for _ in range(2):
        bar = _patch(x, y, draw, draw.uniform(0.3, 1.2), draw.uniform(0.03, 0.09))
        canvas = _paint(canvas, bar * draw.maybe(0.45), draw.color())

    gray = canvas.mean(1, keepdim=True)
    canvas = gray + draw.uniform(0.1, 0.9, 1, 1, 1) * (canvas - gray)
    slope = _turned(x, y, draw.uniform(0, math.tau))[0]
    canvas = canvas * (1 + draw.uniform(0, 0.3) * slope)[:, None]
    soft = F.avg_pool2d(F.pad(canvas, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    canvas = canvas + draw.uniform(0, 0.8, 1, 1, 1) * (soft - canvas)
    noise = draw.normal(3, SIDE, SIDE) * draw.uniform(0.005, 0.07, 1, 1, 1)
    return ((canvas + noise) * 255).round().clamp(0, 255).to(torch.uint8)


def draw(n: int, split: Split = "train", seed: int = 0) -> tuple[Tensor, Tensor]:
    """The first n images (n, 3, 32, 32) uint8 and labels (n,) int64 of a split.

    Every ten labels in a row are the ten classes in random order. Train and test use different
    random streams; another seed is another data set of the same kind. ValueError for a split
    other than train and test, or more images than the split has.
    """
    if split not in SIZES:
        raise ValueError(f"shapes32 has no split {split!r}: choose train or test")
    if not 0 <= n <= SIZES[split]:
        raise ValueError(f"cannot draw {n} images: shapes32/{split} has {SIZES[split]} images")
    images, labels = [], []
    for block in range(-(-n // _BLOCK)):
        generator = stream(seed, "shapes32", split, block)
        tens = torch.rand((_BLOCK // len(CLASSES), len(CLASSES)), generator=generator)
        labels.append(tens.argsort(dim=1).flatten())
        images.append(_render(labels[-1], generator))
    if not n:
        return torch.empty(0, 3, SIDE, SIDE, dtype=torch.uint8), torch.empty(0, dtype=torch.int64)
    return torch.cat(images)[:n], torch.cat(labels)[:n]


@lru_cache(maxsize=4)
def _moments(seed: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel in [0, 1], of the first 1,000 training images."""
    values = draw(1000, "train", seed)[0].double() / 255
    mean, std = values.mean((0, 2, 3)), values.std((0, 2, 3))
    return tuple(round(v, 4) for v in mean.tolist()), tuple(round(v, 4) for v in std.tolist())


@lru_cache(maxsize=4)  # a study loads the same images for every seed of its training
def load_shapes32(split: Split = "train", limit: int | None = None, seed: int = 0) -> ImageSet:
    """shapes32 as an ImageSet; without a limit the whole split (50,000 or 10,000 images)."""
    images, labels = draw(SIZES.get(split, 0) if limit is None else limit, split, seed)
    mean, std = _moments(seed)
    return ImageSet("shapes32", split, images, labels, CLASSES, mean, std, "embedded")
