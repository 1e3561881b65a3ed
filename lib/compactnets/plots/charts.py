"""Charts of tidy frames: lines, points, bars, histograms, Pareto fronts; intervals by stats."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from compactnets import stats
from compactnets.plots.look import HEIGHT, INK, PALETTE, canvas, mark, theme


@theme()
def lines(
    frame: pd.DataFrame,
    x: str,
    y: str,
    by: str | None = None,
    *,
    ax: Axes | None = None,
    xlabel: str | None = None,
    ylabel: str | None = None,
    title: str = "",
) -> Figure:
    """Mean over the rows of each x (seeds) with a band that is the 95 % t interval.

    frame: one row per x, seed and, if given, group `by`. One seed draws no band. ValueError if a
    column is missing.
    """
    _check(frame, x, y, by)
    figure, ax = _axes(ax)
    for i, (name, group) in enumerate(_groups(frame, by)):
        found = {at: stats.mean_interval(values) for at, values in sorted(_split(group, x, y))}
        at, means = list(found), np.array([one.mean for one in found.values()])
        color, _, dash = mark(i)
        ax.plot(at, means, color=color, linestyle=dash, label=name)
        halves = np.array([0.0 if one.n == 1 else one.half_width for one in found.values()])
        if halves.any():
            ax.fill_between(
                at, means - halves, means + halves, color=color, alpha=0.18, linewidth=0
            )
    _finish(ax, xlabel or x, ylabel or y, title, legend=by is not None)
    return figure


@theme()
def points(
    frame: pd.DataFrame,
    value: str,
    row: str,
    by: str | None = None,
    *,
    ax: Axes | None = None,
    xlabel: str | None = None,
    reference: Mapping[str, float] | None = None,
    title: str = "",
) -> Figure:
    """Per row the mean with its 95 % t interval, and a light dot per seed.

    Rows keep the frame's order, the first on top. reference: the paper's number per row, drawn as
    an open diamond (named "reported").
    """
    _check(frame, value, row, by)
    names = list(dict.fromkeys(frame[row]))
    figure, ax = _axes(ax, height=0.9 + 0.55 * len(names))
    groups = _groups(frame, by)
    for i, (label, group) in enumerate(groups):
        shift = (i - (len(groups) - 1) / 2) * 0.6 / len(groups)
        color, marker, _ = mark(i)
        look: dict[str, Any] = {"color": color, "marker": marker}
        for name, values in _split(group, row, value):
            _interval(ax, values, names.index(name) + shift, look)
        ax.plot([], [], linestyle="none", label=label, **look)
    known = {n: v for n, v in (reference or {}).items() if n in names}
    if known:
        places = [names.index(name) for name in known]
        look = {"facecolors": "none", "edgecolors": INK, "marker": "D", "zorder": 4}
        ax.scatter(list(known.values()), places, label="reported", **look)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.grid(axis="y", visible=False)
    _finish(ax, xlabel or value, "", title, legend=by is not None or bool(known))
    return figure


@theme()
def bars(
    frame: pd.DataFrame,
    value: str,
    row: str,
    *,
    ax: Axes | None = None,
    xlabel: str | None = None,
    title: str = "",
) -> Figure:
    """Horizontal bars from zero with 95 % t intervals: for counts, times and ratios."""
    _check(frame, value, row)
    groups = dict(_split(frame, row, value))
    figure, ax = _axes(ax, height=0.9 + 0.5 * len(groups))
    for i, values in enumerate(groups.values()):
        found = stats.mean_interval(values)
        ax.barh(i, found.mean, height=0.62, color=PALETTE[0], alpha=0.75)
        if found.n > 1:
            _interval(ax, values, i, {"color": INK, "marker": "|"})
        end = max(found.mean, 0) if found.n == 1 else max(found.high, *values)
        ax.annotate(f" {found.mean:.3g}", (end, i), va="center", fontsize=11)
    ax.set_yticks(range(len(groups)), [str(name) for name in groups])
    ax.invert_yaxis()
    ax.margins(x=0.15)
    ax.grid(axis="y", visible=False)
    _finish(ax, xlabel or value, "", title, legend=False)
    return figure


@theme()
def histograms(
    frame: pd.DataFrame,
    value: str,
    by: str,
    *,
    bins: int = 60,
    xlabel: str | None = None,
    title: str = "",
) -> Figure:
    """One histogram per group, one above the other on common bins; shares, not counts."""
    _check(frame, value, by)
    groups = _split(frame, by, value)
    edges = np.histogram_bin_edges(frame[value].to_numpy(), bins)
    height = 1.0 + 1.35 * len(groups)
    figure, axes = canvas(len(groups), 1, height, sharex=True, sharey=True, squeeze=False)
    for i, ((name, values), ax) in enumerate(zip(groups, axes[:, 0], strict=True)):
        weights = np.full(len(values), 1 / len(values))
        ax.hist(values, list(edges), weights=weights, color=PALETTE[i % len(PALETTE)], alpha=0.85)
        ax.set_title(str(name))
        ax.set_ylabel("share")
    axes[-1, 0].set_xlabel(xlabel or value)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Indices, by rising cost, of the points that no other beats in both (less cost, more value).

    Of points equal in both, the first is kept.
    """
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -values[i], i))
    front: list[int] = []
    for i in order:
        if not front or values[i] > values[front[-1]]:
            front.append(i)
    return front


@theme()
def pareto(
    frame: pd.DataFrame,
    cost: str,
    value: str,
    label: str,
    *,
    ax: Axes | None = None,
    xlabel: str | None = None,
    ylabel: str | None = None,
    log: bool = True,
    beside: bool = True,
    title: str = "",
) -> Figure:
    """Means per label: cost to the right, value up, the front of the best ones joined.

    beside: names beside the points; False gives each label its own mark and a legend, for points
    that lie close together. Values of several rows get their 95 % t interval.
    """
    _check(frame, cost, value, label)
    figure, ax = _axes(ax)
    names = [name for name, _ in _split(frame, label, cost)]
    costs = [float(np.mean(all_of)) for _, all_of in _split(frame, label, cost)]
    found = [stats.mean_interval(all_of) for _, all_of in _split(frame, label, value)]
    values = [one.mean for one in found]
    front = pareto_front(costs, values)
    ax.step(
        [costs[i] for i in front],
        [values[i] for i in front],
        where="post",
        color=INK,
        alpha=0.4,
        zorder=1,
    )
    for i, name in enumerate(names):
        color, marker = (PALETTE[0], "o") if i in front else (PALETTE[-1], "X")
        if beside:
            place = (costs[i], values[i])
            ax.annotate(str(name), place, (5, 5), textcoords="offset points", fontsize=10.5)
        else:
            color, marker, _ = mark(i)
        ax.scatter(costs[i], values[i], color=color, marker=marker, s=45, label=str(name), zorder=3)
        if found[i].n > 1:
            ax.errorbar(costs[i], values[i], yerr=found[i].half_width, color=color, capsize=2)
    if log:
        log_x(ax)
    ax.margins(0.12)
    _finish(ax, xlabel or cost, ylabel or value, title, legend=not beside)
    return figure


def log_x(ax: Axes) -> None:
    """A logarithmic x axis with ticks at 1, 2 and 5 of each decade: 0.5, 20, 100k."""
    thousands = EngFormatter(sep="")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:g}" if x < 1000 else thousands(x))
    ax.xaxis.set_minor_formatter(NullFormatter())


def one_legend(figure: Figure, axes: Sequence[Axes], columns: int = 4) -> None:
    """Puts the first axes' legend below the whole figure and takes the others away."""
    handles = axes[0].get_legend_handles_labels()
    for ax in axes:
        if (legend := ax.get_legend()) is not None:
            legend.remove()
    figure.legend(*handles, loc="outside lower center", ncols=columns, fontsize=9)


def _check(frame: pd.DataFrame, *columns: str | None) -> None:
    missing = [c for c in columns if c is not None and c not in frame.columns]
    if missing:
        raise ValueError(f"the frame has no column {missing}, only {list(frame.columns)}")
    if frame.empty:
        raise ValueError("nothing to draw: the frame is empty")


def _axes(ax: Axes | None, height: float = HEIGHT) -> tuple[Figure, Axes]:
    if ax is None:
        figure, axes = canvas(height=height, squeeze=False)
        return figure, axes[0, 0]
    figure = ax.get_figure()
    if not isinstance(figure, Figure):
        raise TypeError("ax must belong to a Figure of its own, not to a part of one")
    return figure, ax


def _split(frame: pd.DataFrame, by: str, value: str) -> list[tuple[Any, list[float]]]:
    """Values per group, groups in the order of their first row."""
    groups: dict[Any, list[float]] = {}
    for name, one in zip(frame[by].tolist(), frame[value].tolist(), strict=True):
        groups.setdefault(name, []).append(float(one))
    return list(groups.items())


def _groups(frame: pd.DataFrame, by: str | None) -> list[tuple[str, pd.DataFrame]]:
    if by is None:
        return [("", frame)]
    return [(str(name), group) for name, group in frame.groupby(by, sort=False)]


def _interval(ax: Axes, values: list[float], place: float, look: Mapping[str, Any]) -> None:
    """Mean, t interval and one light dot per value, on a horizontal line."""
    found = stats.mean_interval(values)
    half = 0.0 if found.n == 1 else found.half_width
    ax.errorbar(found.mean, place, xerr=half, capsize=3, markersize=7, zorder=3, **look)
    if found.n > 1:
        dots = [place + 0.16] * found.n
        ax.scatter(values, dots, s=14, color=look["color"], alpha=0.45, linewidths=0, zorder=2)


def _finish(ax: Axes, xlabel: str, ylabel: str, title: str, *, legend: bool) -> None:
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if legend:
        ax.legend()
