"""Recorded runs drawn: a curve along training, a row of dots a case, a window of shares, and the legend below them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from lib.one_layer.results import Result, Values
from lib.record import figures


def along(axes: Any, run: Result, name: str, *, by: str = "steps", **line: Any) -> None:
    """A curve of a run, mean over seeds and their range, against the step plus 1 on a logarithmic axis.

    :param by: curve that holds the steps
    :param line: an entry of `figures.LINES`, or keyword arguments of `Axes.plot`
    """
    figures.band(axes, np.array(run["curves"][by]) + 1, run["curves"][name], **line)
    axes.set_xscale("log")


def rows(axes: Any, cases: Iterable[tuple[str, Values, Mapping[str, Any]]]) -> None:
    """A row of dots for each case, from the top: its label, one value a seed (none leaves the row empty), its line."""
    labels = []
    for place, (label, values, line) in enumerate(cases):
        figures.dots(axes, float(place), values, across=True, **line)
        labels.append(label)
    axes.set_yticks(range(len(labels)), labels)
    if not axes.yaxis_inverted():
        axes.invert_yaxis()


def window(axes: Any, run: Result, place: int, way: str) -> None:
    """Accuracy of one seed by the share of attention on the evidence, and the shares that its own queries give it.

    :param place: of the seed among the run's
    :param way: ``forward`` or ``reverse`` queries; the bar is their middle eighty percent, the line their median
    """
    line, curves = figures.LINES[way], run["curves"]
    axes.plot(curves["dose"], curves[f"{way}_by_dose"][place], **{**line, "markersize": 3}, label=f"{way} queries")
    shares = dict(zip(curves["quantile"], curves[f"{way}_shares"][place], strict=True))
    axes.axvspan(shares[0.1], shares[0.9], color=line["color"], alpha=0.15, linewidth=0)
    axes.axvline(shares[0.5], color=line["color"], linestyle=line["linestyle"], linewidth=2.5, alpha=0.45,
                 label=f"{way}: what the model does")


def legend_below(figure: Any, axes: Any, columns: int) -> None:
    """The legend of one panel, below all of them."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=columns, fontsize=9)
