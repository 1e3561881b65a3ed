"""Tables of measured kernels and of the training loop, read from committed benchmark files."""

import json
import re
from pathlib import Path
from typing import Any


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value).replace("|", "\\|")


def _rows(content: Any) -> list[dict]:
    """The list of flat rows in a benchmark file, whatever key it stands under."""
    if isinstance(content, list):
        return [row for row in content if isinstance(row, dict)]
    if isinstance(content, dict):
        for name in ("rows", "results", "measurements", "shapes"):
            if isinstance(content.get(name), list):
                return _rows(content[name])
    return []


def _conditions(content: Any, rows: list[dict]) -> dict[str, Any]:
    """What holds for the whole file: its own scalar entries, and columns with one value only."""
    whole = content if isinstance(content, dict) else {}
    machine = whole.get("machine")
    found = {**whole, **(machine if isinstance(machine, dict) else {})}
    for name, inner in whole.items():  # e.g. difference: {mean, low, high}
        if isinstance(inner, dict) and name != "machine":
            found |= {f"{name} {key}": value for key, value in inner.items()}
    found = {k: v for k, v in found.items() if isinstance(v, str | int | float)}
    if len(rows) > 1:
        first = rows[0]
        found |= {k: first[k] for k in first if all(row.get(k) == first[k] for row in rows)}
    return {k: v for k, v in found.items() if k not in ("title", "caption")}


def _name(column: str) -> str:
    """Heading of a column: ours_us -> ours, µs."""
    return re.sub(r"_us$", ", µs", column).replace("_", " ")


def table(path: Path) -> str:
    """One benchmark file as a Markdown section; ValueError if it holds no rows."""
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = _rows(content)
    if not rows:
        raise ValueError(f"{path} holds no table: expected a list of rows or a key 'rows'")
    conditions = _conditions(content, rows)
    columns = [k for k in dict.fromkeys(key for row in rows for key in row) if k not in conditions]
    lines = [
        f"### {_title(content, path)}",
        "",
        "| " + " | ".join(map(_name, columns)) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(_text(row.get(c, "")) for c in columns) + " |" for row in rows),
        "",
        "; ".join(f"{_name(k)}: {_text(v)}" for k, v in conditions.items()),
        "",
    ]
    return "\n".join(lines)


def _title(content: Any, path: Path) -> str:
    given = content.get("title") if isinstance(content, dict) else None
    return given or path.stem.replace("_", " ").replace("-", " ")


def tables(folder: Path) -> str:
    """All benchmark files of a folder; a sentence if nothing has been recorded."""
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not files:
        return "*No measurement is recorded yet; `make bench` prints one.*\n"
    return "\n".join(table(file) for file in files) + "\n"
