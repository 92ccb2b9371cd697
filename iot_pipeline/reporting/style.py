"""All figures share this style: palette, axes, bars and intervals, and PNG bytes that are small and reproducible."""

import base64
import html
import io
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Literal, ParamSpec

P = ParamSpec("P")

# Okabe and Ito: distinguishable with any common colour-vision deficiency and in grey print.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, INK, GREY, LIGHT = "#B0578D", "#56B4E9", "#1d2733", "#6b7683", "#e3e7ec"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, RED, SKY)
MARKERS = ("o", "s", "^", "D", "v", "P")
DPI = 140
WIDEST = 13.8  # inches; a figure has fewer than 2,000 pixels across
ROWS = 16  # classes that a figure holds at the usual size
LEAST_ROW = 0.13  # inches: the smallest names, of 5.5 points, need 0.08
LOOK: Any = {
    "font.family": "DejaVu Sans",  # ships with matplotlib, so it is the same on every machine
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # names come from data: a class called $\foo$ is no formula
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


class Drawing(bytes):
    """PNG bytes of a figure, which keep the figure for the vector formats."""

    figure: Any = None

    def svg(self) -> bytes:
        """Return the figure as SVG; equal figures give equal bytes, without date or random ids."""
        return self._saved("svg", {"Date": None, "Creator": None})

    def pdf(self) -> bytes:
        """Return the figure as PDF; equal figures give equal bytes, without date or name of a program.

        Fonts are embedded as TrueType: publishers refuse matplotlib's default, Type 3.
        """
        return self._saved("pdf", {"CreationDate": None, "Creator": None, "Producer": None})

    def _saved(self, kind: str, metadata: dict[str, None]) -> bytes:
        import matplotlib

        out = io.BytesIO()
        with matplotlib.rc_context({**LOOK, "svg.hashsalt": "iot_pipeline", "pdf.fonttype": 42}):
            self.figure.savefig(out, format=kind, metadata=metadata)
        return out.getvalue()


def drawn(plot: Callable[P, Any]) -> Callable[P, Drawing]:
    """Turn a function that returns matplotlib Axes into one that returns their figure as PNG, in the project's style.

    The style is set for this one figure, so pyplot's global state stays as it is.
    """

    @wraps(plot)
    def png(*args: P.args, **kwargs: P.kwargs) -> Drawing:
        import matplotlib
        import numpy as np
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from PIL import Image

        with matplotlib.rc_context(LOOK):
            agg = FigureCanvasAgg(plot(*args, **kwargs).figure)
            agg.draw()
        image = Image.fromarray(np.asarray(agg.buffer_rgba())[:, :, :3])
        out = io.BytesIO()
        # 128 colours suffice for flat charts, at a quarter of the bytes.
        image.quantize(colors=128, dither=Image.Dither.NONE).save(out, format="PNG", optimize=True)
        image_bytes = Drawing(out.getvalue())
        image_bytes.figure = agg.figure
        return image_bytes

    return png


def crowded(rows: int) -> bool:
    """True if a figure has more rows, one a class, than it can write figures and names into at the usual size."""
    return rows > ROWS


def row_height(rows: int, usual: float) -> float:
    """Return the height of a row in inches: the usual one, or as much less as holds a crowded figure on a page."""
    return usual if not crowded(rows) else max(LEAST_ROW, usual * ROWS / rows)


def small_names(made: Any, rows: int, axis: Literal["x", "y", "both"] = "y") -> None:
    """Set small names beside the rows, or under the columns, of a crowded figure."""
    if crowded(rows):
        made.tick_params(axis=axis, labelsize=6.5 if rows <= 2 * ROWS else 5.5)


def figure(width: float, height: float) -> Any:
    """Create a matplotlib figure of width x height inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def axes(size: tuple[float, float], title: str, grid: str = "") -> Any:
    """Create the single Axes of a new figure of `size` inches; grid lines cross the axis `grid`: `x`, `y` or `both`."""
    made = figure(*size).subplots()
    made.set_title(title, pad=10)
    if grid:
        made.grid(True, axis=grid)
    made.tick_params(length=0)
    return made


def name_rows(made: Any, names: Sequence[str]) -> None:
    """Label the rows of horizontal bars or intervals, the first one on top."""
    made.set_yticks(range(len(names)), names)
    made.set_ylim(len(names) - 0.4, -0.6)


def interval(made: Any, place: float, value: float, bounds: Sequence[float] | None, colour: str, marker: str) -> None:
    """Draw a value as a marker, with its interval as a pale bar.

    Args:
        made: The Axes.
        place: Row.
        value: The value.
        bounds: Both ends of its interval, if it has one.
        colour: Colour of marker and bar.
        marker: Marker of matplotlib.
    """
    if bounds:
        made.plot(bounds, [place, place], color=colour, linewidth=4, alpha=0.4, solid_capstyle="butt")
    made.plot([value], [place], marker=marker, markersize=7, color=colour, markeredgecolor="white")


def grouped_bars(made: Any, series: Sequence[tuple[str, Sequence[float], str]], write: Callable[[float], str]) -> None:
    """Draw horizontal bars (name, values, colour) side by side in each row, with the value written at their ends."""
    height = 0.78 / len(series)
    for at, (name, values, colour) in enumerate(series):
        places = [place + (at - (len(series) - 1) / 2) * height for place in range(len(values))]
        bars = made.barh(places, values, height=0.92 * height, color=colour, label=name)
        made.bar_label(bars, [write(value) for value in values], padding=4, fontsize=8)


def legend_below(made: Any, columns: int) -> None:
    """Draw the legend of `made` below the figure, bars before markers, at any figure height."""
    handles, labels = made.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda at: type(handles[at]).__name__ != "BarContainer")
    made.figure.legend(
        [handles[at] for at in order], [labels[at] for at in order], loc="outside lower center", ncols=columns
    )


def no_data(title: str, why: str) -> Any:
    """Draw a small figure that says why there is nothing to plot."""
    made = axes((6.4, 1.3), title)
    made.axis("off")
    made.text(0, 0.5, why, color=GREY, transform=made.transAxes, va="center")
    return made


def alternative(alt: str) -> str:
    """Escape the text that stands for an image in Markdown."""
    return html.escape(" ".join(alt.split()).replace("[", "(").replace("]", ")"))


def embed(image: bytes, alt: str) -> str:
    """Return Markdown that embeds the PNG, for Dagster metadata."""
    return f"![{alternative(alt)}]({data_uri(image)})"


def data_uri(image: bytes) -> str:
    """Return PNG bytes as an address that holds them."""
    return f"data:image/png;base64,{base64.b64encode(image).decode()}"
