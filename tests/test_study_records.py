"""Cards, records and their recording: schema errors name the field, nothing is half-written."""

import json
import os
import threading

import pytest
import yaml

from compactnets import paths
from compactnets.study import CardError, RecordError, Study, card, record, recording
from compactnets.study.record import Observation
from study_toy import CARD, answer_all, finished, make_home


@pytest.fixture
def home(tmp_path, monkeypatch):
    return make_home(tmp_path, monkeypatch)


def write_card(home, changes: dict) -> None:
    text = yaml.safe_dump({**CARD, **changes})
    (home / "data" / "papers" / "toy.yml").write_text(text)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"year": "soon"}, "year: "),
        ({"colour": "blue"}, "colour: Extra inputs"),
        ({"claims": {"E1": {"kind": "obvious", "statement": "x"}}}, r"claims\.E1\.kind: "),
        ({"errata": [{"what": "a", "where": "b", "effect": "c", "claim": "E9"}]}, "claim 'E9'"),
        ({"slug": "other"}, "slug is 'other', the file name says 'toy'"),
        (
            {
                "tables": {
                    "t": {
                        "caption": "c",
                        "columns": {"a": "%"},
                        "rows": [{"label": "r", "values": {"b": 1}, "source": "s"}],
                    }
                }
            },
            r"tables\.t: .*row 'r' has unknown columns \['b'\]",
        ),
    ],
)
def test_a_card_with_a_bad_field_names_file_and_field(home, changes, field):
    write_card(home, changes)
    with pytest.raises(CardError, match=rf"toy\.yml.*{field}"):
        card.load("toy")


def test_a_card_that_is_no_yaml_or_no_mapping_says_so(home):
    path = home / "data" / "papers" / "toy.yml"
    path.write_text("claims: [")
    with pytest.raises(CardError, match="not valid YAML"):
        card.load("toy")
    path.write_text("just words")
    with pytest.raises(CardError, match="does not fit the card schema"):
        card.load("toy")


def test_a_record_reads_back_as_it_was_written(home):
    done = finished().record
    target = home / "copy.json"
    record.write(done, target)
    assert record.read(target) == done
    record.write(record.read(target), home / "again.json")
    assert (home / "again.json").read_bytes() == target.read_bytes()


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_a_record_has_one_line_per_observation(home, rows):
    found = Observation(metric='"observations": []', value=0.5, seed=1, labels={"row": "ü"})
    done = finished().record.model_copy(update={"observations": [found] * rows})
    record.write(done, home / "rows.json")
    text = (home / "rows.json").read_text(encoding="utf-8")
    assert record.read(home / "rows.json") == done
    assert sum(line.startswith('  {"labels": {"row": "ü"}') for line in text.splitlines()) == rows
    assert json.loads(text) == done.model_dump(mode="json")


def test_a_missing_record_says_what_to_do(home):
    with pytest.raises(RecordError, match=r"no record .*x\.json: run the notebook first"):
        record.read(home / "x.json")


def test_a_truncated_record_is_an_error_that_names_the_file(home):
    finished()
    path = home / "_build" / "records" / "toy" / "standard.json"
    path.write_text(path.read_text()[:500])
    with pytest.raises(RecordError, match=r"standard\.json does not fit the record schema"):
        record.read(path)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("profile", "huge", "profile: "),
        ("wall_seconds", "long", "wall_seconds: "),
        ("mood", "good", "mood: Extra inputs"),
        ("answers", [{"claim": "E1"}], r"answers\.0\.kind: Field required"),
    ],
)
def test_a_record_with_a_bad_field_names_it(home, field, value, words):
    finished()
    path = home / "_build" / "records" / "toy" / "standard.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    with pytest.raises(RecordError, match=words):
        record.read(path)


def test_records_of_older_form_without_later_fields_can_still_be_read(home):
    finished()
    path = home / "_build" / "records" / "toy" / "standard.json"
    old = json.loads(path.read_text())
    del old["runs"]
    for answer in old["answers"]:
        del answer["unit"]
    path.write_text(json.dumps(old))
    assert record.read(path).runs == []


def test_two_writers_leave_one_whole_record(home):
    done = finished().record
    target = home / "shared.json"
    writers = [threading.Thread(target=record.write, args=(done, target)) for _ in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert record.read(target) == done
    assert [name for name in os.listdir(home) if "shared" in name] == ["shared.json"]


def test_the_largest_profile_is_the_one_a_page_shows(home):
    assert record.largest("toy") is None
    for profile in ("standard", "quick"):
        finished(profile)
        recording.promote("toy", profile, allow_dirty=True)
    assert record.largest("toy").profile == "standard"
    assert list(record.recorded("toy")) == ["quick", "standard"]


def test_recording_says_what_it_did_and_does_it_once(home):
    done = finished().record
    said = recording.promote("toy", "standard", allow_dirty=True)
    assert f"recorded run {done.run_id} as data/results/toy/standard.json" in said
    assert "not committed" in said
    assert record.read(paths.results_dir() / "toy" / "standard.json") == done
    assert "recorded already" in recording.promote("toy", "standard", allow_dirty=True)


def test_a_run_on_changed_code_is_not_recorded_unless_allowed(home):
    finished()
    with pytest.raises(RecordError, match=r"no git revision.*--allow-dirty"):
        recording.promote("toy", "standard")
    assert not paths.results_dir().exists()


def test_a_smoke_run_is_never_recorded(home):
    finished("smoke")
    with pytest.raises(RecordError, match="smoke run is a test"):
        recording.promote("toy", "smoke", allow_dirty=True)


def test_an_older_run_does_not_replace_a_newer_one_but_a_newer_does_an_older(home):
    first = finished().record.model_copy(update={"started": "2026-01-01T00:00:00+00:00"})
    second = first.model_copy(update={"started": "2026-01-02T00:00:00+00:00", "run_id": "second"})
    record.write(first, home / "first.json")
    record.write(second, home / "second.json")
    recording.promote("toy", "standard", home / "second.json", allow_dirty=True)
    with pytest.raises(RecordError, match="holds a newer run"):
        recording.promote("toy", "standard", home / "first.json", allow_dirty=True)
    third = second.model_copy(update={"started": "2026-01-03T00:00:00+00:00", "run_id": "third"})
    record.write(third, home / "third.json")
    said = recording.promote("toy", "standard", home / "third.json", allow_dirty=True)
    assert "in place of second" in said
    assert record.largest("toy").run_id == "third"


def test_the_newest_run_of_the_pipeline_is_taken(home):
    old = finished().record
    folder = paths.build_dir() / "runs" / "toy" / "standard" / "0123abcd"
    new = old.model_copy(update={"run_id": "from-the-pipeline"})
    record.write(new, folder / "record.json")
    os.utime(paths.build_dir() / "records" / "toy" / "standard.json", (0, 0))
    assert "from-the-pipeline" in recording.promote("toy", "standard", allow_dirty=True)


def test_no_run_at_all_names_the_command_that_makes_one(home):
    with pytest.raises(RecordError, match="compactnets run toy --profile standard"):
        recording.promote("toy", "standard")


def test_a_record_of_another_paper_or_profile_is_refused(home):
    record.write(finished("quick").record, home / "quick.json")
    with pytest.raises(RecordError, match="at profile quick, not of toy at standard"):
        recording.promote("toy", "standard", home / "quick.json")


def test_a_claim_edited_after_the_run_makes_it_unfit(home):
    finished()
    claims = {**CARD["claims"], "S1": {**CARD["claims"]["S1"], "statement": "Toy is not bad"}}
    write_card(home, {"claims": claims})
    with pytest.raises(RecordError, match=r"other claims than run .* \(S1\): run the notebook"):
        recording.promote("toy", "standard", allow_dirty=True)


def test_embedded_data_are_recorded_only_with_a_word_about_it(home):
    toy = finished()
    used = [toy.record.data[0].model_copy(update={"source": "embedded"})]
    record.write(toy.record.model_copy(update={"data": used}), home / "drawn.json")
    said = recording.promote("toy", "standard", home / "drawn.json", allow_dirty=True)
    assert "embedded data, not on real images" in said


def test_a_record_is_not_written_when_the_disk_fails(home, monkeypatch):
    toy = Study("toy", profile="quick")
    answer_all(toy)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        toy.finish()
    assert os.listdir(home / "_build" / "records" / "toy") == []
