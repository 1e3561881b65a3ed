"""The binarizers of the bake-off, by the names that BiBench and the chapter give them."""

from dataclasses import replace

from compactnets.binary import BNN, XNOR, BiReal, DoReFa, ReAct, ReBNN, ReCU, XNORPlusPlus
from compactnets.binary.fda import FDA
from compactnets.binary.rbonn import RBONN
from compactnets.method import Method

# BiBench's eight operators, as its released code has them (arXiv:2301.11233).
OPERATORS: dict[str, Method] = {
    "BNN": BNN(),
    "XNOR-Net": XNOR(),
    "DoReFa": DoReFa(),
    "Bi-Real": BiReal(),
    "XNOR-Net++": XNORPlusPlus(),
    "ReActNet": ReAct(),
    "ReCU": ReCU(),
    "FDA-BNN": FDA.bibench(),
}
# The chapter's two other binarizers with learned shift and scale.
METHODS: dict[str, Method] = {**OPERATORS, "RBONN": RBONN(), "ReBNN": ReBNN()}


def method(name: str, seed: int) -> Method:
    """The method of that name; the seed goes to what it draws at random, if it draws.

    ValueError that lists the known names.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}: choose one of {', '.join(METHODS)}")
    found = METHODS[name]
    return replace(found, seed=seed) if hasattr(found, "seed") else found  # type: ignore[type-var]
