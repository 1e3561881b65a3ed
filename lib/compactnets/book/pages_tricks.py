"""A computed picture for each trick of the compiled kernels.

Every number in them is worked out here, by the trick and without it; a picture whose two sides
disagree raises ArithmeticError instead of being drawn.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from compactnets.book.pages_figures import drawing, label, tag
from compactnets.seeds import generator

SIDE = 22  # pixels of a cell, gap included
KINDS = {"on": "cn-bit cn-one", "off": "cn-bit cn-zero", "hot": "cn-bit cn-differ"}


def cells(texts: Sequence[object], x: float, y: float, kinds: Sequence[str], side=SIDE) -> str:
    """A row of squares with their texts; kinds: on, off or hot, one for each."""
    parts = []
    for i, (text, kind) in enumerate(zip(texts, kinds, strict=True)):
        left = x + side * i
        parts.append(
            tag("rect", x=left, y=y, width=side - 2, height=SIDE - 2, rx=2, class_=KINDS[kind])
        )
        if str(text):
            middle = {"text_anchor": "middle", "class_": "cn-digit"}
            parts.append(label(left + side / 2 - 1, y + 14.5, str(text), **middle))
    return "".join(parts)


def agree(one: object, other: object) -> None:
    """ArithmeticError unless both are equal."""
    if one != other:
        raise ArithmeticError(f"the trick gives {one}, the plain way {other}")


def _note(x: float, y: float, text: str) -> str:
    return label(x, y, text, class_="cn-note")


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return label(x, y, text, class_="cn-text", text_anchor=anchor)


def pair_trick(seed: int = 5) -> str:
    """Two words of differing bits, counted with one population count."""
    draw = generator(seed, "pair trick")
    x1, x2, ones = (torch.randint(2, (12,), generator=draw) for _ in range(3))
    parity = x1 ^ x2
    carry = torch.where(parity == 1, ones, x1)  # the majority of ones, x1 and x2
    after = ones ^ parity
    plain = int(x1.sum() + x2.sum() + ones.sum())
    agree(int(2 * carry.sum() + after.sum()), plain)
    rows = (
        ("running ones", ones, "on"),
        ("x₁ = a₁ xor w₁", x1, "on"),
        ("x₂ = a₂ xor w₂", x2, "on"),
        ("carry, counts twice", carry, "hot"),
        ("next ones", after, "hot"),
    )
    parts = []
    for i, (name, bits, kind) in enumerate(rows):
        y = 14 + 26 * i + 10 * (i > 2)
        values = bits.tolist()
        parts.append(_text(140, y + 15, name, "end"))
        parts.append(cells(values, 150, y, [kind if bit else "off" for bit in values]))
        parts.append(_text(424, y + 15, f"{int(bits.sum())} set"))
    total = f"{plain} = 2 · {int(carry.sum())} + {int(after.sum())}"
    parts.append(_note(150, 168, f"set bits of the three words above: {total}"))
    return drawing(490, 176, "A carry-save adder: one count for two words", *parts)


def tile() -> str:
    """A convolution on a matrix unit: neighbouring pixels are the rows, taps are offsets."""
    parts = [_text(10, 18, "padded image, one square a pixel (its channels lie side by side)")]
    run, first = 5, (1, 2)  # pixels of one tile, position of the first
    for y in range(5):
        kinds = []
        for x in range(10):
            edge = y in (0, 4) or x in (0, 9)
            inside = y == first[0] and first[1] <= x < first[1] + run
            tapped = y == first[0] + 1 and first[1] + 1 <= x < first[1] + 1 + run
            kinds.append("hot" if tapped else "on" if inside else "off")
            if edge and not (inside or tapped):
                parts.append(_text(10 + SIDE * x + 7, 30 + SIDE * y + 14, "0"))
        parts.append(cells([""] * 10, 10, 30 + SIDE * y, kinds))
    parts.append(_note(10, 160, "blue: what tap (0, 0) meets for a run of output pixels;"))
    parts.append(_note(10, 176, "yellow: the same run for tap (1, 1), one offset away, not a copy"))
    for x, (name, size) in zip(
        (270, 350, 444),
        (("A", "16 pixels × 64 bytes"), ("B", "64 × 16 channels"), ("C", "16 × 16 sums")),
        strict=True,
    ):
        kind = KINDS["on" if name == "A" else "off" if name == "B" else "hot"]
        parts.append(tag("rect", x=x, y=44, width=62, height=62, rx=3, class_=kind))
        parts.append(_text(x + 31, 80, name, "middle"))
        parts.append(_note(x - 8, 124 if name != "B" else 140, size))
    parts += [_text(338, 80, "·"), _text(422, 80, "→")]
    return drawing(540, 186, "A tile of pixels times a tile of weights", *parts)


def nested_masks(seed: int = 2) -> str:
    """Two 4-bit weights in a byte, taken apart without a shift."""
    draw = generator(seed, "nested masks")
    low, high = (torch.randint(16, (4,), generator=draw) for _ in range(2))
    a = torch.randint(9, (2, 4), generator=draw)
    byte = 16 * high + low
    inner, outer = int((a[0] * low).sum()), int((a[1] * (byte - low)).sum())
    agree(outer // 16, int((a[1] * high).sum()))
    parts = [_text(120, 28, "bytes b", "end")]
    parts.append(cells([f"{v:02x}" for v in byte.tolist()], 130, 13, ["on"] * 4, 36))
    parts.append(_text(120, 58, "b and 0f", "end"))
    parts.append(cells([f"{v:02x}" for v in low.tolist()], 130, 43, ["hot"] * 4, 36))
    parts.append(_text(120, 88, "b and f0", "end"))
    parts.append(cells([f"{v:02x}" for v in (byte - low).tolist()], 130, 73, ["hot"] * 4, 36))
    for y, row, total, how in (
        (58, a[0], inner, "sum of the first half's products"),
        (88, a[1], outer, f"16 times the second half's: {outer // 16}"),
    ):
        given = ", ".join(map(str, row.tolist()))
        parts.append(_text(290, y, f"· ({given}) = {total}"))
        parts.append(_note(420, y, how))
    caption = "the upper half is multiplied where it lies; the factor 16 leaves with the scale"
    parts.append(_note(20, 118, caption))
    return drawing(640, 126, "Weights of four bits under nested masks", *parts)


def patterns(seed: int = 4) -> str:
    """Half of the weights gone, four ways; and what must be loaded for each that stays."""
    score = torch.rand(8, 12, generator=generator(seed, "patterns"))
    blocks = score.unflatten(0, (2, 4)).sum(1)
    shapes = {
        "unstructured": _largest(score.flatten(), 48).view(8, 12),
        "1×4 blocks": _largest(blocks.flatten(), 12).view(2, 12).repeat_interleave(4, 0),
        "2:4": torch.stack([_largest(g, 2) for g in score.view(-1, 4)]).view(8, 12),
        "filters": _largest(score.sum(1), 4)[:, None].expand(8, 12),
    }
    parts = []
    for i, (name, keep) in enumerate(shapes.items()):
        agree(int(keep.sum()), 48)
        x = 10 + 152 * i
        parts.append(_text(x, 16, name))
        for y, row in enumerate(keep.tolist()):
            for j, kept in enumerate(row):
                kind = KINDS["on" if kept else "off"]
                parts.append(
                    tag("rect", x=x + 11 * j, y=26 + 11 * y, width=9, height=9, class_=kind)
                )
        loads = {"unstructured": 1.0, "1×4 blocks": 1 / 4}.get(name)
        if loads:
            parts.append(_note(x, 132, f"{loads:g} input load a weight"))
    parts.append(_note(10, 152, "rows are output channels, columns inputs; filled squares stay"))
    return drawing(620, 160, "Patterns of sparsity at one half", *parts)


def _largest(values: Tensor, count: int) -> Tensor:
    keep = torch.zeros_like(values, dtype=torch.bool)
    keep[values.argsort(descending=True)[:count]] = True
    return keep


def gather(seed: int = 6) -> str:
    """N:M sparsity: a byte gather brings the activations to the weights that stayed."""
    draw = generator(seed, "gather")
    a = torch.randint(1, 10, (8,), generator=draw)
    keep = torch.stack([_largest(torch.rand(4, generator=draw), 2) for _ in range(2)]).flatten()
    w = torch.randint(-4, 5, (8,), generator=draw) * keep
    index = keep.nonzero().flatten()
    total = int((a[index] * w[index]).sum())
    agree(total, int((a * w).sum()))
    kinds = ["on" if kept else "off" for kept in keep.tolist()]
    parts = [_text(120, 28, "activations", "end"), cells(a.tolist(), 130, 13, kinds, 30)]
    masked = [v if kept else "" for v, kept in zip(w.tolist(), keep.tolist(), strict=True)]
    parts += [_text(120, 56, "2:4 weights", "end"), cells(masked, 130, 41, kinds, 30)]
    for y, name, values in (
        (79, "indices", index.tolist()),
        (107, "gathered", a[index].tolist()),
        (135, "weights", w[index].tolist()),
    ):
        parts += [_text(120, y + 15, name, "end"), cells(values, 130, y, ["hot"] * 4, 30)]
    parts.append(_note(264, 150, f"half the products, the same sum: {total}"))
    return drawing(470, 166, "A gather in front of a dense product", *parts)


def maximum(seed: int = 1) -> str:
    """Sums of absolute differences from maxima."""
    a, w = torch.randint(1, 10, (2, 6), generator=generator(seed, "maximum")).tolist()
    top = [max(pair) for pair in zip(a, w, strict=True)]
    plain = sum(abs(p - q) for p, q in zip(a, w, strict=True))
    agree(2 * sum(top) - sum(a) - sum(w), plain)
    parts = []
    for i, (name, values, kind) in enumerate(
        (("activations a", a, "on"), ("weights w", w, "on"), ("max(a, w)", top, "hot"))
    ):
        y = 12 + 28 * i
        parts += [_text(120, y + 15, name, "end"), cells(values, 130, y, [kind] * 6, 30)]
        parts.append(_text(322, y + 15, f"sum {sum(values)}"))
    parts.append(_text(20, 118, f"Σ|a − w| = 2 · {sum(top)} − {sum(a)} − {sum(w)} = {plain}"))
    parts.append(_note(20, 138, "the sums of a and of w are needed once per window and per filter"))
    return drawing(430, 146, "L1 distance by maxima", *parts)


def winograd(seed: int = 3) -> str:
    """F(2, 3) in one dimension with numbers, and what three dimensions make of it."""
    draw = generator(seed, "winograd")
    d = torch.randint(-4, 5, (4,), generator=draw).double()
    g = torch.randint(-4, 5, (3,), generator=draw).double()
    v = torch.stack((d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]))
    u = torch.stack((g[0], (g[0] + g[1] + g[2]) / 2, (g[0] - g[1] + g[2]) / 2, g[2]))
    m = u * v
    y = [float(m[0] + m[1] + m[2]), float(m[1] - m[2] - m[3])]
    agree(y, [float((d[i : i + 3] * g).sum()) for i in range(2)])
    lines = (
        ("input d", d, "on"),
        ("Bᵀd", v, "on"),
        ("filter g", g, "off"),
        ("G g", u, "off"),
        ("products", m, "hot"),
        ("Aᵀ(…) = output", torch.tensor(y), "hot"),
    )
    parts = []
    for i, (name, values, kind) in enumerate(lines):
        top = 12 + 28 * i
        texts = [f"{value:g}" for value in values.tolist()]
        parts += [
            _text(130, top + 15, name, "end"),
            cells(texts, 140, top, [kind] * len(texts), 44),
        ]
    direct, fast = math.prod([2 * 3] * 3), math.prod([4] * 3)
    for line, text in enumerate(
        (
            "4 products in place of 6;",
            f"in three dimensions {fast} in place of {direct}:",
            f"{direct / fast:.3g} times fewer",
        )
    ):
        parts.append(_note(340, 60 + 18 * line, text))
    return drawing(560, 186, "Winograd's F(2, 3)", *parts)


def cosines() -> str:
    """The eight vectors of the DCT, and a mask that keeps the slow ones."""
    n = torch.arange(8.0)
    basis = torch.cos(math.pi * (n + 0.5) * n[:, None] / 8)
    basis = basis * torch.where(n == 0, math.sqrt(1 / 8), 0.5)[:, None]
    agree(bool(torch.allclose(basis @ basis.T, torch.eye(8), atol=1e-6)), True)
    parts = []
    for k, row in enumerate(basis.tolist()):
        left, middle = 14 + 96 * (k % 4), 44 + 70 * (k // 4)
        points = " ".join(f"{left + 11 * i:.0f},{middle - 40 * v:.1f}" for i, v in enumerate(row))
        parts.append(tag("polyline", points=points, class_="cn-curve"))
        parts.append(_note(left, middle - 24, f"k = {k}"))
    parts.append(_text(430, 16, "a mask of 8 × 8"))
    for i in range(8):
        for j in range(8):
            kind = KINDS["on" if i + j < 5 else "off"]
            parts.append(
                tag("rect", x=430 + 13 * j, y=26 + 13 * i, width=11, height=11, class_=kind)
            )
    return drawing(560, 140, "The DCT's basis and a mask of its coefficients", *parts)


def shifts(seed: int = 8) -> str:
    """Three channels before and after their shifts."""
    draw = generator(seed, "shifts")
    parts = [_text(10, 16, "before"), _text(10, 110, "after")]
    for i, (dy, dx) in enumerate(((0, 1), (1, 0), (-1, -1))):
        x = torch.randint(1, 10, (3, 4), generator=draw)
        y = torch.zeros_like(x)
        y[max(dy, 0) : 3 + min(dy, 0), max(dx, 0) : 4 + min(dx, 0)] = x[
            max(-dy, 0) : 3 + min(-dy, 0), max(-dx, 0) : 4 + min(-dx, 0)
        ]
        left = 80 + 130 * i
        parts.append(_note(left, 14, f"by ({dy}, {dx})"))
        for row in range(3):
            parts.append(cells(x[row].tolist(), left, 20 + SIDE * row, ["on"] * 4))
            kinds = ["hot" if value == 0 else "on" for value in y[row].tolist()]
            parts.append(cells(y[row].tolist(), left, 100 + SIDE * row, kinds))
    return drawing(470, 174, "A shift convolution moves channels and adds nothing", *parts)


PICTURES = {
    "pair-trick": pair_trick,
    "tile": tile,
    "nested-masks": nested_masks,
    "patterns": patterns,
    "gather": gather,
    "maximum": maximum,
    "winograd": winograd,
    "cosines": cosines,
    "shifts": shifts,
}
