"""The command line: what it prints, and one clear line for every user error."""

import hashlib
import json
import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from compactnets.book import pipeline, resources
from compactnets.cli import app, doctor
from compactnets.study import recording
from study_toy import CARD, finished, make_home

NOTEBOOK = """---
jupytext: {text_representation: {extension: .md, format_name: myst}}
kernelspec: {name: python3, display_name: Python 3, language: python}
---
# Toy

```{code-cell} ipython3
:tags: [parameters]
profile = "quick"
```
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    home = make_home(tmp_path, monkeypatch)
    other = {"slug": "other", "short": "Other", "chapter": "sparse", "claims": {}, "tables": {}}
    text = yaml.safe_dump({**CARD, **other, "status": "planned"})
    (home / "data" / "papers" / "other.yml").write_text(text)
    text = yaml.safe_dump({**CARD, "status": "written"})
    (home / "data" / "papers" / "toy.yml").write_text(text)
    monkeypatch.setenv("COMPACTNETS_DATA", str(home / "sets"))
    monkeypatch.setenv("COMPACTNETS_CACHE", str(home / "cache"))
    return home


@pytest.fixture
def registry(home):
    """A registry of one set that is one file."""
    good = hashlib.sha256(b"pixels").hexdigest()
    entry = {
        "name": "dots",
        "title": "Dots",
        "kind": "restoration",
        "layout": "files",
        "path": "Dots",
        "items": "1 image",
        "shape": "3 x 8 x 8",
        "labels": None,
        "bytes": 6,
        "archive": None,
        "origin": "drawn by hand",
        "license": "MIT",
        "citation": "none",
        "files": {"dot.png": f"sha256:{good}"},
    }
    (home / "data" / "datasets.yml").write_text(yaml.safe_dump([entry]))
    return home


def run(*arguments: str, code: int = 0):
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    if code == 2:
        assert "Traceback" not in result.output
        assert result.stderr.startswith("error: ")
        assert len(result.stderr.splitlines()) == 1
    return result


def test_papers_lists_status_and_verdicts_of_the_largest_record(home):
    finished("standard")
    recording.promote("toy", "standard", allow_dirty=True)
    lines = run("papers").stdout.splitlines()
    assert lines[0] == "2 papers"
    assert lines[3].split() == ["other", "Other", "sparse", "planned", "–", "–"]
    assert lines[4].split() == ["toy", "Toy", "binary", "written", "standard", "3", "holds"]


def test_papers_of_one_chapter_and_as_json(home):
    (entry,) = json.loads(run("papers", "--chapter", "binary", "--json").stdout)
    assert (entry["slug"], entry["claims"], entry["profile"]) == ("toy", 3, None)


def test_show_prints_card_claims_and_recorded_runs(home):
    assert "No recorded run yet" in run("show", "toy").stdout
    finished("standard")
    recording.promote("toy", "standard", allow_dirty=True)
    out = run("show", "toy").stdout
    for words in ("A Toy Network", "Reported: Toys on ImageNet", "two and two are <four>"):
        assert words in out
    assert "Recorded at profile standard" in out
    assert "[✓ holds]" in out


def test_show_lists_what_the_released_code_does_differently(home):
    erratum = {"what": "clamp inverted", "where": "toy.py", "effect": "constant", "claim": "E1"}
    path = home / "data" / "papers" / "toy.yml"
    path.write_text(yaml.safe_dump({**CARD, "errata": [erratum]}))
    assert "- clamp inverted (toy.py): constant" in run("show", "toy").stdout


def test_record_moves_a_finished_run_into_the_book(home):
    finished("standard")
    assert "no git revision" in run("record", "toy", code=2).stderr
    out = run("record", "toy", "--profile", "standard", "--allow-dirty").stdout
    assert out.startswith("recorded run ")
    assert (home / "data" / "results" / "toy" / "standard.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "toyy"], "no paper 'toyy'"),
        (["papers", "--chapter", "binery"], "no chapter 'binery': choose binary"),
        (["run", "toyy"], "no paper 'toyy'"),
        (["run", "toy", "--profile", "huge"], "unknown profile 'huge'"),
        (["run", "other"], "other has no notebook yet"),
        (["run"], "say which papers to run, or --all"),
        (["run", "toy", "--all"], "one of the two"),
        (["record", "toy"], "`compactnets run toy --profile standard` makes one"),
        (["record", "toy", "--from", "nowhere.json"], "no record nowhere.json"),
        (["record", "toy", "--profile", "smoke"], "smoke run is a test"),
    ],
)
def test_a_user_error_is_one_line_that_names_the_thing_and_the_cure(home, arguments, words):
    assert words in run(*arguments, code=2).stderr


def test_debug_shows_where_an_error_comes_from(home):
    result = CliRunner().invoke(app, ["--debug", "show", "toyy"])
    assert "no paper 'toyy'" in str(result.exception)
    assert result.exc_info[2] is not None
    assert result.exit_code == 1


def test_a_defect_of_ours_is_not_dressed_up_as_a_user_error(home, monkeypatch):
    monkeypatch.setattr(recording, "promote", lambda *_, **__: {}["missing"])
    result = CliRunner().invoke(app, ["record", "toy"])
    assert isinstance(result.exception, KeyError)


def test_outside_a_checkout_the_cure_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("COMPACTNETS_HOME", str(tmp_path))
    assert "set COMPACTNETS_HOME" in run("papers", code=2).stderr


def test_run_hands_everything_to_the_pipeline_and_its_status_back(home, monkeypatch):
    given = {}
    monkeypatch.setattr(pipeline, "run", lambda *a, **k: given.update(a=a, **k) or [])
    monkeypatch.setattr(pipeline, "finish", lambda outcomes: 1)
    run("run", "toy", "--profile", "smoke", "--force", "--cores", "3", code=1)
    assert given == {
        "a": (["toy"], "smoke"),
        "force": True,
        "executor": "local",
        "cores": 3,
        "without_gpu": False,
    }


def test_full_without_a_gpu_is_refused_with_the_time_it_would_take(home, monkeypatch):
    folder = home / "notebooks" / "binary"
    folder.mkdir(parents=True)
    (folder / "toy.md").write_text(NOTEBOOK)
    monkeypatch.setattr(resources, "gpus", lambda: 0)
    monkeypatch.setattr(pipeline.keys, "key", lambda *_: "k" * 16)
    said = run("run", "toy", "--profile", "full", code=2).stderr
    assert "wants a GPU and this machine has none" in said
    assert "24 h on a GPU" in said
    assert "without-gpu" in said


def test_data_list_find_and_verify(registry):
    assert "–" in run("data", "list").stdout
    missing = run("data", "find", "dots", code=1)
    assert "drawn by hand" in missing.stderr
    folder = registry / "sets" / "Dots"
    folder.mkdir(parents=True)
    (folder / "dot.png").write_bytes(b"pixels")
    assert run("data", "find", "dots").stdout.strip() == str(folder)
    assert "dots: 1 sums agree" in run("data", "verify").stdout


def test_a_damaged_file_is_named_and_left_alone(registry):
    folder = registry / "sets" / "Dots"
    folder.mkdir(parents=True)
    (folder / "dot.png").write_bytes(b"pixelz")
    result = CliRunner().invoke(app, ["data", "verify", "dots"])
    assert result.exit_code == 2
    assert "DAMAGED" in result.stderr
    assert "dot.png" in result.stderr
    assert (folder / "dot.png").read_bytes() == b"pixelz"


def test_data_commands_name_unknown_sets_and_sets_without_an_address(registry):
    assert "did you mean dots" in run("data", "find", "dotts", code=2).stderr
    assert "did you mean dots" in run("data", "verify", "dotts", code=2).stderr
    assert "did you mean dots" in run("data", "fetch", "dotts", code=2).stderr
    assert "place it by hand" in run("data", "fetch", "dots", code=2).stderr


def test_doctor_finds_this_machine_fit_and_says_what_is_missing(registry):
    result = CliRunner().invoke(app, ["doctor"])
    lines = result.stdout.splitlines()
    assert any(line.startswith("ok    Python") for line in lines)
    assert any("note  data" in line and "drawn images" in line for line in lines)
    assert any("note  checkout   no git" in line for line in lines)
    assert any("2 paper cards fit their schema" in line for line in lines)
    assert lines[-1].startswith("0 broken")
    assert result.exit_code == 0


def test_doctor_ends_badly_if_something_is_broken_and_examines_the_rest(registry):
    (registry / "data" / "papers" / "toy.yml").write_text("slug: toy")
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "FAIL  checkout   CardError" in result.stdout
    assert "disk" in result.stdout


def test_doctor_notes_a_missing_compiler_and_a_full_disk(registry, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    assert next(doctor.check_compiler())[0] == "yellow"
    usage = doctor.shutil.disk_usage(registry)._replace(free=2**20)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    assert {state for state, _ in doctor.check_disk()} == {"red"}


def test_reading_cards_and_records_does_not_wait_for_torch():
    code = "import sys, compactnets.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
