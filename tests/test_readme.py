"""What README, CONTRIBUTING and the templates say is so: commands, links, snippets, tables."""

import math
import re
import shutil
import tomllib
from pathlib import Path

import jupytext
import pytest
import torch
import typer
import yaml

from compactnets import seeds
from compactnets.book import notebook
from compactnets.cli import app
from compactnets.study import card as cards

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SITE_PAGE = (ROOT / "book" / "contributing.md").read_text(encoding="utf-8")
DOCUMENTS = {"README": README, "CONTRIBUTING": CONTRIBUTING, "contributing": SITE_PAGE}
COMMANDS = typer.main.get_command(app)
CODE = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def snippets(text: str, language: str) -> list[str]:
    return [code for kind, code in CODE.findall(text) if kind == language]


def commands(text: str) -> list[str]:
    """Lines of shell blocks without comments, continued lines joined, and `inline` commands."""
    blocks = "\n".join(snippets(text, "sh")).replace("\\\n", " ")
    lines = [line.split(" #")[0].strip() for line in blocks.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", CODE.sub("", text))
    return [line.removeprefix(".venv/bin/") for line in [*lines, *inline] if line]


def called(text: str, program: str) -> list[list[str]]:
    """Arguments of each call of a program, also behind && or a COMPACTNETS_ variable."""
    parts = [part.strip() for line in commands(text) for part in line.split("&&")]
    words = [part.split("#")[0].replace(".venv/bin/", "").split() for part in parts]
    words = [[w for w in one if not w.startswith("COMPACTNETS_")] for one in words]
    return [one[1:] for one in words if one[:1] == [program] and len(one) > 1]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_make_target_that_is_named_exists(name):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z]+) \?=", makefile, re.MULTILINE)) | {"SLUG"}
    calls = called(DOCUMENTS[name], "make")
    assert calls
    for words in calls:
        given = dict(word.split("=", 1) for word in words if "=" in word)
        assert {word for word in words if "=" not in word} <= targets, words
        assert given.keys() <= variables, words


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_compactnets_command_that_is_named_parses(name):
    calls = called(DOCUMENTS[name], "compactnets")
    assert calls
    for words in calls:
        assert _parses(COMMANDS, words), words


def test_a_misspelt_command_or_option_would_be_noticed():
    assert not _parses(COMMANDS, ["runs", "rebnn"])
    assert not _parses(COMMANDS, ["run", "rebnn", "--profil", "quick"])
    assert called("```sh\nmake book\n```", "make") == [["book"]]


def _parses(command, words: list[str]) -> bool:
    """Are these words a call of this command? Nothing is executed."""
    while hasattr(command, "commands"):
        if not words or words[0] not in command.commands:
            return False
        command, words = command.commands[words[0]], words[1:]
    try:
        command.make_context(command.name, list(words), resilient_parsing=False)
    except Exception:  # usage errors of click, or of the copy that typer brings
        return False
    return True


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "book/contributing.md"])
def test_links_to_files_resolve(name):
    text = CODE.sub("", (ROOT / name).read_text(encoding="utf-8"))
    links = [link.split("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    own = "https://github.com/compact-networks/compact-networks/blob/main/"
    files = [(ROOT / name).parent / link for link in links if "://" not in link]
    files += [ROOT / link.removeprefix(own) for link in links if link.startswith(own)]
    assert files and [str(file) for file in files if not file.exists()] == []


def test_paths_that_are_named_exist():
    folders = "lib|book|kernels|data|notebooks|template|tests|workflow"
    named = set(re.findall(rf"`((?:{folders})/[^`\s]*)`", README + CONTRIBUTING))
    named |= {word for text in DOCUMENTS.values() for word in re.findall(r"tests/\w+\.py", text)}
    patterns = {path for path in named if "<" in path}
    assert len(named - patterns) > 8
    assert [path for path in named - patterns if not (ROOT / path).exists()] == []


def test_the_snippet_trains_a_network_in_an_own_loop_and_deploys_it():
    (snippet,) = (code for code in snippets(README, "python") if "remember" in code)
    assert sum(bool(line.strip()) for line in snippet.splitlines()) <= 18
    generator = seeds.generator(0, "readme")
    batch = torch.randn(4, 3, 32, 32, generator=generator), torch.tensor([0, 1, 2, 3])
    small = snippet.replace("react_resnet_cifar(20)", "react_resnet_cifar(8, width=8)")
    assert small != snippet
    names = {"loader": [batch] * 2}
    with seeds.scoped(0, "init"):
        exec(compile(small, "README.md", "exec"), names)
    flips = [scale.share.sum() for _, scale in names["resilient_layers"](names["model"])]
    assert sum(flips) > 0  # remember was called, and some signs did flip
    with torch.inference_mode():
        trained, deployed = names["model"](batch[0]), names["fast"](batch[0])
    torch.testing.assert_close(deployed, trained, rtol=1e-3, atol=1e-3)
    assert not any(hasattr(m, "binarizer") for m in names["fast"].modules())


def test_other_snippets_name_what_exists():
    (recipe,) = (code for code in snippets(README, "python") if "Recipe(" in code)
    names = {"fit": lambda model, images, recipe, *, method, seed: (recipe, method)}
    from compactnets.binary import ReBNN, react_resnet_cifar

    names |= {"ReBNN": ReBNN, "react_resnet_cifar": react_resnet_cifar, "images": None}
    body = recipe.replace("import Recipe, fit", "import Recipe")
    exec(compile(body, "README.md", "exec"), names)
    assert names["run"][0].epochs == 12
    assert "make_fabric(recipe, devices=4)" in README


def test_the_method_in_contributing_keeps_its_share_and_leaves_its_argument_alone():
    (source,) = snippets(CONTRIBUTING, "python")
    names = {"__name__": "contributing"}
    exec(compile(source, "CONTRIBUTING.md", "exec"), names)
    method = names["Magnitude"](keep=0.25)
    with seeds.scoped(0, "init"):
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
    before = network[0].weight.detach().clone()
    example = torch.ones(1, 3, 8, 8)
    prepared = method.prepare(network, example)
    prepared(example).sum().backward()
    deployed = method.deploy(prepared)
    kept = deployed[0].weight != 0
    assert torch.equal(network[0].weight, before) and network[0].weight.grad is None
    assert int(kept.sum()) == 54  # a quarter of 8 * 3 * 3 * 3
    assert before.abs()[kept].min() >= before.abs()[~kept].max()
    assert torch.equal(deployed(example), prepared(example))
    for keep in (0.0, 1.5, math.nan):
        with pytest.raises(ValueError, match="keep must lie"):
            names["magnitude_mask"](before, keep)


def test_the_table_of_data_sets_follows_the_registry():
    rows = ["| set | what | license | how to get it |", "|---|---|---|---|"]
    for one in yaml.safe_load((ROOT / "data" / "datasets.yml").read_text(encoding="utf-8")):
        how = f"`make data SET={one['name']}`" if one["archive"] else "by hand"
        rows.append(f"| `{one['name']}` | {one['title']} | {one['license']} | {how} |")
    table = "\n".join(rows)
    print(table)
    assert table in README


def test_the_numbers_of_papers_and_chapters_are_those_of_the_book():
    chapters = yaml.safe_load((ROOT / "book" / "chapters.yml").read_text(encoding="utf-8"))
    papers = len(list((ROOT / "data" / "papers").glob("*.yml")))
    assert f"{papers} papers, {len(chapters)} chapters" in README
    assert f"All {papers} papers" in README and f"All {papers} papers" in SITE_PAGE


def test_citation_has_what_its_format_requires_and_agrees_with_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert all(set(author) & {"name", "family-names"} for author in citation["authors"])
    assert citation["version"] == project["version"]
    assert citation["repository-code"] == project["urls"]["Homepage"]
    assert str(citation["title"]) in README and citation["repository-code"] in README


def test_the_license_is_the_one_that_the_package_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "MIT" in str(project["license"]) and text.startswith("MIT License")
    assert "The Compact Networks authors" in text


def test_the_picture_is_small_self_contained_and_described():
    (link,) = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", README)
    picture = (ROOT / link[1]).read_text(encoding="utf-8")
    assert len(link[0]) > 80 and "<title" in picture and "<desc" in picture
    assert len(picture) < 60_000 and "href" not in picture.replace("http://www.w3.org", "")
    assert "prefers-color-scheme:dark" in picture


@pytest.fixture
def copied(tmp_path, monkeypatch) -> Path:
    """A checkout in which somebody has copied both templates."""
    for folder in ("data/papers", "notebooks/binary"):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "template" / "card.yml", tmp_path / "data" / "papers" / "example.yml")
    shutil.copy(ROOT / "template" / "page.md", tmp_path / "notebooks" / "binary" / "example.md")
    shutil.copy(ROOT / "data" / "datasets.yml", tmp_path / "data")
    monkeypatch.setenv("COMPACTNETS_HOME", str(tmp_path))
    monkeypatch.setenv("COMPACTNETS_PROFILE", "smoke")
    monkeypatch.setenv("COMPACTNETS_CACHE", str(tmp_path / "cache"))
    for name in ("BUILD", "DATA", "RECORD"):
        monkeypatch.delenv(f"COMPACTNETS_{name}", raising=False)
    return tmp_path


def test_the_template_is_a_page_for_the_pipeline_and_none_where_it_lies(copied):
    page = notebook.find("example")
    assert len(page.code_cells) >= 15 and 25 <= len(page.node.cells) <= 45
    assert page.chapter == cards.load("example").chapter
    for cell in page.code_cells:
        compile(cell.source, "template", "exec")
        assert len(cell.source.splitlines()) <= 25
    assert 'profile = "smoke"' in page.with_profile("smoke").cells[1].source
    assert not (ROOT / "template").is_relative_to(ROOT / "notebooks")


def test_the_template_has_the_ten_parts_and_answers_every_claim_of_its_card(copied):
    page = jupytext.read(copied / "notebooks" / "binary" / "example.md")
    text = "\n".join(cell.source for cell in page.cells)
    parts = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert len(parts) == 9  # and the title
    described = re.findall(r"^\| \d+\. ([^|]+) \|", CONTRIBUTING, re.MULTILINE)
    assert [name.strip() for name in described[1:]] == parts
    for claim, facts in cards.load("example").claims.items():
        verb = {"exact": "prove", "statistical": "judge", "measured": "measure"}[facts.kind]
        assert re.search(rf"study\.{verb}\(\s*\"{claim}\"", text)


def test_the_template_runs_at_smoke_as_it_was_copied(copied):
    from compactnets.study import record

    threads = torch.get_num_threads()
    names = {"__name__": "page"}
    torch.set_num_threads(1)  # rows are trained one after the other, without worker processes
    try:
        for cell in notebook.find("example").code_cells:
            exec(compile(cell.source, "template/page.md", "exec"), names)
    finally:
        torch.set_num_threads(threads)
    done = record.read(copied / "_build" / "records" / "example" / "smoke.json")
    assert [answer.claim for answer in done.answers] == ["E1", "S1", "K1"]
    assert done.answers[0].verdict == "holds" and done.answers[1].verdict == "undecided"
    assert {used.source for used in done.data} == {"embedded"}


@pytest.mark.parametrize("place", ["README.md", "CONTRIBUTING.md", "template/page.md",
                                   "template/card.yml", "book/contributing.md"])  # fmt: skip
def test_no_line_is_a_note_to_oneself(place):
    text = (ROOT / place).read_text(encoding="utf-8")
    assert not re.search(r"TODO|FIXME|XXX|lorem|/tmp\b", text)
