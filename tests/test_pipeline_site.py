"""From notebooks to the site: a failing page stops no other, Jupyter Book executes nothing."""

import json
import shutil

import nbformat
import pytest

from compactnets.book import notebook, pipeline, render, report, runs, site
from compactnets.book.execute import execute
from compactnets.book.site import SiteError
from compactnets.book.verify import problems
from pipeline_toy import ROOT, ToyBook, add_book, write_record

COUNTED = "from pathlib import Path\nn = Path('../../count').open('a').write('x')\nprint('six', 6)"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A book of one good and one failing page, built once; its folder, exit status and words."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        toy = ToyBook(tmp_path_factory.mktemp("book"), monkeypatch)
        add_book(toy)
        toy.page("left", COUNTED, write_record("left"))
        toy.page("right", "print('so far')", "raise ValueError('out of `paper`')", "print('never')")
        said: list[str] = []
        monkeypatch.setattr(pipeline, "say", said.append)
        status = pipeline.build(profile="smoke")
        yield toy, status, "\n".join(said)


def page(toy, slug):
    return (toy.build / "html" / "notebooks" / "toys" / f"{slug}.html").read_text()


def test_a_failing_notebook_stops_no_other_and_ends_in_a_table(built):
    _, status, said = built
    assert status == 1
    assert "1 of 2 notebooks failed" in said
    assert "right     smoke    3     ValueError: out of `paper`" in said
    assert "failed.ipynb" in said


def test_the_failing_page_stays_in_the_book_and_says_so(built):
    toy, _, _ = built
    assert "This page did not finish" in page(toy, "right")
    assert "so far" in page(toy, "right") and "out of `paper`" in page(toy, "right")
    assert "This page did not finish" not in page(toy, "left") and "six 6" in page(toy, "left")
    assert "failed: <code" in (toy.build / "html" / "build-report.html").read_text()


def test_jupyter_book_executes_nothing(built):
    toy, _, _ = built
    assert (toy.root / "count").read_text() == "x"


def test_the_executed_notebook_and_the_record_can_be_taken_from_the_page(built):
    toy, _, _ = built
    downloads = {p.name: p for p in (toy.build / "html" / "_downloads").rglob("*") if p.is_file()}
    assert "_downloads/" in page(toy, "left")
    assert "six 6" in downloads["left.ipynb"].read_text()
    assert json.loads(downloads["left.record.json"].read_text())["slug"] == "left"


def test_the_report_tells_time_and_memory(built):
    toy, _, _ = built
    found = json.loads((toy.build / "report.json").read_text())
    left, right = found["notebooks"]
    assert (left["status"], right["status"]) == ("fresh", "failed")
    assert left["report"]["wall_seconds"] > 0 and left["report"]["peak_memory_mb"] > 10
    assert found["all_seconds"] >= found["run_seconds"] > 0


def test_an_unchanged_book_is_not_built_again(built, monkeypatch):
    monkeypatch.setattr(site, "assemble", lambda profile: pytest.fail("assembled for nothing"))
    assert site.build("smoke") is False


def test_new_prose_reaches_the_page_without_a_run(built):
    toy, _, _ = built
    path = toy.root / "notebooks" / "toys" / "left.md"
    old = path.read_text()
    path.write_text(old.replace("Some prose.", "Better prose."))
    assert all(job.is_done for job in pipeline.plan(["left"], "smoke"))
    site.assemble("smoke")
    text = (toy.build / "book" / "notebooks" / "toys" / "left.ipynb").read_text()
    assert "Better prose." in text and "six 6" in text
    path.write_text(old)
    site.assemble("smoke")


def test_files_that_do_not_change_keep_their_times(built):
    toy, _, _ = built
    before = {p: p.stat().st_mtime_ns for p in (toy.build / "book").rglob("*") if p.is_file()}
    site.assemble("smoke")
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_if_sphinx_fails_the_last_site_stays(built, monkeypatch):
    toy, _, _ = built
    before = page(toy, "left")
    (toy.root / "book" / "index.md").write_text("# New\n")
    monkeypatch.setattr(site, "JUPYTER_BOOK", "raise SystemExit('no room for this')")
    with pytest.raises(SiteError, match=r"no room for this(.|\n)*site\.log"):
        site.build("smoke")
    assert page(toy, "left") == before
    (toy.root / "book" / "index.md").write_text("# About index\n")


def test_settings_that_let_jupyter_book_execute_are_refused(tmp_path):
    for text in ("execute: {execute_notebooks: cache}", "title: No word on it"):
        (tmp_path / "_config.yml").write_text(text)
        with pytest.raises(SiteError, match='has to be "off"'):
            site.check_config(tmp_path / "_config.yml")


def test_a_page_shows_the_run_of_its_present_state_and_profile(tmp_path, monkeypatch):
    toy = ToyBook(tmp_path, monkeypatch)
    execute("left", "quick")
    left = notebook.find("left")
    shown = render.render(left, "smoke", tmp_path / "book")  # only quick has been run
    assert isinstance(shown, runs.Report) and shown.profile == "quick"
    out = tmp_path / "book" / "notebooks" / "toys" / "left.ipynb"
    assert "left 1 quick" in out.read_text()
    node = nbformat.read(out, as_version=4)
    nbformat.validate(node)
    assert next(c for c in node.cells if c.cell_type == "code").source.startswith("profile =")

    toy.module("left", "def left():\n    return 'left 2'\n")
    pipeline.plan()
    assert render.render(notebook.find("left"), "quick", tmp_path / "book") is None
    assert "Not run yet" in out.read_text() and "left 1" not in out.read_text()


def test_the_report_page_counts_and_lists_every_state():
    done = runs.Report("a", "quick", "0" * 20, "2026", 12.4, 1536, 9, 2, {})
    failed = runs.Failure("b", "quick", "1" * 20, "2026", 3.0, 4, "x = 1", "KeyError", "'x'")
    text = report.report_page({"a": done, "b": failed, "c": None})
    assert "1 of 3 pages finished, 1 failed; 12 s of run time" in text
    assert "| a | quick | finished | 12 | 1.5 |" in text
    assert "failed: `KeyError` in code cell 4" in text and "| c | | not run |" in text
    assert "No notebook" in report.report_page({})


def test_a_notebook_that_is_gone_leaves_the_book(built):
    toy, _, _ = built
    path = toy.root / "notebooks" / "toys" / "right.md"
    kept = toy.root / "right.md"
    shutil.move(path, kept)
    site.assemble("smoke")
    assert not (toy.build / "book" / "notebooks" / "toys" / "right.ipynb").exists()
    shutil.move(kept, path)


def test_a_page_on_drawn_data_beside_real_data_is_a_problem(tmp_path, monkeypatch):
    toy = ToyBook(tmp_path, monkeypatch)
    shutil.copyfile(ROOT / "data" / "datasets.yml", toy.root / "data" / "datasets.yml")

    def finish(slug, *sources):
        job = next(job for job in pipeline.plan([slug], "quick"))
        folder = runs.folder(slug, "quick", job.key)
        done = runs.Report(slug, "quick", job.key, "2026", 1.0, 1.0, 2, 1, {})
        runs.write(done, folder / "report.json")
        uses = [{"name": name, "source": source} for name, source in sources]
        (folder / "record.json").write_text(json.dumps({"data": uses}))

    assert problems("quick") == [
        "left: has not been run at profile quick",
        "right: has not been run at profile quick",
    ]
    finish("left", ("shapes32", "embedded"))
    finish("right", ("shapes32", "embedded"), ("cifar10", "files"))
    assert problems("quick") == []
    (toy.data / "cifar-10-batches-py").mkdir()
    pipeline.plan()
    finish("left", ("shapes32", "embedded"))
    finish("right", ("shapes32", "embedded"), ("cifar10", "files"))
    (problem,) = problems("quick")
    assert problem.startswith("left: ran on shapes32 although cifar10 is in")
