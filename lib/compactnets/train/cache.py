"""Trained networks kept by what made them: same key, same network, trained once."""

import hashlib
import inspect
import json
import shutil
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compactnets import paths

# Besides what defines model and method: the code that turns them into a trained network.
TRAINING_CODE = (
    "train.fit",
    "train.recipe",
    "train.devices",
    "data.images",
    "data.augment",
    "data.patches",
    "data.resize",
    "method",
    "seeds",
)


def digest(*parts: Any) -> str:
    """sha256 over the parts' canonical JSON."""
    text = json.dumps(parts, sort_keys=True, default=repr, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def state_digest(model: nn.Module) -> str:
    """sha256 over names, shapes and bytes of parameters and buffers."""
    state = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        state.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        state.update(memoryview(flat.view(torch.uint8).numpy()))
    return state.hexdigest()


def function_digest(function: Any) -> str:
    """sha256 over what a loss computes: its name, source, bound arguments and closure.

    A callable object counts by its repr and its class's source.
    """
    if isinstance(function, partial):
        return digest(function_digest(function.func), function.args, function.keywords)
    if not inspect.isfunction(function):
        return digest(repr(function), _source(type(function)))
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    name = f"{function.__module__}.{function.__qualname__}"
    return digest(name, _source(function), cells, function.__defaults__, function.__kwdefaults__)


def _source(thing: Any) -> str:
    try:
        return inspect.getsource(thing)
    except (OSError, TypeError):  # built in, or typed at a prompt
        code = getattr(thing, "__code__", None)
        return repr((code.co_code, code.co_consts)) if code else repr(thing)


def _imported(name: str) -> set[str]:
    """Modules of this package whose objects a module holds in its namespace.

    Names in double underscores are left out: torch.compile puts modules under such names into the
    namespaces it has traced, and a key must not depend on what was compiled before.
    """
    values = [v for key, v in vars(sys.modules[name]).items() if not key.startswith("__")]
    names = {v.__name__ if inspect.ismodule(v) else getattr(v, "__module__", None) for v in values}
    return {n for n in names if isinstance(n, str) and n.startswith("compactnets.")}


def code_digest(objects: Iterable[Any]) -> str:
    """sha256 over the package's sources that define the objects (and what those import) and train.

    Modules of other packages are not read; their versions are for the caller to add.
    """
    kinds = {o if isinstance(o, type) else type(o) for o in objects}
    todo = {base.__module__ for kind in kinds for base in kind.__mro__}
    todo = {name for name in todo if name.startswith("compactnets.")}
    seen: set[str] = set()
    while todo:
        seen.add(name := todo.pop())
        todo |= _imported(name) - seen
    seen |= {f"compactnets.{name}" for name in TRAINING_CODE}
    own = {k for k in kinds if not k.__module__.startswith(("compactnets.", "torch.", "builtins"))}
    files = {name: sys.modules[name].__file__ for name in sorted(seen)}
    return digest(
        {n: Path(f).read_bytes().hex() for n, f in files.items() if f and f.endswith(".py")},
        sorted(_source(kind) for kind in own),
    )


class CheckpointCache:
    """Folder of trained networks: <key>/model.safetensors and run.json.

    Writes are atomic; two processes that want the same key wait for each other, and the second
    finds the first one's network. A damaged entry is set aside with a warning and made anew.
    """

    def __init__(self, folder: Path | None = None):
        self.folder = folder or paths.cache_dir() / "checkpoints"

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Holds the key's lock; it falls with the process, however that ends."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / f"{key}.lock"):
            yield

    def has(self, key: str) -> bool:
        """Is there a complete entry?"""
        return (self.folder / key / "run.json").exists()

    def load(self, key: str) -> tuple[dict[str, Tensor], dict] | None:
        """State and run facts of an entry, or None if there is none (or only a damaged one)."""
        entry = self.folder / key
        if not self.has(key):
            return None
        try:
            facts = json.loads((entry / "run.json").read_text(encoding="utf-8"))
            file = entry / "model.safetensors"
            if file.stat().st_size != facts["bytes"]:
                raise ValueError(f"{file.stat().st_size} bytes instead of {facts['bytes']}")
            return load_file(file), facts["run"]
        except Exception as error:
            aside = entry.with_name(f"{key}.damaged")
            shutil.rmtree(aside, ignore_errors=True)
            entry.rename(aside)
            warnings.warn(
                f"checkpoint {entry} is damaged ({error}); moved to {aside.name}, training again",
                stacklevel=2,
            )
            return None

    def store(self, key: str, state: dict[str, Tensor], run: dict) -> None:
        """Writes an entry; run must be JSON-able. run.json comes last and marks it complete."""
        entry = self.folder / key
        with paths.write_atomically(entry / "model.safetensors") as temporary:
            save_file(
                {k: v.detach().cpu().clone().contiguous() for k, v in state.items()}, temporary
            )
        facts = {"bytes": (entry / "model.safetensors").stat().st_size, "run": run}
        with paths.write_atomically(entry / "run.json") as temporary:
            temporary.write_text(json.dumps(facts, indent=1), encoding="utf-8")
