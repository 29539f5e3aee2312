"""One plotting style: a colour and a marker for each thing the book compares, the same on every page."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import matplotlib.pyplot as plt
from cycler import cycler

#: thing -> keyword arguments of `Axes.plot`; colours from the Okabe-Ito palette, never the only difference
LINES: dict[str, dict[str, Any]] = {
    "forward": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "reverse": {"color": "#D55E00", "marker": "s", "linestyle": "--"},
    "rope": {"color": "#009E73", "marker": "^", "linestyle": "-"},
    "alibi": {"color": "#CC79A7", "marker": "D", "linestyle": "-."},
    "autoregressive": {"color": "#555555", "marker": "x", "linestyle": ":"},
    "paper": {"color": "#000000", "marker": "*", "linestyle": "none"},
    "bound": {"color": "#000000", "marker": "", "linestyle": (0, (5, 2))},
    "control": {"color": "#E69F00", "marker": "v", "linestyle": ":"},
}


def style() -> None:
    """Set the book's style; call once at the head of a chapter."""
    plt.rcParams.update(
        {
            "figure.figsize": (7.2, 3.2),
            "figure.dpi": 220,  # twice the points of a page, which shows figures at half their size: sharp on a phone
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "lines.markersize": 4,
            "lines.linewidth": 1.5,
            "legend.frameon": False,
            "axes.prop_cycle": cycler(
                color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555"]
            )
            + cycler(linestyle=["-", "--", "-.", ":", "-", "--", "-."]),
        }
    )


def band(axes: Any, x: Any, runs: Any, **line: Any) -> None:
    """Mean over the first axis of ``runs`` (seeds) as a line, with the range over seeds shaded."""
    import numpy as np

    runs = np.asarray(runs, dtype=float)
    axes.plot(x, runs.mean(0), **line)
    axes.fill_between(x, runs.min(0), runs.max(0), color=line.get("color"), alpha=0.15, linewidth=0)


def dots(axes: Any, place: float, values: Any, *, across: bool = False, **line: Any) -> None:
    """One dot a seed beside ``place`` and a bar at their mean, drawn without joining them; nothing for no value.

    :param across: values run along the horizontal axis, not the vertical one
    :param line: an entry of `LINES`, or parts of one
    """
    import numpy as np

    values = np.asarray(values, dtype=float)
    if not len(values):
        return
    style = {"markersize": 5, **line, "linestyle": "none", "alpha": 0.8}
    places = place + np.linspace(-0.12, 0.12, len(values)) * (len(values) > 1)
    axes.plot(*((values, places) if across else (places, values)), **style)
    bar = axes.vlines if across else axes.hlines
    bar(values.mean(), place - 0.18, place + 0.18, color=line.get("color"), linewidth=2)


def dot_rows(axes: Any, cases: Iterable[tuple[str, Any, Mapping[str, Any]]]) -> None:
    """A row of dots for each case, from the top: its label, one value a seed (none leaves the row empty), its line."""
    labels = []
    for place, (label, values, line) in enumerate(cases):
        dots(axes, float(place), values, across=True, **line)
        labels.append(label)
    axes.set_yticks(range(len(labels)), labels)
    if not axes.yaxis_inverted():
        axes.invert_yaxis()


def note_not_run(axes: Any, places: Iterable[float | int]) -> None:
    """Say of rows of a panel, named by their places, that nothing of them was run here."""
    for place in places:
        axes.text(0.5, place, "not run here", transform=axes.get_yaxis_transform(), ha="center", va="center",
                  fontsize=8, bbox={"color": "w", "pad": 1})


def legend_below(figure: Any, axes: Any, columns: int, left_out: Iterable[str] = ()) -> None:
    """The legend of one panel, below all of them, and above it which rows were left out as nothing of them was run."""
    words = "; ".join(left_out)
    title = textwrap.fill(f"Not run here: {words}.", 100) if words else None
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=9,
                  title=title, title_fontsize=8)


# Schematic pictures ------------------------------------------------------------------------------------------


def token_box(
    axes: Any, place: int, height: float | int, word: str, colour: str = "#999999", fill: str = "white"
) -> None:
    """A token in a box of its own, centred at a place of a row."""
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(FancyBboxPatch((place - 0.4, height - 0.24), 0.8, 0.48, boxstyle="round,pad=0.03", facecolor=fill,
                                  edgecolor=colour, linewidth=1.6))
    axes.text(place, height, word, ha="center", va="center", fontsize=10, color="#111111")


def bent_arrow(axes: Any, start: int, end: int, height: float | int, colour: str) -> None:
    """An arrow from one place of a row to another that bends upwards, whichever is on the left."""
    from matplotlib.patches import FancyArrowPatch

    bend = -0.28 if start < end else 0.28
    axes.add_patch(FancyArrowPatch((start, height), (end, height), connectionstyle=f"arc3,rad={bend}", arrowstyle="->",
                                   mutation_scale=13, color=colour, linewidth=1.6))
