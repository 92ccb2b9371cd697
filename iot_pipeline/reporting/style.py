"""Style of all figures: palette, canvas, axes, and PNG bytes that are small and reproducible."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito: distinguishable with any common colour-vision deficiency and in grey print.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, INK, GREY, LIGHT = "#B0578D", "#56B4E9", "#1d2733", "#6b7683", "#e3e7ec"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
DPI = 140
LOOK: Any = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so it is the same on every machine
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.linewidth": 0.8,
    "grid.color": LIGHT,
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
}


class Canvas:
    """Figure being drawn; `data` holds its PNG bytes once the `canvas` block has ended."""

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.data = b""

    def axes(self, title: str = "", grid: str = "") -> Any:
        """Create the single Axes of this figure, with a title and grid lines across one axis (`x`, `y`) or `both`."""
        return dress(self.figure.subplots(), title, grid)


def dress(axes: Any, title: str = "", grid: str = "") -> Any:
    """Set title and grid lines (`x`, `y`, `both`, or empty for none) on matplotlib Axes, and return them."""
    axes.set_title(title, pad=10)
    if grid:
        axes.grid(True, axis=grid)
    axes.tick_params(length=0)
    return axes


@contextmanager
def canvas(width: float, height: float) -> Iterator[Canvas]:
    """Open a figure of width x height inches in the project's style, without pyplot's global state."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(LOOK):
        made = Canvas(Figure(figsize=(width, height), dpi=DPI, layout="constrained"))
        yield made
        made.data = png(made.figure)


def png(figure: Figure) -> bytes:
    """Render the figure as an 8-bit PNG: 128 colours suffice for flat charts, at a quarter of the bytes."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    agg = FigureCanvasAgg(figure)
    agg.draw()
    image = Image.fromarray(np.asarray(agg.buffer_rgba())[:, :, :3])
    out = io.BytesIO()
    image.quantize(colors=128, dither=Image.Dither.NONE).save(out, format="PNG", optimize=True)
    return out.getvalue()


def legend_below(figure: Figure, axes: Any, columns: int) -> None:
    """Draw the legend of `axes` below the figure, bars before markers, at any figure height."""
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda at: type(handles[at]).__name__ != "BarContainer")
    figure.legend(
        [handles[at] for at in order], [labels[at] for at in order], loc="outside lower center", ncols=columns
    )


def no_data(title: str, why: str) -> bytes:
    """Draw a small figure that says why there is nothing to plot."""
    with canvas(6.4, 1.3) as made:
        axes = made.axes(title)
        axes.axis("off")
        axes.text(0, 0.5, why, color=GREY, transform=axes.transAxes, va="center")
    return made.data


def data_uri(image: bytes) -> str:
    """Encode PNG bytes as a data URI."""
    return "data:image/png;base64," + base64.b64encode(image).decode()


def embed(image: bytes, alt: str) -> str:
    """Return Markdown that embeds the PNG, for Dagster metadata and report.md."""
    safe = " ".join(alt.split()).replace("[", "(").replace("]", ")")
    return f"![{html.escape(safe)}]({data_uri(image)})"


def img(image: bytes, alt: str) -> str:
    """Return an HTML img element that embeds the PNG; `alt` is escaped.

    Width and height are given in CSS pixels, so that the page does not jump.
    """
    width, height = (round(int.from_bytes(image[at : at + 4]) * 96 / DPI) for at in (16, 20))
    return f'<img src="{data_uri(image)}" alt="{html.escape(alt, quote=True)}" width="{width}" height="{height}">'
