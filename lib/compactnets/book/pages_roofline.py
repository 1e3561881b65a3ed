"""Pictures of recorded contests: against the machine's limits, and against the best peer."""

import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from compactnets.book.pages_contests import PATHS, Row, fastest, limit, rate, times_faster
from compactnets.book.pages_figures import drawing, label, tag

LEFT, RIGHT, TOP, BOTTOM = 64, 620, 34, 318
BANDWIDTHS = ("read.l1", "read.l2", "read.l3", "read.memory")
AXIS = "operations per byte of input, weights and output"


class Axis:
    """A logarithmic axis from decade to decade."""

    def __init__(self, values: Iterable[float], start: float, stop: float):
        logs = [math.log10(v) for v in values]
        self.low, self.high = math.floor(min(logs)), math.ceil(max(logs))
        self.high = max(self.high, self.low + 1)
        self.start, self.stop = start, stop

    def at(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, share)) * (self.stop - self.start)

    def decades(self) -> list[float]:
        return [10.0**k for k in range(self.low, self.high + 1)]


def _single(rows: Sequence[Row]) -> list[Row]:
    """One row per kernel and shape: one thread, the fastest path."""
    path = fastest(rows)
    found = {}
    for row in rows:
        if row["threads"] == 1 and row["isa"] == path:
            found.setdefault((row["kernel"], row["shape"]), row)
    return list(found.values())


def _roofs(rows: Sequence[Row], peaks: Mapping[str, float]) -> dict[str, float]:
    """Limits of the arithmetic in use, on the fastest path and on the slower ones."""
    units = dict.fromkeys(row["unit"] for row in rows if row.get("unit"))
    names = (limit(unit, path, peaks) for unit in units for path in PATHS[:3])
    return {name: peaks[name] for name in names if name}


def roofline(content: Mapping[str, Any]) -> str | None:
    """Rate over operations per byte, log-log, under the limits measured on the same machine.

    A point below a slope waits for memory, one below a flat line for arithmetic. None if the record
    counts no operations or no traffic.
    """
    peaks = content.get("peaks", {})
    rows = [r for r in _single(content["rows"]) if rate(r) and r.get("traffic")]
    roofs = _roofs(rows, peaks)
    if not rows or not roofs:
        return None
    reached = [(r["operations"] / r["traffic"], rate(r) or 1.0, r) for r in rows]
    top = max(roofs.values())
    ridges = [top / peaks[name] for name in BANDWIDTHS if name in peaks]
    x = Axis([i for i, *_ in reached] + [0.5 * ridge for ridge in ridges], LEFT, RIGHT)
    y = Axis([v for _, v, _ in reached] + list(roofs.values()), BOTTOM, TOP)
    parts = _frame(x, y)
    for name, height in roofs.items():
        parts.append(
            tag("line", x1=LEFT, x2=RIGHT, y1=y.at(height), y2=y.at(height), class_="cn-roof")
        )
        parts.append(label(RIGHT, y.at(height) - 5, name, text_anchor="end", class_="cn-note"))
    for name in BANDWIDTHS:
        if name in peaks:
            parts += _slope(name, peaks[name], x, y, top)
    for intensity, value, row in reached:
        name = f"{row['kernel']} {row['shape']}: {value:,.0f} G/s at {intensity:.1f} per byte"
        dot = tag(
            "circle",
            tag("title", escape(name)),
            cx=x.at(intensity),
            cy=y.at(value),
            r=4.5,
            class_="cn-dot cn-point",
        )
        parts.append(dot)
    return drawing(RIGHT + 10, BOTTOM + 44, f"Roofline: {content.get('title', '')}", *parts)


def _slope(name: str, bandwidth: float, x: Axis, y: Axis, top: float) -> list[str]:
    """What a memory of so many GB/s can feed."""
    ends = [10.0**x.low, min(10.0**x.high, top / bandwidth)]
    if ends[1] <= ends[0]:
        return []
    begin = max(ends[0], 10.0**y.low / bandwidth)
    points = [(x.at(i), y.at(i * bandwidth)) for i in (begin, ends[1])]
    (x1, y1), (x2, y2) = points
    line = tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_="cn-roof cn-slope")
    return [
        line,
        label(
            x1 + 18,
            y1 - 1,
            f"{name.removeprefix('read.')}, {bandwidth:,.0f} GB/s",
            class_="cn-note",
        ),
    ]


def _frame(x: Axis, y: Axis) -> list[str]:
    parts = []
    for value in x.decades():
        parts.append(
            tag("line", x1=x.at(value), x2=x.at(value), y1=TOP, y2=BOTTOM, class_="cn-grid")
        )
        parts.append(
            label(x.at(value), BOTTOM + 16, f"{value:g}", text_anchor="middle", class_="cn-note")
        )
    for value in y.decades():
        parts.append(
            tag("line", x1=LEFT, x2=RIGHT, y1=y.at(value), y2=y.at(value), class_="cn-grid")
        )
        parts.append(
            label(LEFT - 6, y.at(value) + 4, f"{value:g}", text_anchor="end", class_="cn-note")
        )
    parts.append(
        label((LEFT + RIGHT) / 2, BOTTOM + 36, AXIS, text_anchor="middle", class_="cn-text")
    )
    parts.append(label(8, 14, "10⁹ operations per second", class_="cn-text"))
    return parts


def _rivals(contents: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Row]]:
    """For every kernel and shape the row of the fastest peer that computes the same.

    Stages of a network are not kernels, another form of our own kernel is no peer.
    """
    found = []
    for content in contents.values():
        for row in _single(content["rows"]):
            where = {key: row[key] for key in ("kernel", "shape", "isa", "threads")}
            same = [
                other
                for other in content["rows"]
                if other["max_error"] is not None
                and where.items() <= other.items()
                and not other["peer"].startswith("ours")
            ]
            if same and ": stage" not in row["shape"]:
                name = f"{row['kernel']} {row['shape']}"
                found.append((name, min(same, key=lambda other: other["peer_us"])))
    return found


def best_peers(contents: Mapping[str, Mapping[str, Any]]) -> str | None:
    """How many times faster than its best peer each kernel is, shape by shape, on a log scale."""
    lines = _rivals(contents)
    if not lines:
        return None
    left, right, step = 350, 600, 19
    x = Axis([row["ratio"] for _, row in lines] + [0.9, 1.1], left, right)
    bottom = 8 + step * len(lines)
    parts = [tag("line", x1=x.at(1), x2=x.at(1), y1=2, y2=bottom, class_="cn-axis")]
    for value in x.decades():
        where = {"text_anchor": "middle", "class_": "cn-note"}
        parts.append(label(x.at(value), bottom + 16, f"{value:g}×", **where))
    for i, (name, row) in enumerate(lines):
        y, end = 8 + step * (i + 0.5), x.at(row["ratio"])
        kind = "holds" if row["ratio"] >= 1 else "fails"
        told = tag("title", escape(f"{name}: {row['ratio']:.2f}× {row['peer']}"))
        bar = tag("line", told, x1=x.at(1), x2=end, y1=y, y2=y, class_=f"cn-bar cn-{kind}")
        parts += [label(left - 10, y + 4, name, text_anchor="end", class_="cn-note"), bar]
        note = f"{times_faster(row['ratio'])} {row['peer']}"
        parts.append(label(max(end, x.at(1)) + 8, y + 4, note, class_="cn-note"))
    return drawing(right + 170, bottom + 24, "Every kernel beside its best peer", *parts)
