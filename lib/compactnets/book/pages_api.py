"""The reference of the library: which modules and names there are, and which pages use them."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from compactnets.book.pages_outline import names_used

LIBRARY = Path(__file__).resolve().parents[1]
ROOT = "compactnets"
FLOORS: dict[str, tuple[str, ...]] = {
    "Ground": ("paths", "profiles", "seeds", "stats"),
    "Networks, data, costs, kernels": ("models", "data", "cost", "kernels"),
    "Methods": ("method", "binary", "quant", "sparse", "prune", "distill", "lowrank", "nas", "vit"),
    "Training and plots": ("train", "plots"),
    "Studies": ("study", "bakeoff"),
    "The book itself": ("book", "cli"),
}


@dataclass(frozen=True)
class Module:
    """A module as its source shows it, without importing it."""

    name: str  # dotted
    summary: str  # first line of its docstring
    public: tuple[tuple[str, str], ...]  # (kind, name), kind is "function" or "class"
    exports: dict[str, str]  # names it re-exports -> dotted origin


def _origin(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    """Dotted module a from-import refers to, relative dots resolved."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _module(path: Path) -> Module:
    relative = path.relative_to(LIBRARY.parent).with_suffix("")
    is_package = relative.name == "__init__"
    name = ".".join(relative.parent.parts if is_package else relative.parts)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public, exports = [], {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            public.append((kind, node.name))
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(node, name, is_package)
            exports |= {a.asname or a.name: f"{origin}.{a.name}" for a in node.names}
    summary = (ast.get_docstring(tree) or "").split("\n\n")[0].replace("\n", " ")
    return Module(name, summary, tuple(public), exports)


def modules() -> dict[str, Module]:
    """Every module of the library by dotted name, private ones left out."""
    files = sorted(LIBRARY.rglob("*.py"))
    found = (_module(f) for f in files if not f.name.startswith("_") or f.name == "__init__.py")
    return {m.name: m for m in found}


def resolve(dotted: str, known: Mapping[str, Module]) -> str | None:
    """Dotted name of the definition that a spelling such as compactnets.data.load leads to.

    Follows re-exports; attributes of a class lead to the class. None if nothing is found.
    """
    for _ in range(8):
        parts = dotted.split(".")
        for cut in range(len(parts) - 1, 0, -1):
            module = known.get(".".join(parts[:cut]))
            if module is None:
                continue
            first, rest = parts[cut], parts[cut + 1 :]
            if first in {name for _, name in module.public}:
                return f"{module.name}.{first}"
            if first not in module.exports:
                return None
            dotted = ".".join([module.exports[first], *rest])
            break
        else:
            return None
    return None


def used_by(notebooks: Mapping[str, str]) -> dict[str, list[str]]:
    """Definition -> slugs of the notebooks that use it; notebooks: slug -> MyST text."""
    known = modules()
    uses: dict[str, set[str]] = {}
    for slug, text in notebooks.items():
        for spelled in names_used(text):
            if target := resolve(spelled, known):
                uses.setdefault(target, set()).add(slug)
    return {name: sorted(slugs) for name, slugs in sorted(uses.items())}


def _entries(
    module: Module, uses: Mapping[str, list[str]], pages: Mapping[str, str]
) -> Iterator[str]:
    """reStructuredText of a module's public names, each followed by the pages that use it."""
    yield f".. currentmodule:: {module.name}\n"
    for kind, name in module.public:
        yield f".. auto{kind}:: {module.name}.{name}"
        yield "   :members:\n" if kind == "class" else ""
        slugs = [s for s in uses.get(f"{module.name}.{name}", []) if s in pages]
        if slugs:
            links = ", ".join(f":doc:`{slug} </{pages[slug]}>`" for slug in slugs)
            yield f"   *Used on:* {links}\n"


def package_page(
    package: str,
    known: Mapping[str, Module],
    uses: Mapping[str, list[str]],
    pages: Mapping[str, str],
) -> str:
    """One page of the reference: a package with all its modules, or a single module."""
    inside = [m for name, m in known.items() if name == package or name.startswith(f"{package}.")]
    top = known[package]
    lines = [f"# `{package.removeprefix(ROOT + '.')}`", "", top.summary, ""]
    for module in inside:
        if not module.public:
            continue
        if module.name != package:
            lines += [f"## `{module.name.removeprefix(ROOT + '.')}`", "", module.summary, ""]
        names = "\n".join(f"   {name}" for _, name in module.public)
        summary = (
            f".. currentmodule:: {module.name}\n\n.. autosummary::\n   :nosignatures:\n\n{names}\n"
        )
        body = "\n".join(_entries(module, uses, pages))
        lines += ["```{eval-rst}", summary, body, "```", ""]
    return "\n".join(lines)


def index_page(known: Mapping[str, Module]) -> tuple[str, list[str]]:
    """Front page of the reference and the packages it lists, floor by floor."""
    lines, listed = [], []
    named = {name for names in FLOORS.values() for name in names}
    others = sorted({m.split(".")[1] for m in known if "." in m} - named)
    for floor, names in [*FLOORS.items(), ("Further", tuple(others))]:
        rows = []
        for name in names:
            module = known.get(f"{ROOT}.{name}")
            inside = [m for m in known if m == f"{ROOT}.{name}" or m.startswith(f"{ROOT}.{name}.")]
            if module is None or not any(known[m].public for m in inside):
                continue
            listed.append(name)
            rows.append(f"| [`{name}`]({name}.md) | {module.summary} |")
        if rows:
            lines += [f"## {floor}", "", "| package | what it holds |", "|---|---|", *rows, ""]
    return "\n".join(lines), listed
