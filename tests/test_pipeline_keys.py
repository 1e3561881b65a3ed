"""The key of a run changes with everything the run depends on, and with nothing else."""

import subprocess
import sys
from pathlib import Path

import grimp
import pytest

from compactnets.book import keys, notebook, runs
from compactnets.book.imports import Sources
from compactnets.book.notebook import NotebookError, set_value
from pipeline_toy import ROOT, ToyBook


@pytest.fixture
def toy(tmp_path, monkeypatch):
    return ToyBook(tmp_path, monkeypatch)


def all_keys(profile="quick"):
    keys.forget()
    return {slug: keys.key(nb, profile) for slug, nb in notebook.every().items()}


def changed(before, after):
    return {slug for slug in before if before[slug] != after[slug]}


def test_editing_a_module_makes_just_the_notebooks_stale_that_import_it(toy):
    before = all_keys()
    toy.module("left", 'def left():\n    return "left 2"\n')
    assert changed(before, all_keys()) == {"left"}


def test_a_method_added_to_a_package_that_only_exports_makes_no_page_stale(toy):
    before = all_keys()
    toy.module("third", "third = 3\n")
    init = toy.root / "lib" / "toynets" / "__init__.py"
    init.write_text(init.read_text() + "from toynets.third import third\n")
    assert changed(before, all_keys()) == set()


def test_a_package_that_does_more_than_export_makes_all_its_users_stale(toy):
    before = all_keys()
    init = toy.root / "lib" / "toynets" / "__init__.py"
    init.write_text(init.read_text() + "print('hello')\n")
    assert changed(before, all_keys()) == {"left", "right"}


def test_modules_are_followed_through_modules_and_functions(toy):
    toy.module("deep", "value = 1\n")
    toy.module("left", "def left():\n    from .deep import value\n    return value\n")
    before = all_keys()
    toy.module("deep", "value = 2\n")
    assert changed(before, all_keys()) == {"left"}


def test_imports_for_type_checkers_do_not_count(toy):
    toy.module("deep", "value = 1\n")
    guarded = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .deep import value\n"
    toy.module("left", guarded + "def left():\n    return 1\n")
    before = all_keys()
    toy.module("deep", "value = 2\n")
    assert changed(before, all_keys()) == set()


def test_prose_is_not_part_of_the_key_but_code_tags_and_profile_are(toy):
    before = all_keys()
    path = toy.page("left", "from toynets import left\nprint(left(), profile)", prose="New words.")
    assert changed(before, all_keys()) == set()
    path.write_text(path.read_text().replace("print(left()", "print( left()"))
    assert changed(before, all_keys()) == {"left"}
    path.write_text(path.read_text().replace("print( left()", "print(left()"))
    path.write_text(path.read_text().replace("[parameters]", "[parameters, hide-input]"))
    assert changed(before, all_keys()) == {"left"}
    assert changed(before, all_keys("smoke")) == {"left", "right"}


def test_card_and_recorded_results_belong_to_their_own_page(toy):
    before = all_keys()
    (toy.root / "data" / "papers" / "left.yml").write_text("slug: left\n")
    with_card = all_keys()
    assert changed(before, with_card) == {"left"}
    (toy.root / "data" / "results" / "right").mkdir()
    (toy.root / "data" / "results" / "right" / "standard.json").write_text("{}")
    assert changed(with_card, all_keys()) == {"right"}


def test_a_data_set_that_appears_changes_and_disappears_is_seen(toy):
    before = all_keys()
    batch = toy.data / "cifar-10-batches-py" / "data_batch_1"
    batch.parent.mkdir()
    batch.write_bytes(b"12")
    present = all_keys()
    batch.write_bytes(b"123")
    replaced = all_keys()
    batch.unlink()
    batch.parent.rmdir()
    assert changed(before, present) == changed(present, replaced) == {"left", "right"}
    assert all_keys() == before


def test_the_reasons_name_what_changed(toy):
    keys.forget()
    left = notebook.find("left")
    old = keys.components(left, "quick")
    toy.module("left", 'def left():\n    return "left 2"\n')
    (toy.data / "sr").mkdir()
    keys.forget()
    lines = keys.differences(old, keys.components(left, "quick"))
    assert lines == ["data 0/sr is new", "module toynets.left changed"]
    assert keys.differences({"profile": "quick"}, {"profile": "smoke"}) == [
        "profile changed: quick -> smoke"
    ]
    assert runs.why(left, "quick") == ["no finished run at quick"]


def test_native_sources_count_for_pages_that_reach_the_kernels(monkeypatch):
    monkeypatch.setenv("COMPACTNETS_HOME", str(ROOT))
    sources = Sources(ROOT / "lib")
    reached = sources.reached(["from compactnets import kernels\nkernels.isa()"])
    assert any(name.startswith("compactnets.kernels") for name in reached)
    assert not any(n.startswith("compactnets.kernels") for n in sources.reached(["import torch"]))
    digest = keys._tree(ROOT / "kernels", keys.KERNEL_SOURCES)
    assert len(digest) == 64 and digest != keys._tree(ROOT / "tests", keys.KERNEL_SOURCES)


def test_nothing_is_reached_that_the_import_graph_does_not_hold():
    sources = Sources(ROOT / "lib")
    graph = grimp.build_graph("compactnets", cache_dir=None, exclude_type_checking_imports=True)
    for name, module in sources.modules.items():
        if module.is_package:
            continue
        ours = set(sources.reached([f"import {name}"]))
        wide = {name, *graph.find_upstream_modules(name)}
        for reached in list(wide):  # what a package holds counts as the package
            wide |= {m for m in graph.modules if reached.startswith(f"{m}.")}
        wide |= {m for top in list(wide) for m in graph.find_upstream_modules(top)}
        assert ours <= wide, name


def test_modules_without_facades_on_their_way_reach_what_grimp_says():
    sources = Sources(ROOT / "lib")
    graph = grimp.build_graph("compactnets", cache_dir=None, exclude_type_checking_imports=True)
    compared = 0
    for name, module in sources.modules.items():
        upstream = graph.find_upstream_modules(name)
        if module.is_package or any(sources.modules[m].is_package for m in upstream):
            continue
        ours = {m for m in sources.reached([f"import {name}"]) if not sources.modules[m].is_package}
        packages_on_the_way = set(sources.reached([f"import {name}"])) - ours
        if not packages_on_the_way:
            assert ours == upstream | {name}
            compared += 1
    assert compared > 3


def test_every_module_a_page_loads_is_reached_or_belongs_to_a_facade():
    code = "from compactnets.book import runs; from compactnets import profiles"
    listing = f"{code}\nimport sys\nprint(*[m for m in sys.modules if m.startswith('compactnets')])"
    done = subprocess.run(
        [sys.executable, "-c", listing], capture_output=True, text=True, check=True, cwd=ROOT
    )
    sources = Sources(ROOT / "lib")
    reached = set(sources.reached([code]))
    for name in done.stdout.split():
        parents = {".".join(name.split(".")[:end]) for end in range(1, name.count(".") + 2)}
        has_facade = any(p in sources.modules and sources.modules[p].is_facade for p in parents)
        assert name in reached or has_facade, name


def test_an_unknown_slug_names_its_neighbors_and_two_equal_slugs_are_refused(toy):
    with pytest.raises(NotebookError, match=r"no notebook 'lefft'.*did you mean left"):
        notebook.find("lefft")
    other = toy.root / "notebooks" / "more"
    other.mkdir()
    (other / "left.md").write_text((toy.root / "notebooks" / "toys" / "left.md").read_text())
    with pytest.raises(NotebookError, match="two notebooks are called left"):
        notebook.every()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('profile = "quick"  # ä, then "quick"', 'profile = "full"  # ä, then "quick"'),
        ("é = 'ä'; profile = 'quick'; y = 2", "é = 'ä'; profile = \"full\"; y = 2"),
        ('x = 1\nprofile: str = (\n    "quick"\n)', 'x = 1\nprofile: str = (\n    "full"\n)'),
    ],
)
def test_setting_a_parameter_leaves_the_rest_of_the_cell_alone(before, after):
    assert set_value(before, "profile", "full") == after


def test_a_page_without_a_profile_parameter_says_what_is_missing(toy):
    path = toy.page("left", "print(1)")
    path.write_text(path.read_text().replace('profile = "quick"', 'size = "quick"'))
    with pytest.raises(NotebookError, match="does not set profile"):
        notebook.find("left").with_profile("smoke")
    path.write_text(path.read_text().replace(":tags: [parameters]\n", ""))
    with pytest.raises(NotebookError, match="no code cell has the tag"):
        notebook.find("left").with_profile("smoke")


def test_prose_files_are_not_taken_for_notebooks(toy):
    Path(toy.root / "notebooks" / "toys" / "README.md").write_text("# Not a notebook\n")
    assert list(notebook.every()) == ["left", "right"]
