"""A recorded result as a page of its own: parameters, metrics with their intervals, curves, provenance.

Each file ``results/<experiment>/<name>.json`` is shown beside it as ``<name>.html``, and the record of an executed
chapter likewise. A page needs nothing but itself: its style and its curves (SVG) stand inside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from jaxtyping import Float

from lib.record import report
from lib.record.traced_numbers import flat, format_value

WIDTH, HEIGHT, MARGIN = 260, 120, 6  # of a curve's picture, in its own units
AXES = ("steps", "step")  # curves that hold the training steps of the others
Points = Sequence[tuple[float, float]]

_PAGES = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")), autoescape=True,
                            trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)


def result_html(result: Mapping[str, Any], name: str, readers: Iterable[Mapping[str, str]] = ()) -> str:
    """The page of one recorded result.

    :param result: as `lib.record.provenance.load` reads it
    :param name: experiment and file, ``one_layer/full_rope``
    :param readers: claims whose checks read it: id and title each
    """
    curves, unseen = _curves(result["curves"], result["seeds"])
    return _PAGES.get_template("run.html").render(
        name=name, file=name.rsplit("/", 1)[-1] + ".json", seeds=result["seeds"], readers=list(readers),
        parameters=_words(flat(result["parameters"])), metrics=metric_rows(result["metrics"], result["seeds"]),
        values=_by_seed(result["metrics"], result["seeds"]), curves=curves, unseen=unseen, width=WIDTH, height=HEIGHT,
        provenance=_words(result["provenance"]))


def chapter_html(record: Mapping[str, Any], readers: Iterable[Mapping[str, str]] = ()) -> str:
    """The page of the execution of one chapter: parameters, commit, device, versions, seconds of each cell.

    :param record: what `pipeline.execute` keeps of it
    :param readers: claims that the chapter checks: id and title each
    """
    told = ("commit", "device", "processor", "profile", "seconds", "started", "versions")
    made = {name: record[name] for name in told if name in record}
    return _PAGES.get_template("run.html").render(
        name=f"chapters/{record['chapter']}", file=f"{record['chapter']}.json", seeds=[], readers=list(readers),
        parameters=_words(flat(record["parameters"])), metrics=[], curves=[], unseen=[], width=WIDTH, height=HEIGHT,
        values=([["cell", "seconds"], *([cell, format_value(took)] for cell, took in sorted(
            record["cells"].items(), key=lambda item: int(item[0])))] if record["cells"] else []),
        provenance=_words(made))


def list_html(names: Iterable[str]) -> str:
    """The page that lists every result, by experiment.

    :param names: experiment and file of each, ``one_layer/full_rope``
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        groups.setdefault(name.split("/")[0], []).append(name)
    return _PAGES.get_template("runs.html").render(groups=groups)


def metric_rows(metrics: Mapping[str, Any], seeds: Sequence[int]) -> list[dict[str, str]]:
    """Name, mean, 95 % bootstrap interval over seeds and range of each metric, in words; no interval for one seed."""
    columns = {name: _numbers(values) for name, values in metrics.items()}
    whole = [name for name, values in columns.items() if len(values) == len(seeds) > 1]
    intervals = report.bootstrap_intervals([columns[name] for name in whole]) if whole else []
    found = dict(zip(whole, intervals, strict=True))
    return [{"name": _plain_name(name), "mean": format_value(float(np.mean(values))) if values else "–",
             "interval": format_value(found[name]) if name in found else "",
             "range": format_value((min(values), max(values))) if len(values) > 1 else ""}
            for name, values in columns.items()]


def _plain_name(name: str) -> str:
    return name.replace("_", " ")


def _numbers(values: Any) -> list[float]:
    return [float(value) for value in _flat(values) if isinstance(value, (int, float))]


def _flat(values: Any) -> list[Any]:
    return [each for value in values for each in _flat(value)] if isinstance(values, list) else [values]


def _by_seed(metrics: Mapping[str, Any], seeds: Sequence[int]) -> list[list[str]]:
    """A table of the metrics that have one value a seed, seeds across; nothing for a single seed."""
    lines = [[_plain_name(name), *("–" if value is None else format_value(value) for value in values)]
             for name, values in metrics.items() if isinstance(values, list) and len(values) == len(seeds) > 1]
    return [["seed", *map(str, seeds)], *lines] if lines else []


def _words(found: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(_plain_name(name), format_value(value)) for name, value in found.items() if value not in ({}, None)]


# Curves ------------------------------------------------------------------------------------------------------------


def _curves(curves: Mapping[str, Any], seeds: Sequence[int]) -> tuple[list[dict[str, Any]], list[str]]:
    """What can be drawn, and the names of the rest."""
    steps: Sequence[float] = next((curves[name] for name in AXES if name in curves), [])
    drawn, unseen = [], []
    for name, values in curves.items():
        if name in AXES:
            continue
        lines = _lines(values, seeds)
        if lines is None:
            unseen.append(_plain_name(name))
        else:
            drawn.append(curve(_plain_name(name), lines, steps if len(steps) == lines.shape[1] else None))
    return drawn, unseen


def _lines(values: Any, seeds: Sequence[int]) -> np.ndarray | None:
    """A curve as (lines, points), one line a seed or a single one, nan where nothing was measured; None for others."""
    try:
        found = np.array(values, dtype=float)
    except (TypeError, ValueError):
        return None
    found = found[None] if found.ndim == 1 else found
    several = found.ndim == 2 and len(found) in (1, len(seeds)) and found.shape[1] > 1
    return found if several and np.isfinite(found).any() else None


def curve(name: str, lines: Float[np.ndarray, "seeds points"], steps: Sequence[float | int] | None) -> dict[str, Any]:
    """One curve for the template: the mean over seeds as a line, their range as a band, ends of both axes in words.

    :param lines: nan where nothing was measured
    :param steps: of the points; their number from 0 on where not said
    """
    x = np.asarray(range(lines.shape[1]) if steps is None else steps, dtype=float)
    there = np.isfinite(lines).any(0)
    x, lines = x[there], lines[:, there]
    low, high, mean = np.nanmin(lines, 0), np.nanmax(lines, 0), np.nanmean(lines, 0)
    place = _scale(x, low, high)
    band = [*place(x, low), *reversed(place(x, high))] if len(lines) > 1 else []
    ends = {"low": format_value(float(low.min())), "high": format_value(float(high.max())),
            "first": format_value(float(x[0])), "last": format_value(float(x[-1]))}
    return {"name": name, "mean": _path(place(x, mean)), "band": _path(band), "end": format_value(float(mean[-1])),
            "axis": "point" if steps is None else "step", **ends}


def _scale(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> Any:
    """A map of points to places in the picture, y upwards."""
    bottom, top = float(low.min()), float(high.max())
    wide = (WIDTH - 2 * MARGIN) / (float(np.ptp(x)) or 1.0)
    tall = (HEIGHT - 2 * MARGIN) / (top - bottom or 1.0)

    def place(across: np.ndarray, up: np.ndarray) -> list[tuple[float, float]]:
        return [(MARGIN + wide * (a - x[0]), HEIGHT - MARGIN - tall * (b - bottom))
                for a, b in zip(across, up, strict=True)]

    return place


def _path(points: Points) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in points if math.isfinite(b))
