"""Makes executed notebooks comparable: what differs from run to run without meaning goes.

Papermill's metadata, execution times, progress bars, object addresses, random table ids and the
arbitrary cutting of printed text into messages are removed or put in order; numbers stay.
"""

import re
import sysconfig
import tempfile
from itertools import groupby
from typing import Any

from nbformat import NotebookNode

from compactnets import paths

PROGRESS = re.compile(r"\d+%\|.*\|\s*[\d.]+[kMG]?/|\d+it \[|\bit/s\b")  # a line drawn by tqdm
ADDRESS = re.compile(r"\bat 0x[0-9a-fA-F]{6,}")
CELL_FILE = re.compile(re.escape(tempfile.gettempdir()) + r"/ipykernel_\d+/\d+\.py")
STYLER_ID = re.compile(r'id="T_([0-9a-f]{5,})')
PAPERMILL_TAGS = {"papermill-error-cell-tag", "injected-parameters"}


def tidy(node: NotebookNode, source: NotebookNode) -> NotebookNode:
    """The executed notebook with the metadata of its source, and outputs in a stable form.

    `source` is what was handed to papermill; cells that papermill added are dropped.
    """
    cells = [c for c in node.cells if not PAPERMILL_TAGS & set(c.metadata.get("tags", []))]
    language = node.metadata.get("language_info")
    node.metadata = source.metadata
    if language:
        node.metadata["language_info"] = language
    for place, (cell, original) in enumerate(zip(cells, source.cells, strict=True)):
        cell["id"], cell.metadata = original["id"], original.metadata
        if cell.cell_type == "code":
            cell.outputs = [_plain_output(o, place) for o in _merged(cell.outputs)]
    node.cells = cells
    return node


def _merged(outputs: list[Any]) -> list[Any]:
    """Streams between two displays as one piece of stdout, then one of stderr, without progress."""
    result = []
    for is_stream, group in groupby(outputs, lambda output: output.output_type == "stream"):
        run = list(group)
        if not is_stream:
            result += [output for output in run if not _is_progress_widget(output)]
            continue
        for name in ("stdout", "stderr"):
            text = _without_progress("".join(o.text for o in run if o.name == name))
            if text.strip():
                result.append(NotebookNode(output_type="stream", name=name, text=text))
    return result


def _without_progress(text: str) -> str:
    """What a terminal would show in the end: overwritten and progress lines are gone."""
    lines = []
    for line in text.split("\n"):
        last = line.rstrip("\r").rpartition("\r")[2]
        if not PROGRESS.search(last):
            lines.append(last)
    return "\n".join(lines)


def _is_progress_widget(output: Any) -> bool:
    data = output.get("data", {})
    return (
        "application/vnd.jupyter.widget-view+json" in data
        or PROGRESS.search(data.get("text/plain", "")) is not None
    )


def _plain_output(output: Any, place: int) -> Any:
    output.get("metadata", {}).pop("papermill", None)
    if output.output_type == "stream":
        output.text = without_places(output.text)
    elif output.output_type == "error":
        output.evalue = without_places(output.evalue)
        output.traceback = [without_places(line) for line in output.traceback]
    for kind in ("text/plain", "text/html", "text/markdown", "image/svg+xml"):
        text = output.get("data", {}).get(kind)
        if isinstance(text, str):
            output["data"][kind] = _named_tables(without_places(text), place)
    return output


def without_places(text: str) -> str:
    """Text without memory addresses and without this machine's folders."""
    text = ADDRESS.sub("at 0x...", text)
    text = CELL_FILE.sub("<cell>", text)
    for kind in ("purelib", "platlib"):
        text = text.replace(sysconfig.get_path(kind), "site-packages")
    return text.replace(f"{paths.project_root()}/", "")


def _named_tables(html: str, place: int) -> str:
    """Random ids of pandas' styled tables become T_<cell>_<number>."""
    for number, name in enumerate(dict.fromkeys(STYLER_ID.findall(html))):
        name = name.split("_")[0]
        html = html.replace(f"T_{name}", f"T_{place}_{number}")
    return html
