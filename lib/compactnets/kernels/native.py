"""Finds the compiled kernels, or says once why there are none and what to do about it.

COMPACTNETS_ISA forces a path: amx, avx512, avx2, portable (compiled) or reference (PyTorch only).
"""

import functools
import importlib
import os
import warnings
from collections.abc import Callable
from types import ModuleType

import torch  # noqa: F401  (first, so that the kernels find the threads of its OpenMP runtime)
from torch import Tensor
from torch.utils.dlpack import to_dlpack  # pyright: ignore[reportPrivateImportUsage]

REFERENCE = "reference"
_INTERFACE = 2  # the signatures this package calls; compare INTERFACE in kernels/src/module.cpp
_CURE = (
    "Install a C++20 compiler (Debian: apt install g++) and reinstall compactnets "
    "(in a checkout: pip install --no-deps -e .)"
)


def _import_native() -> tuple[ModuleType | None, str]:
    """The module, or None and the reason."""
    try:
        module = importlib.import_module("compactnets._native")
    except ImportError as error:
        return None, f"they were not built, or do not load here ({error})"
    if getattr(module, "INTERFACE", None) != _INTERFACE:
        return None, f"{module.__file__} was built from other sources"
    return module, ""


@functools.cache
def load() -> ModuleType | None:
    """compactnets._native with the forced or fastest instruction set selected; None: references.

    The first call warns if the kernels are missing. ValueError if COMPACTNETS_ISA names a path
    that this CPU or build does not have.
    """
    forced = os.environ.get("COMPACTNETS_ISA", "").strip().lower()
    if forced == REFERENCE:
        return None
    module, reason = _import_native()
    choices = [*(module.supported_isas() if module else []), REFERENCE]
    if forced and forced not in choices:
        raise ValueError(
            f"COMPACTNETS_ISA={forced!r} is not possible here: choose one of {', '.join(choices)}"
            + (f". The compiled kernels are missing: {reason}. {_CURE}" if not module else "")
        )
    if module is None:
        warnings.warn(
            f"the compiled kernels of compactnets are missing: {reason}. "
            f"The references in PyTorch run instead: equal results, much slower. {_CURE}",
            RuntimeWarning,
            stacklevel=2,
        )
    elif forced:
        module.select_isa(forced)
    return module


def isa() -> str:
    """The path in use: "amx", "avx512", "avx2", "portable" or "reference" (nothing compiled)."""
    module = load()
    return REFERENCE if module is None else module.isa()


def supported() -> list[str]:
    """Values that COMPACTNETS_ISA may take here, fastest first; "reference" is always the last."""
    module, _ = _import_native()
    return [*(module.supported_isas() if module else []), REFERENCE]


def available() -> bool:
    """Whether compiled kernels are in use."""
    return load() is not None


def bind(make: Callable[[ModuleType], Callable[..., Tensor]]) -> Callable[..., Tensor] | None:
    """make(module), an operator's compiled form, or None where nothing is compiled."""
    module = load()
    return None if module is None else make(module)


def dlpack(x: Tensor):
    """x as the compiled module takes it: the same memory."""
    return to_dlpack(x.detach() if x.requires_grad else x)


def dense(x: Tensor | None):
    """The same of x.contiguous(); None stays None."""
    if x is None:
        return None
    return dlpack(x if x.is_contiguous() else x.contiguous())
