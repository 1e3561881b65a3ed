"""One look for all figures: tidy frames in, a matplotlib Figure out, alt text with each."""

from compactnets.plots.charts import (
    bars,
    histograms,
    lines,
    log_x,
    one_legend,
    pareto,
    pareto_front,
    points,
)
from compactnets.plots.images import crops, image_grid, masks
from compactnets.plots.look import INK, PALETTE, PAPER, canvas, picture, show, theme

__all__ = [
    "INK",
    "PALETTE",
    "PAPER",
    "bars",
    "canvas",
    "crops",
    "histograms",
    "image_grid",
    "lines",
    "log_x",
    "masks",
    "one_legend",
    "pareto",
    "pareto_front",
    "picture",
    "points",
    "show",
    "theme",
]
