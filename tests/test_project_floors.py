"""Lower floors of the library never import higher ones."""

import grimp
import pytest

FLOORS = [  # from the lowest
    {"paths", "profiles", "seeds", "stats"},
    {"data", "models", "cost", "kernels", "method", "cells"},
    {
        "binary",
        "quant",
        "sparse",
        "prune",
        "distill",
        "nas",
        "vit",
        "lowrank",
        "sr",
        "detect",
        "gan",
    },
    {"train", "plots"},
    {"study", "bakeoff"},
    {"book"},
    {"cli"},
]


@pytest.fixture(scope="module")
def graph():
    return grimp.build_graph("compactnets", cache_dir=None, exclude_type_checking_imports=True)


def floor_of(module: str) -> int:
    part = module.split(".")[1]
    floors = [number for number, parts in enumerate(FLOORS) if part in parts]
    assert floors, f"compactnets.{part} stands on no floor: give it one in {__file__}"
    return floors[0]


def test_no_module_imports_one_of_a_higher_floor(graph):
    wrong = [
        f"{importer} (floor {floor_of(importer)}) imports {imported} (floor {floor_of(imported)})"
        for importer in sorted(graph.modules - {"compactnets"})
        for imported in sorted(graph.find_modules_directly_imported_by(importer))
        if imported != "compactnets" and floor_of(imported) > floor_of(importer)
    ]
    assert not wrong, "\n".join(wrong)


def test_methods_do_not_import_the_book_or_the_study(graph):
    for module in graph.modules - {"compactnets"}:
        if floor_of(module) <= 3:
            upstream = graph.find_upstream_modules(module)
            assert not any(
                m.startswith(("compactnets.book", "compactnets.study")) for m in upstream
            )


def test_modules_do_not_import_each_other_in_a_circle(graph):
    for module in graph.modules:
        assert module not in graph.find_upstream_modules(module), module
