"""The book's computed pages: complete, in step with cards and records, and quiet when unchanged."""

import json
import re
from pathlib import Path

import pytest
import yaml
from bs4 import BeautifulSoup

from compactnets import paths, stats
from compactnets.book import pages, pages_api, pages_board, pages_chapters, pages_cite
from compactnets.book import pages_figures as figures
from compactnets.book import pages_kernels as kernels
from compactnets.book import pages_outline as outline
from compactnets.book.pages_sphinx import book_links, plain_docstring
from compactnets.study import card
from compactnets.study.record import Answer, Observation, Part, Provenance, Record

PROVENANCE = Provenance(
    revision=None, clean=None, python="3.11", packages={}, platform="Linux", cpu="a processor",
    gpu=None, threads=2, precision="fp32", kernels="reference",
)  # fmt: skip


def answer(claim: str, verdict: str, low: float | None = None, high: float | None = None) -> Answer:
    parts = []
    if low is not None and high is not None:
        mean = (low + high) / 2
        parts = [Part(label="a - b", n=3, mean=mean, low=low, high=high, verdict=verdict)]
    kind = "statistical" if parts else "exact"
    return Answer(
        claim=claim, kind=kind, statement="s", verdict=verdict, evidence="e", margin=0, parts=parts
    )


def record(*answers: Answer, observations: tuple[Observation, ...] = (), **parameters) -> Record:
    return Record(
        slug="rebnn", profile="quick", run_id="r", started="2026-01-01T00:00:00Z",
        wall_seconds=75, training_seconds=60, seeds=[0, 1, 2], parameters=parameters, data=[],
        test_reads=[], observations=list(observations), answers=list(answers),
        provenance=PROVENANCE,
    )  # fmt: skip


def paper(run: Record | None = None, page: str | None = None) -> outline.Paper:
    chapter = outline.chapters()[5]
    return outline.Paper(card.load("rebnn"), chapter, page, recorded=None, fresh=run)


@pytest.fixture(scope="module", autouse=True)
def nothing_recorded(tmp_path_factory):
    """The tests bring their own runs; what is committed today must not decide them."""
    empty = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "results_dir", lambda: empty)
        yield


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("book")
    pages.copy_prose(out)
    page = out / "notebooks" / "binary" / "rebnn.ipynb"
    page.parent.mkdir(parents=True)
    page.write_text("{}")
    pages.write_all(out, {"rebnn": record(answer("E1", "holds"), answer("S1", "fails", -3, -1))})
    return out


def test_every_include_of_the_prose_is_written_and_every_toc_entry_exists(built):
    prose = [f for f in built.rglob("*.md") if "_generated" not in f.parts]
    for file in prose:
        for name in re.findall(r"^```\{include\} (\S+)", file.read_text(), re.M):
            assert (file.parent / name).resolve().exists(), f"{file.name} includes {name}"
    entries = re.findall(r"file: (\S+)|root: (\S+)", (built / "_toc.yml").read_text())
    for name in (a or b for a, b in entries):
        assert (built / f"{name}.md").exists() or (built / f"{name}.ipynb").exists(), name


def test_only_notebooks_that_exist_are_in_the_table_of_contents(built):
    listed = re.findall(r"notebooks/\S+", (built / "_toc.yml").read_text())
    assert listed == ["notebooks/binary/rebnn"]


def test_the_committed_table_of_contents_is_in_step():
    committed = (paths.project_root() / "_toc.yml").read_text(encoding="utf-8")
    cure = 'python -c "from compactnets.book import pages; print(pages.committed_toc(), end=str())"'
    assert committed == pages.committed_toc(), f"run: {cure} > _toc.yml"


def test_writing_an_unchanged_book_again_touches_nothing(built):
    before = {f: f.stat().st_mtime_ns for f in built.rglob("*") if f.is_file()}
    pages.copy_prose(built)
    run = record(answer("E1", "holds"), answer("S1", "fails", -3, -1))
    pages.write_all(built, {"rebnn": run})
    assert {f: f.stat().st_mtime_ns for f in built.rglob("*") if f.is_file()} == before


def test_the_source_folder_holds_no_computed_page():
    assert not (outline.prose_dir() / "_generated").exists()
    assert not [f for f in outline.prose_dir().rglob("*") if f.stat().st_size > 2**20]


def test_a_missing_mathjax_package_is_named_with_its_cure(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, "MATHJAX_PACKAGE", "no-such-package")
    with pytest.raises(RuntimeError, match=r"no-such-package is not installed.*make book"):
        pages._copy_mathjax(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_score_board_has_a_row_for_every_paper_with_the_run_s_verdicts(built):
    html = (built / "_generated" / "scoreboard.md").read_text()
    rows = BeautifulSoup(html, "html.parser").select("tbody tr")
    assert len(rows) == 121
    status = [row["data-status"] for row in rows]
    assert status == sorted(status, reverse=True)  # written pages come first
    assert status.count("written") == sum(
        card.load(slug).status == "written" for slug in card.slugs()
    )
    (run,) = (row for row in rows if row["data-verdicts"])
    assert "ReBNN" in run.text and "75 s" in run.text
    assert run["data-verdicts"] == "holds fails"


def test_a_headline_may_say_which_observations_answer_it_and_what_it_is_a_gain_over():
    def seen(row: str, value: float, seed: int) -> Observation:
        return Observation(metric="top1", value=value, seed=seed, unit="%", labels={"row": row})

    run = record(observations=(*(seen("ours", 63.0 + s, s) for s in range(3)), seen("base", 60, 1)))
    gain = card.Observed(metric="top1", labels={"row": "ours"}, over={"row": "base"})
    assert pages_board.answer_to(gain, run) == "4 (n = 1) % top1 gained"  # of the common seed
    alone = gain.model_copy(update={"over": None})
    assert pages_board.answer_to(alone, run) == "64 ± 2.5 (n = 3) % top1"
    other = gain.model_copy(update={"labels": {"row": "theirs"}})
    assert pages_board.answer_to(other, run) is None


def test_the_obtained_figure_is_a_mean_over_seeds_and_never_a_mixture_of_rows():
    def rows(**labels):
        return tuple(
            Observation(metric="top1", value=60.0 + s, seed=s, unit="%", labels=labels)
            for s in range(3)
        )

    plain = record(observations=rows(row="(e) ReBNN"))
    assert pages_board.obtained(plain, "ReBNN") == "61 ± 2.5 (n = 3) % top1"
    assert pages_board.obtained(plain, "other") is None
    both = rows(row="(e) ReBNN", optimizer="sgd") + rows(row="(e) ReBNN", optimizer="adam")
    apart = pages_board.obtained(record(observations=both), "ReBNN")
    assert apart == "61 ± 2.5 (n = 3) % top1, sgd; 61 ± 2.5 (n = 3) % top1, adam"
    wanted = {"metric": "top1", "labels": {"optimizer": "adam"}}
    named = record(observations=both, headline=wanted)
    assert pages_board.obtained(named, "ReBNN") == "61 ± 2.5 (n = 3) % top1"
    twice = rows(row="(e) ReBNN") + rows(row="(e) ReBNN")
    assert pages_board.obtained(record(observations=twice), "ReBNN") is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(48.2, "48 s"), (720, "12 min"), (12240, "3.4 h"), (0, "0 s")]
)
def test_durations_come_in_the_unit_a_reader_would_use(seconds, text):
    assert pages_board.duration(seconds) == text


def test_a_mark_is_filled_in_the_proportions_of_the_verdicts():
    run = record(answer("E1", "holds"), answer("E2", "holds"), answer("E3", "holds"),
                 answer("S1", "fails", -3, -1))  # fmt: skip
    svg = BeautifulSoup(figures._mark(paper(run), 0, 0), "html.parser")
    heights = {r["class"][-1]: float(r["height"]) for r in svg.select("rect")}
    assert heights["cn-holds"] == pytest.approx(3 * heights["cn-fails"])
    assert heights["cn-holds"] + heights["cn-fails"] == pytest.approx(heights["cn-run"])


def test_the_interval_figure_draws_bounded_comparisons_only():
    assert figures.intervals([paper()]) is None
    assert figures.intervals([paper(record(answer("E1", "holds")))]) is None
    svg = figures.intervals([paper(record(answer("S1", "holds", 1, 3), answer("E1", "holds")))])
    assert svg.count("<circle") == 1


def test_the_picture_of_the_one_bit_product_agrees_with_itself():
    svg = figures.xnor_picture()
    ones = int(re.search(r"popcount = (\d)", svg).group(1))
    assert f"9 − 2 · {ones} = {9 - 2 * ones}" in svg
    bits = [int(b) for b in re.findall(r'class="cn-digit">([01])<', svg)]
    a, w, differ = bits[:9], bits[9:18], bits[18:]
    assert differ == [x ^ y for x, y in zip(a, w, strict=True)]
    assert sum((2 * x - 1) * (2 * y - 1) for x, y in zip(a, w, strict=True)) == 9 - 2 * ones


def test_text_of_a_card_is_shown_as_it_is():
    text = "h_t * w_i < |x| [1] `a` $b$ ~"
    assert re.sub(r"\\(.)", r"\1", pages_chapters.plain(text)) == text
    assert "\\_" in pages_chapters.plain(text)


def test_the_errata_page_lists_every_erratum_of_every_card(built):
    text = (built / "_generated" / "errata.md").read_text()
    count = sum(len(card.load(slug).errata) for slug in card.slugs())
    assert len(re.findall(r"^\d+\. ", text, re.M)) == count >= 7


def test_citation_keys_are_unique_ascii_and_the_bibtex_is_balanced(built):
    keys = [pages_cite.key(card.load(slug)) for slug in card.slugs()]
    assert len(set(keys)) == 121
    assert all(re.fullmatch(r"[a-z]+\d{4}-[a-z0-9-]+", key) for key in keys)
    text = (built / "papers.bib").read_text()
    assert text.count("@") == 121
    assert text.count("{") == text.count("}")


def test_a_cite_block_names_the_paper_and_the_page():
    block = pages_cite.cite_block(paper(page="notebooks/binary/rebnn"))
    assert "xu2023-rebnn" in block
    assert "compactnets-rebnn" in block


NOTEBOOK = """
```{code-cell} ipython3
:tags: [parameters]
profile = "quick"
```
```{code-cell} ipython3
from compactnets import stats as st, profiles
import compactnets.seeds
%matplotlib inline
```
```{code-cell} ipython3
from compactnets import stats as st, profiles
import compactnets.seeds
st.mean_interval([1.0]); profiles.pick("quick", smoke=1, quick=2, standard=3, full=4)
compactnets.seeds.derive(0, "a")
```
"""


def test_uses_are_found_through_aliases_and_lead_to_definitions():
    uses = pages_api.used_by({"toy": NOTEBOOK})
    for name in ("stats.mean_interval", "profiles.pick", "seeds.derive"):
        assert uses[f"compactnets.{name}"] == ["toy"]


def test_a_re_exported_name_leads_to_where_it_is_defined():
    inner = pages_api.Module("compactnets.a.inner", "", (("function", "f"),), {})
    outer = pages_api.Module("compactnets.a", "", (), {"f": "compactnets.a.inner.f"})
    known = {m.name: m for m in (inner, outer)}
    assert pages_api.resolve("compactnets.a.f", known) == "compactnets.a.inner.f"
    assert pages_api.resolve("compactnets.a.g", known) is None


def test_the_reference_lists_every_public_module_of_the_library(built):
    known = pages_api.modules()
    packages = {name.split(".")[1] for name, m in known.items() if m.public and "." in name}
    assert packages == set(pages_api.index_page(known)[1])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("|w| <= 1 and 2**T", r"\|w\| <= 1 and 2\*\*T"),
        ("the `code` cell", "the ``code`` cell"),
        ("name_ and *args", r"name\_ and \*args"),
    ],
)
def test_docstrings_reach_the_page_as_they_were_written(line, expected):
    assert plain_docstring([line]) == [expected]


def test_an_indented_block_of_a_docstring_stays_as_it_is():
    lines = ["Say:", "", "    a * b", "", "Done."]
    assert plain_docstring(lines) == ["Say:", "", "", "::", "", "    a * b", "", "Done."]


BOOK_FILES = {
    "errata": "errata.md",
    "kernels/one-bit": "kernels/one-bit.md",
    "notebooks/binary/rebnn": "notebooks/binary/rebnn.ipynb",
    "notebooks/binary/rbonn": "notebooks/binary/rbonn.ipynb",
}


@pytest.mark.parametrize(
    ("docname", "link", "expected"),
    [
        ("notebooks/binary/rbonn", "rebnn.md", "rebnn.ipynb"),
        ("notebooks/binary/rbonn", "../../book/errata.md#who", "../../errata.md#who"),
        ("kernels/one-bit", "../../notebooks/binary/rbonn.md", "../notebooks/binary/rbonn.ipynb"),
        ("kernels/one-bit", "../errata.md", "../errata.md"),
        ("errata", "kernels/one-bit.md", "kernels/one-bit.md"),
        ("errata", "nowhere.md", "nowhere.md"),
        ("errata", "https://example.org/rebnn.md", "https://example.org/rebnn.md"),
    ],
)
def test_a_link_of_the_repository_leads_to_the_same_place_in_the_book(docname, link, expected):
    text = book_links(f"Of [both]({link}) and f[x](y.md).", docname, BOOK_FILES)
    assert text == f"Of [both]({expected}) and f[x](y.md)."


def test_every_link_between_pages_opens_in_the_repository():
    root = paths.notebooks_dir().parent
    pages = [*root.glob("notebooks/*/*.md"), *root.glob("book/**/*.md")]
    links = [
        page.parent / target
        for page in pages
        for target in re.findall(r"\]\(([^\s():]+\.md)", page.read_text(encoding="utf-8"))
    ]
    computed = {root / "book" / "api"}
    assert links
    assert [str(f) for f in links if not f.exists() and f.parent not in computed] == []


def test_kernel_tables_come_from_files_and_an_empty_one_is_refused(tmp_path):
    assert "No measurement" in kernels.tables(tmp_path / "none")
    rows = [{"shape": "64x64", "ratio": 3.14159}, {"shape": "8x8", "ratio": 0.5, "note": "slower"}]
    (tmp_path / "conv.json").write_text(json.dumps({"machine": {"cpu": "x"}, "rows": rows}))
    text = kernels.tables(tmp_path)
    assert "| 64x64 | 3.14 |  |" in text
    assert "cpu: x" in text
    (tmp_path / "empty.json").write_text("{}")
    with pytest.raises(ValueError, match=r"empty\.json holds no table"):
        kernels.tables(tmp_path)


def test_the_worked_example_of_the_protocol_is_what_the_library_computes():
    text = (outline.prose_dir() / "protocol.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (\d) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|", text, re.M)
    a, b = ({int(r[0]): float(r[column]) for r in table} for column in (1, 2))
    difference = stats.paired_difference(a, b)
    assert [round(a[s] - b[s], 1) for s in a] == [float(r[3]) for r in table]
    assert f"{difference.mean:.2f} \\pm {difference.half_width:.2f}" in text
    assert f"[{difference.low:.2f},\\,{difference.high:.2f}]" in text
    assert stats.judge_difference(difference, 0.0) == "holds"
    assert stats.judge_difference(difference, 0.5) == "undecided"
    weaker = stats.paired_difference(a | {2: b[2] + 0.2}, b)
    assert f"[{weaker.low:.2f},\\,{weaker.high:.2f}]" in text
    assert stats.judge_difference(weaker, 0.0) == "undecided"


def test_jupyter_book_never_executes_and_loads_nothing_remote():
    config = yaml.safe_load((paths.project_root() / "_config.yml").read_text(encoding="utf-8"))
    assert config["execute"]["execute_notebooks"] == "off"
    settings = config["sphinx"]["config"]
    assert settings["mathjax_path"].startswith("mathjax/")
    assert settings["nb_ipywidgets_js"] == {}
    assert "launch_buttons" not in config
