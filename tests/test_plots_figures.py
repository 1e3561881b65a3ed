"""Figures: what is drawn is what the frame says, and each comes with words."""

import re
import sys
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compactnets import plots, stats
from compactnets.plots import look


@pytest.fixture(autouse=True)
def no_window():
    mpl.use("Agg")
    yield
    plt.close("all")


@pytest.fixture
def frame():
    rows = [
        {"epoch": e, "seed": s, "method": m, "rate": 10 * (m == "b") + e + 0.1 * s}
        for m in ("a", "b")
        for e in (3, 1, 2)
        for s in range(3)
    ]
    return pd.DataFrame(rows)


def test_a_line_is_the_mean_and_its_band_the_t_interval(frame):
    (ax,) = plots.lines(frame, "epoch", "rate", "method").axes
    line, band = ax.lines[0], ax.collections[0]
    assert line.get_xdata().tolist() == [1, 2, 3]
    assert line.get_ydata() == pytest.approx([1.1, 2.1, 3.1])
    heights = band.get_paths()[0].vertices[:, 1]
    expected = stats.mean_interval([1.0, 1.1, 1.2])
    assert heights.min() == pytest.approx(expected.low)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]


def test_one_seed_has_a_line_but_no_band(frame):
    (ax,) = plots.lines(frame.query("seed == 0 and method == 'a'"), "epoch", "rate").axes
    assert len(ax.lines) == 1
    assert not ax.collections
    assert ax.get_legend() is None


def test_groups_differ_in_more_than_color(frame):
    (ax,) = plots.lines(frame, "epoch", "rate", "method").axes
    assert len({line.get_linestyle() for line in ax.lines}) == 2


def test_points_keep_the_order_of_rows_with_a_dot_per_seed_and_the_papers_number(frame):
    figure = plots.points(frame.query("epoch == 1"), "rate", "method", reference={"b": 12.0})
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first row is on top
    dots = ax.collections
    assert sum(len(c.get_offsets()) == 3 for c in dots) == 2
    assert any([12.0, 1.0] in c.get_offsets().tolist() for c in dots)


def test_bars_start_at_zero_and_say_their_value(frame):
    (ax,) = plots.bars(frame.query("epoch == 1"), "rate", "method", title="Time").axes
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([1.1, 11.1])
    assert [text.get_text().strip() for text in ax.texts] == ["1.1", "11.1"]
    assert ax.get_xlim()[0] <= 0
    assert ax.get_title(loc="left") == "Time"


def test_histograms_share_bins_and_sum_to_one():
    values = np.random.default_rng(0).normal(size=300)
    frame = pd.DataFrame({"w": values, "row": ["a", "b", "b"] * 100})
    axes = plots.histograms(frame, "w", "row", bins=20).axes
    for ax in axes:
        assert sum(bar.get_height() for bar in ax.patches) == pytest.approx(1)
    edges = [[round(bar.get_x(), 9) for bar in ax.patches] for ax in axes]
    assert edges[0] == edges[1]
    assert [ax.get_title(loc="left") for ax in axes] == ["a", "b"]


points = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=12)


@given(points)
def test_the_pareto_front_is_exactly_what_nothing_beats(found):
    costs, values = zip(*found, strict=True)
    front = plots.pareto_front(costs, values)

    def beaten(i: int) -> bool:
        return any(
            (c <= costs[i] and v >= values[i]) and (c, v) != found[i]
            for c, v in zip(costs, values, strict=True)
        )

    assert {found[i] for i in front} == {found[i] for i in range(len(found)) if not beaten(i)}
    assert len({found[i] for i in front}) == len(front)
    assert [costs[i] for i in front] == sorted(costs[i] for i in front)


def test_pareto_names_every_point():
    frame = pd.DataFrame({"macs": [1e6, 3e6, 5e6], "acc": [80, 85, 82], "net": list("abc")})
    (ax,) = plots.pareto(frame, "macs", "acc", "net").axes
    assert [text.get_text() for text in ax.texts] == ["a", "b", "c"]
    assert ax.get_xscale() == "log"


def test_pareto_of_many_names_them_in_a_legend_and_shows_the_spread():
    frame = pd.DataFrame({"macs": [1, 1, 3], "acc": [80, 82, 85], "net": ["a", "a", "b"]})
    (ax,) = plots.pareto(frame, "macs", "acc", "net", beside=False, log=False).axes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]
    assert not ax.texts
    assert len(ax.containers) == 1  # one seed has no interval
    assert ax.get_xscale() == "linear"


def test_a_logarithmic_axis_has_plain_numbers():
    figure, ax = plots.canvas()
    ax.plot([0.3, 40_000], [0, 1])
    plots.log_x(ax)
    figure.canvas.draw()
    texts = {label.get_text() for label in ax.get_xticklabels()}
    assert {"0.5", "1", "20", "500", "2k", "10k"} <= texts


def test_series_look_different_beyond_the_palette():
    marks = [look.mark(i) for i in range(49)]
    assert len({(color, marker) for color, marker, _ in marks}) == 49
    assert len({(color, str(dash)) for color, _, dash in marks}) == 49


def test_images_are_shown_as_they_are():
    byte = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2) * 20
    gray = torch.tensor([[[0.0, 0.5], [1.0, 2.0]]])
    axes = plots.image_grid([byte, gray], ["x", "y"], columns=5).axes
    shown = [np.asarray(ax.images[0].get_array()) for ax in axes]
    assert np.allclose(shown[0], byte.permute(1, 2, 0) / 255)
    assert np.allclose(shown[1], [[0, 0.5], [1, 1]])


def shown(ax) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


@pytest.mark.parametrize("box", [(4, 6, 8, 10), (0, 0, 2, 2), (0, 2, 24, 30)])
def test_crops_show_every_image_at_the_marked_place(box):
    truth = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(0))
    dim = (truth * 100).to(torch.uint8)
    small = truth[:, ::2, ::2]
    figure = plots.crops(
        {"truth": truth, "input": small, "net": dim}, box, {"net": "30.1 dB"}, columns=2
    )
    whole, first, second, third, spare = figure.axes
    top, left, height, width = box
    rows, across = slice(top, top + height), slice(left, left + width)
    assert np.allclose(shown(whole), truth.permute(1, 2, 0))
    assert np.allclose(shown(first), truth[:, rows, across].permute(1, 2, 0))
    assert np.allclose(shown(third), dim[:, rows, across].permute(1, 2, 0) / 255)
    halved = small[:, top // 2 : (top + height) // 2, left // 2 : (left + width) // 2]
    assert np.allclose(shown(second), halved.permute(1, 2, 0))
    (mark,) = whole.patches
    assert mark.get_xy() == (left - 0.5, top - 0.5)
    assert (mark.get_height(), mark.get_width()) == (height, width)
    assert [ax.get_title() for ax in figure.axes[1:4]] == ["truth", "input", "net"]
    assert [ax.get_xlabel() for ax in figure.axes[1:4]] == ["", "", "30.1 dB"]
    assert not spare.axison
    assert not spare.images
    assert all(ax.images[0].get_interpolation() == "nearest" for ax in figure.axes[:4])


def test_masks_are_dark_where_kept_and_say_their_share():
    half = torch.tensor([[True, False], [False, True]])
    figure = plots.masks({"half": half, "all": torch.ones(1, 3, dtype=torch.bool)}, columns=2)
    assert np.array_equal(shown(figure.axes[0]), half)
    assert [ax.get_title() for ax in figure.axes] == ["half\n50.0 % kept", "all\n100.0 % kept"]
    figure.canvas.draw()
    for ax, value, color in ((0, True, plots.INK), (0, False, "white"), (1, True, plots.INK)):
        image = figure.axes[ax].images[0]
        assert image.cmap(image.norm(value))[:3] == pytest.approx(color_of(color))


@pytest.mark.parametrize(
    ("box", "notes", "words"),
    [
        ((0, 0, 9, 4), {}, "must lie in the 8 x 8 pixels"),
        ((-2, 0, 4, 4), {}, "must lie"),
        ((0, 0, 0, 4), {}, "must lie"),
        ((1, 0, 4, 4), {}, "on multiples of 2 for 'low'"),
        ((0, 0, 4, 4), {"net": "1 dB"}, r"notes for \['net'\]"),
    ],
)
def test_a_box_or_note_that_fits_no_image_is_named(box, notes, words):
    with pytest.raises(ValueError, match=words):
        plots.crops({"truth": torch.zeros(3, 8, 8), "low": torch.zeros(3, 4, 4)}, box, notes)


def test_what_is_no_image_of_the_scene_or_no_mask_is_named():
    truth = torch.zeros(3, 8, 8)
    for other in (torch.zeros(3, 8, 4), torch.zeros(3, 3, 3), torch.zeros(3, 16, 16)):
        with pytest.raises(ValueError, match=r"'x' is .* no whole part"):
            plots.crops({"truth": truth, "x": other}, (0, 0, 4, 4))
    with pytest.raises(ValueError, match="no images"):
        plots.crops({}, (0, 0, 1, 1))
    with pytest.raises(ValueError, match="no masks"):
        plots.masks({})
    for wrong in (torch.zeros(2, 2), torch.zeros(2, 2, 1, 1, dtype=torch.bool)):
        with pytest.raises(ValueError, match="'w' must be a boolean mask"):
            plots.masks({"w": wrong})


def test_misfits_are_named(frame):
    with pytest.raises(ValueError, match=r"no column \['top1'\], only \['epoch'"):
        plots.lines(frame, "epoch", "top1")
    with pytest.raises(ValueError, match="frame is empty"):
        plots.bars(frame.query("epoch > 9"), "rate", "method")
    with pytest.raises(ValueError, match="2 titles for 1 images"):
        plots.image_grid([torch.zeros(3, 2, 2)], ["a", "b"])
    with pytest.raises(ValueError, match="no images"):
        plots.image_grid([])
    with pytest.raises(ValueError, match=r"got \(2, 4, 4\)"):
        plots.image_grid([torch.zeros(2, 4, 4)])


def test_a_chart_can_be_one_panel_of_a_figure(frame):
    figure, axes = plots.canvas(1, 2)
    assert plots.lines(frame, "epoch", "rate", ax=axes[0]) is figure
    assert plots.bars(frame, "rate", "method", ax=axes[1]) is figure


def test_the_look_does_not_leak_into_other_figures(frame):
    before = dict(mpl.rcParams)
    plots.lines(frame, "epoch", "rate", "method")
    assert dict(mpl.rcParams) == before


def test_an_image_on_the_page_has_its_words_and_its_own_background(frame):
    figure = plots.lines(frame, "epoch", "rate")
    page = plots.picture(figure, 'rate < "ten" & rising', "Figure 1")
    assert 'alt="rate &lt; &quot;ten&quot; &amp; rising"' in page
    assert f"background:{plots.PAPER};color:{plots.INK}" in page
    assert f'<figcaption style="color:{plots.INK}">Figure 1</figcaption>' in page
    assert "max-width:100%" in page
    assert re.search(r'src="data:image/png;base64,iVBOR', page)


def test_equal_figures_have_equal_bytes(frame):
    first, second = (
        plots.picture(plots.lines(frame, "epoch", "rate", "method"), "x") for _ in range(2)
    )
    assert first == second


def test_show_needs_words_and_closes_the_figure(frame, capsys):
    figure = plots.lines(frame, "epoch", "rate")
    with pytest.raises(ValueError, match="what the figure shows"):
        plots.show(figure, alt=" ")
    plots.show(figure, alt="the rate rises")
    assert capsys.readouterr().out == "[figure] the rate rises\n"
    assert not plt.get_fignums()


def test_in_a_notebook_the_image_is_displayed_with_its_words(frame, monkeypatch):
    shown = []
    fake = SimpleNamespace(get_ipython=lambda: SimpleNamespace(execution_count=1))
    monkeypatch.setitem(sys.modules, "IPython", fake)
    display = SimpleNamespace(display=lambda bundle, raw: shown.append(bundle))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    plots.show(plots.lines(frame, "epoch", "rate"), alt="the rate rises")
    assert shown[0]["text/plain"] == "[figure] the rate rises"
    assert 'alt="the rate rises"' in shown[0]["text/html"]


def luminance(color: str) -> float:
    parts = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in color_of(color)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def color_of(color: str) -> tuple[float, float, float]:
    return mpl.colors.to_rgb(color)


def test_ink_and_palette_stand_out_from_the_paper():
    paper = luminance(plots.PAPER) + 0.05
    assert paper / (luminance(plots.INK) + 0.05) >= 7
    assert all(paper / (luminance(color) + 0.05) >= 2 for color in plots.PALETTE)


def test_one_legend_stands_below_the_figure_and_none_in_its_axes(frame):
    figure, axes = plots.canvas(1, 2)
    for ax in axes:
        plots.lines(frame, "epoch", "rate", "method", ax=ax)
    plots.one_legend(figure, axes)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    assert [ax.get_legend() for ax in axes] == [None, None]
