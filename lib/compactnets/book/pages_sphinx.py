"""Sphinx extension of the book: docstrings are plain text, links are those of the repository, and
pages load nothing from outside."""

import posixpath
import re
from collections.abc import Mapping
from typing import Any

REMOTE = re.compile(r"^(?:https?:)?//")
LINK = re.compile(r"\]\((?P<path>[^\s():]+)\.md(?P<anchor>#[^\s()]*)?\)")


def plain_docstring(lines: list[str]) -> list[str]:
    """A docstring of this library as reStructuredText that says the same.

    The library writes plain text with `code` in backticks; characters that reStructuredText would
    take for markup (|w|, 2**T, name_) are escaped, indented blocks become literal blocks.
    """
    out: list[str] = []
    for index, line in enumerate(lines):
        indented = line.startswith(("    ", "\t"))
        before_indented = index > 0 and lines[index - 1].startswith(("    ", "\t"))
        if indented and not before_indented:
            out += ["", "::", ""]
        elif before_indented and not indented and line.strip():
            out.append("")
        out.append(line if indented else _escaped(line))
    return out


def _escaped(line: str) -> str:
    pieces = re.split(r"(`+[^`]+`+)", line)
    for i, piece in enumerate(pieces):
        if i % 2:
            pieces[i] = f"``{piece.strip('`')}``"
        else:
            pieces[i] = re.sub(r"([\\*|_`])", r"\\\1", piece)
    joined = "".join(pieces)
    return re.sub(r"(?<=[^\s([{\-/:'\"])(``[^`]+``)|(``[^`]+``)(?=\w)", r"\\ \g<0>\\ ", joined)


def book_links(text: str, docname: str, files: Mapping[str, str]) -> str:
    """Links between the repository's Markdown files as links between the book's pages.

    The book sets book/ and notebooks/ side by side and its notebooks are .ipynb files, so what
    opens in JupyterLab ([errata](../../book/errata.md), [ReBNN](rebnn.md)) would lead nowhere.
    text: a page's source (Markdown, or the JSON of a notebook); docname: its name in the book;
    files: file in the book of each docname. Links to anything else stay as they are.
    """
    here = posixpath.dirname(docname if docname.startswith("notebooks/") else f"book/{docname}")

    def linked(match: re.Match[str]) -> str:
        there = posixpath.normpath(posixpath.join(here, match["path"])).removeprefix("book/")
        if there not in files:
            return match[0]
        path = posixpath.relpath(files[there], posixpath.dirname(docname) or ".")
        return f"]({path}{match['anchor'] or ''})"

    return LINK.sub(linked, text)


def _read(app: Any, docname: str, source: list[str]) -> None:
    files = {name: str(app.env.doc2path(name, base=False)) for name in app.env.found_docs}
    source[0] = book_links(source[0], docname, files)


def _process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    lines[:] = plain_docstring(lines)


def _is_wanted(file: Any) -> bool:
    """False for files of another host, for live execution (thebe), and for a second MathJax.

    Sphinx adds MathJax, deferred, to the pages that have formulas; the theme adds it to all.
    """
    name = str(getattr(file, "filename", file) or "")
    attributes = getattr(file, "attributes", {})
    live = "thebe" in name.lower() or "THEBE" in str(attributes.get("body") or "")
    second = "mathjax/" in name and "defer" not in attributes
    return not (REMOTE.match(name) or live or second)


def _local_only(app: Any, page: str, template: str, context: dict, doctree: Any) -> None:
    """Drops what a page would load from elsewhere before it is written."""
    for kind in ("script_files", "css_files"):
        context[kind] = [file for file in context.get(kind) or [] if _is_wanted(file)]


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", _read)
    app.connect("autodoc-process-docstring", _process)
    app.connect("html-page-context", _local_only, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
