"""The contests of kernels/bench: equality first, rows kept by key, records for the book."""

import json

import pytest
import torch
from kernels.bench import __main__ as bench
from kernels.bench import entries
from kernels.bench.contest import contest

from compactnets import cost, kernels, paths

SETTINGS = entries.Settings(threads=1, rounds=3)
X = torch.arange(8.0)


def rows(**options):
    peers = {"twice": lambda: X + X, "missing": None}
    return list(contest("double", "8", SETTINGS, lambda: 2 * X, peers, **options))


def test_a_row_per_peer_that_is_there():
    (row,) = rows(operations=8.0, unit="fp32", traffic=64.0)
    assert (row.peer, row.max_error, row.isa) == ("twice", 0.0, kernels.isa())
    assert row.ratio == pytest.approx(row.peer_us / row.ours_us)
    assert row.ratio_p5 <= row.ratio_p95
    assert (row.operations, row.unit, row.traffic) == (8.0, "fp32", 64.0)


def test_an_unequal_peer_ends_the_contest_before_the_clock_starts():
    wrong = {"off by one": lambda: 2 * X + 1}
    with pytest.raises(cost.OutputsDiffer, match="off by one differs by 1"):
        list(contest("double", "8", SETTINGS, lambda: 2 * X, wrong))
    close = list(contest("double", "8", SETTINGS, lambda: 2 * X, wrong, tolerance=1.0))
    assert close[0].max_error == 1.0


def test_a_peer_that_computes_something_else_is_named_with_its_reason():
    reason = {"off by one": "it adds one"}
    wrong = {"off by one": lambda: 2 * X + 1}
    (row,) = contest("double", "8", SETTINGS, lambda: 2 * X, wrong, unequal=reason)
    assert (row.max_error, row.note) == (None, "it adds one")
    assert "it adds one" not in entries.table([row]) and " - " in entries.table([row]) + " "


def test_a_new_measurement_takes_the_place_of_the_old_one(tmp_path):
    file = tmp_path / "bench.json"
    file.write_text(json.dumps({"rows": [{"kernel": "other"}]}))
    for _ in range(2):
        entries.store(rows(), file, title="doubling")
    content = json.loads(file.read_text())
    assert [row["kernel"] for row in content["rows"]] == ["other", "double"]
    assert content["title"] == "doubling"


def test_every_row_has_the_promised_fields(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "build_dir", lambda: tmp_path)
    (row,) = json.loads(entries.store(rows()).read_text())
    promised = {"kernel", "shape", "threads", "isa", "peer", "max_error"}
    promised |= {"ours_us", "peer_us", "ratio"}
    assert promised <= row.keys()


def test_every_benchmark_is_found_and_says_what_it_measures():
    known = bench.benchmarks()
    families = {"binary_conv", "int8", "lowbit", "sparse", "nm", "adder", "winograd", "transform"}
    assert families | {"binary_resnet", "sparse_mobilenet", "train"} <= known.keys()
    for module in known.values():
        assert (module.__doc__ or "").partition("\n")[0].endswith((".", "?", "included."))


def test_a_record_says_on_what_machine_and_with_which_versions():
    assert entries.machine()["CPU"] and kernels.isa() in entries.machine()["paths"]
    assert torch.__version__.startswith(entries.versions()["torch"].partition("+")[0])
