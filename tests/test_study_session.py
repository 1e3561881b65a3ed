"""A Study on a toy card: what it shows, what it refuses, what it writes."""

import json
import subprocess
from dataclasses import dataclass

import pytest
import torch
import yaml

from compactnets import data, study
from compactnets.study import ClaimError, ClaimFailed, Comparison, Study, record
from study_toy import CARD, Images, answer_all, finished, make_home, observe_accuracies


@pytest.fixture
def home(tmp_path, monkeypatch):
    return make_home(tmp_path, monkeypatch)


@pytest.fixture
def toy(home):
    return Study("toy", profile="quick", seeds=3)


def test_a_whole_session_writes_a_record_that_reads_back(toy, home, capsys):
    images = Images()
    assert toy.use(images) is images
    toy.settings(epochs=3, widths=[8, 16])
    data.log_test_read(Images(split="test"), "final accuracy")
    answer_all(toy)
    toy.finish()
    found = record.read(home / "_build" / "records" / "toy" / "quick.json")
    assert found == toy.record
    assert [(a.claim, a.verdict) for a in found.answers] == [
        ("E1", "holds"),
        ("S1", "holds"),
        ("K1", "holds"),
    ]
    assert found.seeds == [0, 1, 2]
    assert found.parameters == {"epochs": 3, "widths": [8, 16]}
    assert found.data[0].sha256 == images.fingerprint
    assert [(r.items, r.purpose) for r in found.test_reads] == [(128, "final accuracy")]
    assert len(found.observations) == 6
    assert found.wall_seconds > 0
    assert "[✓ holds]" in capsys.readouterr().out


def test_the_pipeline_says_where_the_record_goes(toy, tmp_path, monkeypatch):
    target = tmp_path / "elsewhere" / "record.json"
    monkeypatch.setenv("COMPACTNETS_RECORD", str(target))
    monkeypatch.setenv("COMPACTNETS_RUN_KEY", "k" * 8)
    answer_all(toy)
    toy.finish()
    assert record.read(target).slug == "toy"


def test_the_run_key_is_kept(home, monkeypatch):
    monkeypatch.setenv("COMPACTNETS_RUN_KEY", "abc123")
    toy = Study("toy", profile="smoke")
    answer_all(toy)
    toy.finish()
    assert toy.record.provenance.key == "abc123"


def test_an_exact_claim_that_fails_is_noted_and_stops_the_notebook(toy, capsys):
    with pytest.raises(ClaimFailed, match=r"toy E1 does not hold: two and two.*2 \+ 2 is 5"):
        toy.prove("E1", False, "2 + 2 is 5")
    assert toy.answer("E1").verdict == "fails"
    assert "[✗ fails] E1" in capsys.readouterr().out


def test_named_checks_say_which_of_them_failed(toy):
    with pytest.raises(ClaimFailed, match=r"failed: layer 2"):
        toy.prove("E1", {"layer 1": True, "layer 2": False}, "relative error 1e-7")
    assert toy.answer("E1").evidence == "relative error 1e-7 (failed: layer 2)"


def test_a_claim_proved_in_two_cells_keeps_both(toy):
    toy.prove("E1", True, "by counting", part="fingers")
    toy.prove("E1", True, "by summing", part="abacus")
    assert toy.answer("E1").evidence == "fingers: by counting; abacus: by summing"


def test_a_failed_part_is_not_washed_away_by_a_later_one(toy):
    toy.measure("K1", False, "0.8 times", part="batch 64")
    toy.measure("K1", True, "3.0 times", part="batch 1")
    assert toy.answer("K1").verdict == "fails"


@pytest.mark.parametrize("ok", ["yes", 1, None, torch.tensor(True), {"a": 1.0}])
def test_truth_must_be_a_truth_value(toy, ok):
    with pytest.raises(TypeError, match="must be True or False"):
        toy.prove("E1", ok, "")


def test_no_check_at_all_proves_nothing(toy):
    with pytest.raises(ValueError, match="no check given"):
        toy.prove("E1", {}, "")


@pytest.mark.parametrize(
    ("call", "cure"),
    [
        (lambda toy: toy.prove("S1", True, ""), "statistical, not exact.*study.judge"),
        (lambda toy: toy.judge("E1", {0: 1.0}, {0: 0.0}), "exact, not statistical.*study.prove"),
        (lambda toy: toy.measure("E1", True, ""), "exact, not measured.*study.prove"),
        (lambda toy: toy.judge("K1", {0: 1.0}, {0: 0.0}), "measured.*study.measure"),
        (lambda toy: toy.prove("E11", True, ""), "no claim 'E11': did you mean E1"),
        (lambda toy: toy.untested("Z9", "why"), "no claim 'Z9': it has E1, S1, K1"),
    ],
)
def test_a_claim_is_answered_in_its_own_way_and_by_its_own_name(toy, call, cure):
    with pytest.raises(ClaimError, match=cure):
        call(toy)


def test_a_statistical_claim_is_judged_by_its_margin(toy, capsys):
    observe_accuracies(toy, gain=2.0)
    toy.judge(
        "S1", toy.values("top1", method="Toy"), toy.values("top1", method="Base"), unit="points"
    )
    answer = toy.answer("S1")
    (part,) = answer.parts
    assert (answer.verdict, answer.margin, part.n) == ("holds", 0.5, 3)
    # differences 2.0, 2.1, 2.2: mean 2.1, half-width 4.303 * 0.1 / sqrt(3)
    assert part.mean == pytest.approx(2.1)
    assert part.high - part.mean == pytest.approx(0.24841, abs=1e-4)
    assert "+2.1 points, 95 % interval [+1.85, +2.35], n = 3, margin 0.5" in answer.evidence
    assert "[+1.85, +2.35]" in capsys.readouterr().out


def test_a_margin_inside_the_interval_is_undecided_and_says_why(toy):
    observe_accuracies(toy, gain=0.5)
    toy.judge("S1", toy.values("top1", method="Toy"), toy.values("top1", method="Base"))
    assert toy.answer("S1").verdict == "undecided"
    assert "contains the margin; at this spread about" in toy.answer("S1").evidence


def test_one_seed_is_undecided_and_says_why(toy):
    toy.judge("S1", {0: 100.0}, {0: 0.0})
    answer = toy.answer("S1")
    assert (answer.verdict, answer.parts[0].low) == ("undecided", None)
    assert "one seed" in answer.evidence


def test_parts_are_judged_together_and_all_must_hold(toy):
    a, b, c = {0: 3.0, 1: 3.1}, {0: 0.0, 1: 0.1}, {0: 9.0, 1: 9.1}
    toy.judge("S1", Comparison("a − b", a, b), Comparison("c − a", c, a))
    assert toy.answer("S1").verdict == "holds"
    toy.judge("S1", Comparison("a − c", a, c))
    assert toy.answer("S1").verdict == "fails"
    assert [part.label for part in toy.answer("S1").parts] == ["a − b", "c − a", "a − c"]


def test_values_can_be_held_against_a_fixed_number(toy):
    toy.judge("S1", {0: 2.0, 1: 2.1, 2: 2.2}, 1.0, label="ratio − 1")
    assert toy.answer("S1").parts[0].mean == pytest.approx(1.1)


def test_unpaired_seeds_are_refused_and_the_comparison_named(toy):
    with pytest.raises(ValueError, match=r"comparison 'x': seeds differ: \[0, 1\] and \[0, 2\]"):
        toy.judge("S1", {0: 1.0, 1: 1.0}, {0: 1.0, 2: 1.0}, label="x")
    with pytest.raises(KeyError):
        toy.answer("S1")


def test_two_comparisons_need_two_labels(toy):
    one = Comparison("x", {0: 1.0}, {0: 0.0})
    with pytest.raises(ValueError, match="own label"):
        toy.judge("S1", one, one)


def test_judge_takes_values_or_comparisons_but_not_both(toy):
    with pytest.raises(TypeError, match="Comparison objects only"):
        toy.judge("S1", Comparison("x", {0: 1.0}, {0: 0.0}), {0: 1.0})
    with pytest.raises(TypeError, match="Comparison objects only"):
        toy.judge("S1", {0: 1.0})


def test_finish_lists_what_was_not_answered_and_writes_nothing(toy, home):
    toy.prove("E1", True, "4")
    with pytest.raises(study.UnansweredClaims, match=r"no verdict on S1, K1.*study.untested"):
        toy.finish()
    assert not (home / "_build").exists()


def test_a_claim_may_be_left_untested_with_a_reason(toy):
    answer_all(toy)
    toy.forget("K1")
    toy.untested("K1", "no kernel on this machine")
    toy.finish()
    assert toy.record.answers[2].verdict == "not tested"
    assert toy.record.answers[2].evidence == "no kernel on this machine"
    with pytest.raises(ValueError, match="say why"):
        toy.untested("K1", " ")


def test_untested_does_not_hide_a_verdict(toy):
    toy.measure("K1", False, "0.5 times")
    toy.untested("K1", "better not look")
    assert toy.answer("K1").verdict == "fails"


def test_training_time_counts_each_network_once_even_from_the_cache(toy):
    @dataclass
    class Run:
        key: str
        seconds: float
        cached: bool = False

    run = Run("k1", 10.0)
    assert toy.trained(run, "Base", seed=0) is run
    toy.trained(Run("k1", 10.0, cached=True), "Base", seed=0)
    toy.trained(Run("k2", 5.0, cached=True), "Toy", seed=0)
    answer_all(toy)
    toy.finish()
    assert toy.record.training_seconds == 15.0
    assert [(r.label, r.cached) for r in toy.record.runs] == [("Base", False), ("Toy", True)]


def test_a_study_starts_with_an_empty_log_of_test_reads(home):
    data.log_test_read(Images(split="test"), "an earlier notebook's")
    toy = Study("toy", profile="smoke")
    answer_all(toy)
    toy.finish()
    assert toy.record.test_reads == []


def test_the_profile_says_how_many_seeds_unless_the_notebook_does(home):
    assert Study("toy", profile="smoke").seeds == (0,)
    assert Study("toy", profile="standard").seeds == (0, 1, 2)
    assert Study("toy", profile="smoke", seeds=[4, 7]).seeds == (4, 7)
    with pytest.raises(ValueError, match="different"):
        Study("toy", profile="smoke", seeds=[1, 1])
    with pytest.raises(ValueError, match="at least one"):
        Study("toy", profile="smoke", seeds=0)


def test_pick_takes_the_value_of_the_profile(toy):
    assert toy.pick(smoke=1, quick=2, standard=3, full=4) == 2


def test_unknown_slug_and_profile_are_clear_errors(home):
    with pytest.raises(study.CardError, match=r"no paper 'toyy'.*did you mean toy"):
        Study("toyy")
    with pytest.raises(ValueError, match="unknown profile 'huge'"):
        Study("toy", profile="huge")


def test_git_state_is_the_revision_and_whether_tracked_files_changed(home):
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-C", str(home)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "data"], check=True)
    subprocess.run([*git, "commit", "-qm", "toy"], check=True)

    def state() -> tuple[str | None, bool | None]:
        toy = Study("toy", profile="smoke")
        answer_all(toy)
        toy.finish()
        return toy.record.provenance.revision, toy.record.provenance.clean

    (home / "untracked.txt").write_text("does not count")
    revision, clean = state()
    assert len(revision) == 40
    assert clean is True
    (home / "data" / "papers" / "toy.yml").write_text(yaml.safe_dump({**CARD, "tier": 2}))
    assert state() == (revision, False)


def test_without_git_the_revision_is_unknown_not_wrong(toy, home):
    answer_all(toy)
    toy.finish()
    written = json.loads((home / "_build/records/toy/quick.json").read_text())
    assert written["provenance"]["revision"] is None
    assert written["provenance"]["clean"] is None
    assert {"torch", "numpy", "compactnets"} <= set(written["provenance"]["packages"])


def test_a_larger_recorded_run_is_shown_beside_this_one(home, capsys):
    larger = finished("standard")
    record.write(larger.record, home / "data" / "results" / "toy" / "standard.json")
    capsys.readouterr()
    quick = Study("toy", profile="quick", seeds=3)
    observe_accuracies(quick, gain=7.0)
    drawn = quick.shown("top1")
    assert larger.record.run_id in drawn.origin and len(drawn.frame) == 6
    assert sorted(drawn.frame.value) == sorted(larger.frame("top1").value)
    quick.results("Accuracy", "top1", {"ours": {"method": "Toy"}, "absent": {"method": "no"}})
    tables = capsys.readouterr().out
    assert tables.index("obtained by run") < tables.index(f"recorded by run {larger.record.run_id}")
    assert "absent" not in tables
    rows = [quick.values("top1", method=name) for name in ("Toy", "Base")]
    quick.judge("S1", *rows)
    assert capsys.readouterr().out.count("Student-t interval") == 2


def test_a_recorded_run_of_the_same_size_is_not_taken_for_a_larger_one(home):
    done = finished("quick")
    record.write(done.record, home / "data" / "results" / "toy" / "quick.json")
    again = Study("toy", profile="quick", seeds=3)
    observe_accuracies(again, gain=7.0)
    assert done.record.run_id not in again.shown("top1").origin
