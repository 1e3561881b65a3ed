"""Recorded contests of the kernels as tables: a row per shape, a column per peer.

A file of data/results/kernels is what `python -m kernels.bench <name> --record` wrote: title,
machine, versions, peaks, and rows as in kernels/bench/entries.py.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from compactnets.book.pages_chapters import raw
from compactnets.book.pages_figures import tag

PATHS = ("amx", "avx512", "avx2", "portable", "reference")  # fastest first

# What a unit is measured against: loops of kernels/bench/roofline.py, the first that a path has.
LOOPS = {
    "fp32": ("fp32_fma",),
    "int8": ("int8_dot",),
    "1-bit": ("bit_pairs", "int8_dot"),
    "N:M": ("int8_gather",),
    "fp32 L1": ("fp32_max_add",),
    "int8 L1": ("int8_sad", "int8_max_add"),
}

NOTHING = "*No measurement is recorded yet; `make bench` prints one.*\n"

Row = Mapping[str, Any]


def contests(folder: Path) -> dict[str, dict]:
    """The recorded files by name; ValueError names a file without rows."""
    found = {}
    for file in sorted(folder.glob("*.json")):
        content = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not content.get("rows"):
            raise ValueError(f"{file} holds no rows: record it anew with kernels.bench --record")
        found[file.stem] = content
    return found


def section(content: Mapping[str, Any]) -> str:
    """All tables of one recorded file as Markdown with HTML tables, and how it was measured."""
    rows = content["rows"]
    parts = []
    kernels = list(dict.fromkeys(row["kernel"] for row in rows))
    for kernel in kernels:
        own = [row for row in rows if row["kernel"] == kernel]
        path = fastest(own)
        if len(kernels) > 1:
            parts.append(f"**`{kernel}`**")
        main = [row for row in own if row["isa"] == path and row["threads"] == 1] or own
        parts += [_beside_peers(main, content.get("peaks", {})), _notes(main)]
        parts += [_by_path(own), _by_threads(own, path)]
    parts += [_parts(content.get("parts", {})), _conditions(content)]
    return "\n\n".join(part for part in parts if part) + "\n"


def fastest(rows: Iterable[Row]) -> str:
    """The fastest path that the rows were measured on."""
    present = {row["isa"] for row in rows}
    return next((path for path in PATHS if path in present), sorted(present)[0])


def microseconds(value: float) -> str:
    """4.56 µs, 123 µs, 12.3 ms: three digits that count."""
    if value >= 10_000:
        return f"{value / 1000:,.3g} ms" if value < 999_500 else f"{value / 1000:,.0f} ms"
    return f"{value:,.0f} µs" if value >= 99.95 else f"{value:.3g} µs"


def times_faster(ratio: float) -> str:
    """0.93×, 4.56×, 123×."""
    return f"{ratio:,.0f}×" if ratio >= 99.5 else f"{ratio:.3g}×"


def rate(row: Row) -> float | None:
    """Operations in 10^9 per second, or None if the row does not count them."""
    return row["operations"] / row["ours_us"] / 1e3 if row.get("operations") else None


def limit(unit: str, isa: str, peaks: Mapping[str, float]) -> str | None:
    """Name of the peak that bounds a unit on a path; a family without code for a path runs the
    next slower one's. None where nothing is known."""
    slower = PATHS[PATHS.index(isa) :] if isa in PATHS else ()
    names = (f"{path}.{loop}" for path in slower for loop in LOOPS.get(unit, ()))
    return next((name for name in names if name in peaks), None)


def share(row: Row, peaks: Mapping[str, float]) -> float | None:
    """Fraction of the machine's measured peak that is reached, of as many cores as threads."""
    name, reached = limit(row.get("unit", ""), row["isa"], peaks), rate(row)
    return reached / (peaks[name] * row["threads"]) if name and reached else None


def _shapes(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Rows by shape, in the order they were measured."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["shape"], []).append(row)
    return found


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """HTML in a box that scrolls; cells are HTML already."""
    titles = tag("tr", *(tag("th", escape(title)) for title in head))
    lines = [tag("tr", tag("th", row[0]), *(tag("td", cell) for cell in row[1:])) for row in body]
    table = tag("table", tag("thead", titles), tag("tbody", *lines), class_="cn-contest")
    return raw(tag("div", table, class_="cn-scroll"))


def _beside_peers(rows: Sequence[Row], peaks: Mapping[str, float]) -> str:
    peers = list(dict.fromkeys(row["peer"] for row in rows))
    counted = any(rate(row) for row in rows)
    shared = any(share(row, peaks) for row in rows)
    head = ["shape", "ours", *["G/s"] * counted, *["of peak"] * shared, *peers, "max error"]
    body = []
    for shape, own in _shapes(rows).items():
        cells = [escape(shape), tag("strong", microseconds(own[0]["ours_us"]))]
        if counted:
            reached = rate(own[0])
            cells.append(f"{reached:,.0f}" if reached else "")
        if shared:
            part, bound = share(own[0], peaks), limit(own[0]["unit"], own[0]["isa"], peaks)
            cells.append(tag("span", f"{part:.0%}", title=bound) if part else "")
        by_peer = {row["peer"]: row for row in own}
        cells += [_ratio(by_peer[peer]) if peer in by_peer else "" for peer in peers]
        errors = [row["max_error"] for row in own if row["max_error"] is not None]
        cells.append(f"{max(errors):.1g}" if errors else "")
        body.append(cells)
    return _table(head, body)


def _ratio(row: Row) -> str:
    """How many times faster than the peer; the spread of the rounds on pointing at it."""
    spread = f"5 % to 95 % of the rounds: {row['ratio_p5']:.2f} to {row['ratio_p95']:.2f}"
    kind = "cn-slower" if row["ratio"] < 1 else None
    times = tag("span", times_faster(row["ratio"]) + "*" * bool(row.get("note")), class_=kind)
    return tag("span", times, tag("small", microseconds(row["peer_us"])), title=spread)


def _notes(rows: Iterable[Row]) -> str:
    """Peers that compute something else on purpose, each with the reason."""
    peers: dict[str, dict[str, None]] = {}
    for row in rows:
        if row.get("note"):
            peers.setdefault(row["note"], {})[row["peer"]] = None
    notes = [f"{', '.join(names)}: {note}" for note, names in peers.items()]
    return "\\* not the same function. " + "; ".join(notes) + "." if notes else ""


def _by_path(rows: Sequence[Row]) -> str:
    """Our time on each instruction set, and how it compares with the fastest one."""
    single = [row for row in rows if row["threads"] == 1]
    paths = [path for path in PATHS if any(row["isa"] == path for row in single)]
    if len(paths) < 2:
        return ""
    body = []
    for shape, own in _shapes(single).items():
        times = {row["isa"]: row["ours_us"] for row in own}
        best = times.get(paths[0])
        cells = [escape(shape)]
        for path in paths:
            slower = f" ({best / times[path]:.2f})" if path in times and best else ""
            cells.append(microseconds(times[path]) + slower if path in times else "")
        body.append(cells)
    caption = "By instruction set (in brackets: speed as a fraction of the first column's):"
    return f"{caption}\n\n{_table(['shape', *paths], body)}"


def _by_threads(rows: Sequence[Row], path: str) -> str:
    """Our time on several threads beside one."""
    own = [row for row in rows if row["isa"] == path]
    counts = sorted({row["threads"] for row in own})
    if len(counts) < 2:
        return ""
    body = []
    for shape, same in _shapes(own).items():
        times = {row["threads"]: row["ours_us"] for row in same}
        if len(times) < 2 or counts[0] not in times:
            continue
        cells = [escape(shape), microseconds(times[counts[0]])]
        for count in counts[1:]:
            gain = f" ({times[counts[0]] / times[count]:.2f}×)" if count in times else ""
            cells.append(microseconds(times[count]) + gain if count in times else "")
        body.append(cells)
    titles = [f"{count} thread{'s' if count > 1 else ''}" for count in counts]
    return f"By threads:\n\n{_table(['shape', *titles], body)}"


def _parts(times: Mapping[str, float]) -> str:
    """Where a network's time goes; "" if that was not measured."""
    if not times:
        return ""
    total = sum(times.values())
    body = [[escape(part), microseconds(t), f"{t / total:.0%}"] for part, t in times.items()]
    return f"Where the time goes, one thread:\n\n{_table(['part', 'time', 'share'], body)}"


def _conditions(content: Mapping[str, Any]) -> str:
    """Machine and versions, one line."""
    named = {**content.get("machine", {}), **content.get("versions", {})}
    listed = ", ".join(f"{name} {value}" for name, value in named.items())
    return f"*Measured on: {listed}.*" if listed else ""
