"""Figures of one-layer runs: a curve along training, and accuracy by the evidence's attention weight."""

from __future__ import annotations

from typing import Any

import numpy as np

from lib.one_layer.results import RecordedRun
from lib.record import figures


def training_curve(axes: Any, run: RecordedRun, name: str, *, by: str = "steps", **line: Any) -> None:
    """A curve of a run, mean over seeds and their range, against the step plus 1 on a logarithmic axis.

    :param by: curve that holds the steps
    :param line: an entry of `figures.LINES`, or keyword arguments of `Axes.plot`
    """
    figures.band(axes, np.array(run["curves"][by]) + 1, run["curves"][name], **line)
    axes.set_xscale("log")


def attention_window(axes: Any, run: RecordedRun, place: int, way: str) -> None:
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
