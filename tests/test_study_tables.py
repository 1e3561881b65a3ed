"""What is shown: the paper's numbers beside ours, HTML that is safe in light and dark mode."""

import re
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from compactnets import stats
from compactnets.study import Study, recording
from compactnets.study.comparison import four_digits, rounded, signed
from compactnets.study.display import BADGE_COLORS, Grid, badge, text
from compactnets.study.tables import decimals, seed_list
from study_toy import CARD, Images, answer_all, finished, make_home, observe_accuracies


@pytest.fixture
def home(tmp_path, monkeypatch):
    return make_home(tmp_path, monkeypatch)


@pytest.fixture
def toy(home):
    return Study("toy", profile="quick", seeds=3)


@pytest.fixture
def displayed(monkeypatch):
    """HTML of everything shown, as a notebook would get it."""
    html: list[str] = []
    shell = SimpleNamespace(execution_count=1)
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    fake = SimpleNamespace(display=lambda s: html.append(s._repr_mimebundle_()["text/html"]))
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    return html


def cells(line: str) -> list[str]:
    return re.split(r"\s{2,}", line.strip())


def lines(capsys) -> dict[str, list[str]]:
    """Cells of each printed table row by its first cell, footnote marks taken off."""
    rows = map(cells, capsys.readouterr().out.splitlines())
    return {re.sub(r" \[\w\]$", "", row[0]): row[1:] for row in rows}


def test_the_reported_table_has_every_number_and_its_source(toy, capsys):
    toy.reported("main")
    out = capsys.readouterr().out
    assert "Reported: Toys on ImageNet" in out
    assert re.search(r"Base \[a\]\s+60\.0\n", out)
    assert re.search(r"Toy \[b\]\s+61.5\n", out)
    assert re.search(r"Other \[a\]\s+–\n", out)
    assert "[a] table 1\n[b] abstract\n" in out


def test_unknown_tables_columns_and_rows_are_named_with_their_neighbors(toy):
    observe_accuracies(toy)
    with pytest.raises(ValueError, match="no table 'mian': did you mean main"):
        toy.reported("mian")
    with pytest.raises(ValueError, match="no column 'top5': did you mean top1"):
        toy.table("main", {"top1": "top5"})
    with pytest.raises(ValueError, match="no row 'Bsae': did you mean Base"):
        toy.table("main", rows={"Bsae": {"method": "Base"}})
    with pytest.raises(ValueError, match="no row 'Tyo': did you mean Toy"):
        toy.table("main", baseline="Tyo")
    with pytest.raises(ValueError, match="no row 'Tyo'"):
        toy.table("main", execution={"Tyo": "simulated"})


def test_a_table_without_a_common_metric_asks_which_belong_together(toy):
    toy.observe("accuracy", 1.0, seed=0, method="Toy")
    with pytest.raises(ValueError, match=r"no observed metric is named like .*\(top1\)"):
        toy.table("main")


def test_paper_and_ours_stand_side_by_side_with_the_difference(toy, capsys):
    observe_accuracies(toy)
    toy.table("main", execution={"Toy": "simulated"})
    rows = lines(capsys)
    # Base: 60, 61, 62: half-width 4.303 / sqrt(3) = 2.484
    assert rows["Base"] == ["60.0", "61.0 ± 2.5", "+1.0", "3 (0, 1, 2)", "–"]
    assert rows["Toy"] == ["61.5", "63.1 ± 2.7", "+1.6", "3 (0, 1, 2)", "simulated"]
    assert rows["Other"] == ["–", "–", "–", "–", "–"]


def test_gains_over_a_baseline_are_paired(toy, capsys):
    observe_accuracies(toy)
    toy.table("main", "top1", baseline="Base")
    rows = lines(capsys)
    assert rows["Base"] == ["60.0", "61.0 ± 2.5", "–", "–", "3 (0, 1, 2)"]
    assert rows["Toy"] == ["61.5", "63.1 ± 2.7", "+1.5", "+2.10 ± 0.25", "3 (0, 1, 2)"]


def test_other_names_for_rows_and_metrics_and_rows_of_ours_alone(toy, capsys):
    observe_accuracies(toy)
    toy.observe("top1", 10.0, seed=0, unit="%", method="Broken")
    toy.table(
        "main",
        {"top1": "top1"},
        rows={"Other": {"method": "Toy", "w": 1}},
        also={"ours, broken": {"method": "Broken"}},
    )
    rows = lines(capsys)
    assert rows["Other"][:2] == ["–", "63.1 ± 2.7"]
    assert rows["ours, broken"] == ["–", "10", "–", "1 (0)"]


def test_results_are_a_table_of_ours_alone(toy, capsys):
    observe_accuracies(toy)
    rows = {"plain": {"method": "Base"}, "toy": {"method": "Toy"}}
    toy.results("Accuracy of both", "top1", rows, baseline="plain", execution="simulated")
    found = lines(capsys)
    assert found["toy"] == ["63.1 ± 2.7", "+2.10 ± 0.25", "3 (0, 1, 2)", "simulated"]
    assert "reported" not in found


def test_one_seed_has_no_interval(toy, capsys):
    toy.observe("top1", 61.234567, seed=0, method="Toy")
    toy.table("main")
    assert lines(capsys)["Toy"] == ["61.5", "61.23", "-0.2654", "1 (0)"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([61.0, 62.0, 63.0], "62.0 ± 2.5"),
        ([0.00121, 0.00122, 0.00124], "0.001223 ± 0.000038"),
        ([1000.0, 3000.0], "2000 ± 12706"),
        ([5.0, 5.0], "5 ± 0"),
        ([1 / 3], "0.3333"),
    ],
)
def test_numbers_have_the_digits_that_their_interval_deserves(values, expected):
    assert rounded(stats.mean_interval(values)) == expected


def test_a_difference_without_uncertainty_keeps_four_digits():
    assert signed(-1.23456) == "-1.235"
    assert signed(1.23456, 0.04) == "+1.235"
    assert signed(1.23456, float("inf")) == "+1.235"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (89_896, "89,900"),
        (9999.4, "9999"),
        (-1.25e6, "-1,250,000"),
        (2.5e7, "2.5e+07"),
        (0.1, "0.1"),
    ],
)
def test_large_numbers_have_commas_and_no_exponent(value, text):
    assert four_digits(value) == text
    assert four_digits(abs(value), "+") == "+" + text.removeprefix("-")


def test_the_header_names_paper_links_profile_and_that_nothing_is_recorded(toy, capsys):
    toy.header()
    out = capsys.readouterr().out
    for words in (
        "No recorded run yet",
        "A Toy Network · Ada Lovelace, Alan Turing · TOYCONF",
        "https://arxiv.org/abs/2101.00001",
        "https://github.com/ada/toy",
        "Cite as: Ada Lovelace, Alan Turing. A Toy Network. TOYCONF (2021).",
        "profile quick (at most 60 s on two cores)",
    ):
        assert words in out


def test_embedded_data_are_warned_of_and_real_data_are_not(toy, capsys):
    toy.header(Images())
    assert "NOTE" not in capsys.readouterr().out
    train, test = toy.use(Images("shapes32", source="embedded"), Images(split="test"))
    assert (train.name, test.split) == ("shapes32", "test")
    out = capsys.readouterr().out
    assert "NOTE: shapes32 holds images drawn by a program" in out
    assert "cifar10 test (128 items, sha256 abababababab)" in out


def test_the_header_counts_the_verdicts_of_the_largest_record(home, capsys):
    for profile in ("quick", "standard"):
        finished(profile)
        recording.promote("toy", profile, allow_dirty=True)
    capsys.readouterr()
    Study("toy", profile="smoke").header()
    assert "[✓ 3 holds] recorded at profile standard" in capsys.readouterr().out


def test_claims_are_shown_with_rule_and_source(toy, capsys):
    toy.claims()
    out = capsys.readouterr().out
    assert re.search(r"S1\s+statistical\s+Toy beats Base by half\s+interval .* > 0.5", out)
    assert "[a] eq. 1" in out


def test_the_recorded_run_stands_beside_the_fresh_one(home, capsys):
    old = finished("standard")
    recording.promote("toy", "standard", allow_dirty=True)
    toy = Study("toy", profile="quick")
    toy.prove("E1", True, "4")
    capsys.readouterr()
    toy.recorded()
    rows = lines(capsys)
    assert rows["claim"] == ["recorded (standard)", "this run (quick)"]
    assert rows["E1"] == ["[✓ holds]", "[✓ holds]"]
    assert rows["S1"] == ["[✓ holds]", "–"]
    assert rows["run id"][0] == old.record.run_id
    assert rows["data"] == ["cifar10 (files)", "–"]
    assert {"date", "hardware", "wall time", "revision"} <= set(rows)


def test_without_a_record_the_page_says_so(toy, capsys):
    toy.recorded()
    assert "No recorded run of Toy yet" in capsys.readouterr().out


class Balance(HTMLParser):
    """Fails on tags that are not closed in order; keeps styles and links."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_every_html_is_well_formed_and_free_of_outside_assets(toy, displayed):
    toy.header(Images(source="embedded"))
    toy.claims()
    toy.reported("main")
    answer_all(toy)
    toy.table("main", baseline="Base", execution="simulated")
    toy.recorded()
    toy.finish()
    assert len(displayed) == 9
    for html in displayed:
        parser = Balance()
        parser.feed(html)
        assert parser.open == []
        attributes = dict.fromkeys(name for name, _ in parser.attributes)
        assert not {"src", "onclick", "id"} & set(attributes)
    assert "two and two are &lt;four&gt;" in "".join(displayed)
    assert "<four>" not in "".join(displayed)


def test_a_set_text_color_always_comes_with_its_own_background(toy, displayed):
    answer_all(toy)
    toy.claims()
    toy.finish()
    styles = re.findall(r'style="([^"]*)"', "".join(displayed))
    assert styles
    for style in styles:
        colors = re.findall(r"(?<![-\w])color:([^;]+)", style)
        assert all(color == "inherit" or "background:" in style for color in colors)


def luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("verdict", BADGE_COLORS)
def test_badges_are_legible(verdict):
    assert 1.05 / (luminance(BADGE_COLORS[verdict]) + 0.05) >= 4.5  # white on it, WCAG AA
    assert f"background:{BADGE_COLORS[verdict]}" in badge(verdict).html


def test_wide_tables_scroll_and_footnotes_go_past_z():
    grid = Grid("wide", ["x"])
    marks = [grid.note(f"source {i}").plain for i in range(28)]
    assert marks[0] == " [a]"
    assert marks[25:] == [" [z]", " [aa]", " [ab]"]
    assert grid.note("source 3").plain == " [d]"
    grid.rows.append(["<script>"])
    html = grid.shown().html
    assert "overflow-x:auto" in html
    assert "<script>" not in html


def test_long_cells_wrap_in_a_terminal():
    grid = Grid("long", ["claim", "verdict"], [["word " * 40, "holds"]])
    assert max(map(len, grid.shown().plain.splitlines())) < 80


def test_text_keeps_both_forms_when_joined():
    both = text("a & b") + badge("holds")
    assert both.plain == "a & b[✓ holds]"
    assert both.html.startswith("a &amp; b<span")


def test_the_toy_card_is_the_one_on_disk(toy):
    assert toy.card.claims.keys() == CARD["claims"].keys()


@pytest.mark.parametrize(
    ("values", "places"),
    [([66.9, 87.0, None], 1), ([163985408.0], 0), ([0.25, 1.5, "n/a"], 2), ([1e-5], 5), ([], 0)],
)
def test_a_column_has_the_decimals_of_its_most_precise_number(values, places):
    assert decimals(values) == places


def test_counts_and_times_have_no_seed_and_their_table_no_column_for_it(toy, capsys):
    for name, ms in (("Base", 4.0), ("Toy", 2.5)):
        toy.observe("time", ms, unit="ms", method=name)
    toy.results("Times", "time", {n: {"method": n} for n in ("Base", "Toy")}, baseline="Base")
    out = capsys.readouterr().out
    assert "n (seeds)" not in out and "over seeds" not in out
    assert re.search(r"Base\s+4\s+–\n", out) and re.search(r"Toy\s+2.5\s+-1.5\n", out)
    toy.observe("time", 3.0, unit="ms", method="Toy", seed=0)
    with pytest.raises(ValueError, match="no seed"):
        toy.results("Times", "time", {"Toy": {"method": "Toy"}})


def test_many_seeds_are_named_as_a_span():
    assert seed_list([2, 0, 1]) == "0, 1, 2"
    assert seed_list(range(200)) == "0–199"
    assert seed_list([9, 0, 1, 2, 3, 5]) == "0–3, 5, 9"
    assert seed_list([]) == ""
