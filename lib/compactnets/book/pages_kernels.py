"""Tables of measured kernels, read from committed benchmark files."""

import json
from pathlib import Path
from typing import Any


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3g}"
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


def _context(content: Any) -> str:
    """Everything else the file says of machine and conditions, as one line."""
    if not isinstance(content, dict):
        return ""
    flat = {
        k: v
        for k, v in content.items()
        if isinstance(v, str | int | float) and k not in ("title", "caption")
    }
    machine = content.get("machine")
    if isinstance(machine, dict):
        flat |= {k: v for k, v in machine.items() if isinstance(v, str | int | float)}
    return "; ".join(f"{k.replace('_', ' ')}: {_text(v)}" for k, v in flat.items())


def table(path: Path) -> str:
    """One benchmark file as a Markdown section; ValueError if it holds no rows."""
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = _rows(content)
    if not rows:
        raise ValueError(f"{path} holds no table: expected a list of rows or a key 'rows'")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = "| " + " | ".join(c.replace("_", " ") for c in columns) + " |"
    rule = "|" + "---|" * len(columns)
    body = ["| " + " | ".join(_text(row.get(c, "")) for c in columns) + " |" for row in rows]
    title = content.get("title") if isinstance(content, dict) else None
    lines = [f"### {title or path.stem.replace('_', ' ').replace('-', ' ')}", ""]
    lines += [head, rule, *body, "", _context(content), ""]
    return "\n".join(lines)


def tables(folder: Path) -> str:
    """All benchmark files of a folder; a sentence if nothing has been recorded."""
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    if not files:
        return "*No kernel measurement is recorded yet; `make bench` prints one.*\n"
    return "\n".join(table(file) for file in files) + "\n"
