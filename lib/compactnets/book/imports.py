"""Which modules of this checkout a notebook reaches through its imports.

A package whose __init__ holds nothing but a docstring and imports is a *facade*: what is taken from
it by name leads to the one module that defines the name, so that a method added to a package does
not make every page of that package stale. grimp, which sees modules and not names, cannot tell
these apart; a test checks that both agree where no facade is involved.
"""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

# An import as written: the module, and the names taken from it (None: the module as a whole).
Import = tuple[str, tuple[str, ...] | None]


@dataclass(frozen=True)
class Module:
    """One source file; its tree is parsed once."""

    name: str
    path: Path

    @property
    def is_package(self) -> bool:
        return self.path.name == "__init__.py"

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_bytes(), filename=str(self.path))

    @cached_property
    def imports(self) -> list[Import]:
        package = self.name if self.is_package else self.name.rpartition(".")[0]
        return list(_imports(self.tree, package))

    @cached_property
    def is_facade(self) -> bool:
        return self.is_package and all(map(_only_exports, self.tree.body))


class Sources:
    """All modules under lib/ of a checkout and the way from imports to them."""

    def __init__(self, lib: Path) -> None:
        self.modules = {
            _module_name(path, lib): Module(_module_name(path, lib), path)
            for path in sorted(lib.rglob("*.py"))
            if all(part.isidentifier() for part in path.relative_to(lib).with_suffix("").parts)
        }

    def reached(self, sources: Iterable[str]) -> dict[str, Module]:
        """Modules that run when these cells run, sorted; facades are left out."""
        todo = [step for source in sources for step in _imports(_parse_cell(source), "")]
        seen: set[Import] = set()
        found: dict[str, Module] = {}
        while todo:
            step = todo.pop()
            if step in seen:
                continue
            seen.add(step)
            for module in self._modules_of(step, todo):
                if module.name not in found:
                    found[module.name] = module
                    todo.extend(module.imports)
        return dict(sorted(found.items()))

    def _modules_of(self, step: Import, todo: list[Import]) -> Iterator[Module]:
        """Modules an import needs at once; what it leads to through facades goes to `todo`."""
        name, taken = step
        parts = name.split(".")
        for end in range(1, len(parts)):  # importing a.b.c runs a and a.b first
            parent = self.modules.get(".".join(parts[:end]))
            if parent is not None and not parent.is_facade:
                yield parent
        module = self.modules.get(name)
        if module is None:
            return
        if not module.is_facade:
            yield module
        for wanted in taken or ():
            if f"{name}.{wanted}" in self.modules:
                todo.append((f"{name}.{wanted}", None))
        if not module.is_facade:
            return
        origin = dict(_exports(module))
        if taken is None or "*" in taken:
            todo.extend(module.imports)
            return
        for wanted in taken:
            if wanted in origin:
                todo.append(origin[wanted])


def _exports(module: Module) -> Iterator[tuple[str, Import]]:
    """(name as seen from outside, the import that brings it) of a facade."""
    for node in module.tree.body:
        if isinstance(node, ast.ImportFrom):
            source = _absolute(node, module.name)
            for alias in node.names:
                yield alias.asname or alias.name, (source, (alias.name,))
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.asname or alias.name.split(".")[0], (alias.name, None)


def _imports(tree: ast.AST, package: str) -> Iterator[Import]:
    """Every import in the tree, also inside functions; not those for type checkers only."""
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = tuple(alias.name for alias in node.names)
            yield _absolute(node, package), names


def _absolute(node: ast.ImportFrom, package: str) -> str:
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    parts = parts[: len(parts) - (node.level - 1)]
    return ".".join([*parts, node.module] if node.module else parts)


def _only_exports(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Assign):
        return [ast.unparse(target) for target in node.targets] in (["__all__"], ["__version__"])
    return False


def _parse_cell(source: str) -> ast.Module:
    """A cell's tree; lines that only IPython understands (magics) are left out."""
    lines = [
        "pass" if line.lstrip().startswith(("%", "!")) else line for line in source.split("\n")
    ]
    try:
        return ast.parse("\n".join(lines))
    except SyntaxError:  # the run itself will show the error, with its place
        return ast.Module(body=[], type_ignores=[])


def _module_name(path: Path, lib: Path) -> str:
    parts = path.relative_to(lib).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
