"""The book's look: colors, sizes, and a figure's way onto the page with words beside it.

Every figure is drawn on its own light card, so that it reads the same on a light and on a dark
page. Colors are Okabe and Ito's, told apart by color-blind readers; a second mark (dash, marker)
goes with each. Text is large enough for a phone, where a figure is about 9 cm wide.
"""

import base64
import html
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
from cycler import cycler
from matplotlib.figure import Figure

from compactnets import cells

PAPER, INK, GRID = "#fdfcf8", "#22262b", "#dcd9d0"
# Okabe & Ito (2008) without yellow, which is too light on paper; the last one is for baselines.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6b6b6b")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1)), (0, (3, 1)), (0, (1, 1)))
WIDTH, HEIGHT, DPI = 6.2, 3.9, 160  # inches, inches, dots per inch

_LOOK: dict[str, Any] = {
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlesize": 12.5,
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "figure.constrained_layout.use": True,
    "svg.hashsalt": "compactnets",
}


def mark(i: int) -> tuple[str, str, Any]:
    """(color, marker, dash) of the i-th series, i from 0; the first 49 are all different."""
    n = len(PALETTE)
    return PALETTE[i % n], MARKERS[(i + i // n) % n], DASHES[(i + i // n) % n]


@contextmanager
def theme() -> Iterator[None]:
    """The look as a context, `with plots.theme(): ...`, or as a decorator of what draws."""
    style: dict[Any, Any] = {**sns.axes_style("whitegrid"), **_LOOK}
    with mpl.rc_context({**style, "axes.prop_cycle": cycler(color=PALETTE)}):
        yield


def canvas(rows: int = 1, columns: int = 1, height: float = HEIGHT, **options: Any):
    """(Figure, Axes) in the book's look and width; several Axes as an array, as plt.subplots."""
    with theme():
        return plt.subplots(rows, columns, figsize=(WIDTH, height), **options)


def show(figure: Figure, alt: str, caption: str = "") -> None:
    """Displays a figure with a text for those who cannot see it, and closes it.

    alt: what the figure shows, in a sentence or two (ValueError if empty). In a script the text
    is printed.
    """
    if not alt.strip():
        raise ValueError("say in alt what the figure shows, for readers who cannot see it")
    page = picture(figure, alt, caption)
    plt.close(figure)
    if cells.in_notebook():
        from IPython.display import display

        display({"text/html": page, "text/plain": f"[figure] {alt}"}, raw=True)
    else:
        print(f"[figure] {alt}")


def picture(figure: Figure, alt: str, caption: str = "") -> str:
    """The figure as HTML that needs no other file: PNG at 160 dots per inch on a light card."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor=PAPER, metadata={"Software": None})
    data = base64.b64encode(buffer.getvalue()).decode()
    width = round(figure.get_figwidth() * 110)  # CSS pixels: sharp on dense screens
    card = f"background:{PAPER};color:{INK};border-radius:.4em;padding:.4em;margin:.6em 0"
    words = f'<figcaption style="color:{INK}">{html.escape(caption)}</figcaption>'
    below = words if caption else ""
    return (
        f'<figure class="compactnets-figure" style="{card};display:inline-block;max-width:100%">'
        f'<img class="dark-light" alt="{html.escape(alt)}" src="data:image/png;base64,{data}" '
        f'style="width:{width}px;max-width:100%;height:auto;background:{PAPER};padding:0">'
        f"{below}</figure>"
    )
