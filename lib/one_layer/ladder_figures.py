"""The figure and the tables of the ladder between the one-layer task and the miniature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lib.one_layer.ladder_results import FRAME_TITLES, LADDER_RUNGS, RECOVERIES, RUNG_TITLES, RecordedRungs
from lib.record import figures, report
from lib.record.figures import LINES

#: title -> name of a direction -> one value a seed
_Rows = Mapping[str, Mapping[str, Sequence[float] | np.ndarray]]
#: what is drawn in a row: offset, line, label
_WAYS = {"forward": (-0.22, {**LINES["forward"], "label": "forward, as told"}),
         "reverse": (0.0, {**LINES["reverse"], "label": "reverse, never told"}),
         "both": (0.22, {**LINES["control"], "label": "reverse, other facts told in both orders"})}
_BRANCH_TITLES = {"quads": "the last rung", "left_alone": "shared words in the answer alone",
                  "right_alone": "shared words in the evidence alone", "one_layer": "one layer",
                  "attention": "one layer, attention alone", "one_word": "one relation word in both orders",
                  "no_word": "no relation word"}
_BRANCH_METRICS = {"forward": "forward_names", "reverse": "reverse_names", "wrong frame": "wrong_frame_names",
                   "reverse, attention of the forward question": "reverse_patched",
                   "forward, attention of the reverse question": "forward_patched",
                   "other evidence": "mismatched_names"}
_FRAME_METRICS = {
    "forward": "forward_accuracy", "reverse": "reverse_accuracy", "wrong frame": "wrong_frame_accuracy",
    "reverse, among names": "reverse_names", "wrong frame, among names": "wrong_frame_names"}


def rung_rows(runs: RecordedRungs) -> dict[str, dict[str, np.ndarray]]:
    """What `recall_by_rung` draws of each rung, by its title."""
    return {RUNG_TITLES[name]: {
        **{way: runs.metric(f"{way}_accuracy", name) for way in ("forward", "reverse")},
        "both": runs.metric("reverse_accuracy", f"{name}_both") if f"{name}_both" in RECOVERIES else np.array([])}
        for name in LADDER_RUNGS}


def recall_by_rung(rungs: _Rows, others: _Rows) -> Figure:
    """Forward and reverse accuracy in percent, a row a rung, one dot a seed; below a line what is no rung.

    :param rungs: title -> ``forward``, ``reverse`` and, where they were run, ``both``: one value a seed each
    :param others: more of them
    """
    rows = {**rungs, **others}
    figure, panel = plt.subplots(figsize=(7.2, 0.36 * len(rows) + 1.3))
    for way, (offset, line) in _WAYS.items():
        there = [place for place, values in enumerate(rows.values()) if len(values.get(way, ()))]
        for place, values in enumerate(rows.values()):
            labelled = bool(there) and place == there[0]
            figures.dots(panel, place + offset, values.get(way, ()), across=True,
                         **line | {"markersize": 4, "label": line["label"] if labelled else None})
    figures.note_not_run(panel, [place for place, values in enumerate(rows.values()) if not len(values["forward"])])
    if others:
        panel.axhline(len(rungs) - 0.5, color="k", linewidth=0.8)
    panel.set(xlabel="exact match, %", xlim=(-4, 104), yticks=range(len(rows)), yticklabels=rows,
              ylim=(len(rows) - 0.5, -0.5))
    figures.legend_below(figure, panel, 2)
    return figure


def branch_table(runs: RecordedRungs) -> str:
    """The last rung and what becomes of it with one thing taken away: names recalled in percent."""
    return _table(runs, "rung", _BRANCH_TITLES, _BRANCH_METRICS)


def frame_table(runs: RecordedRungs) -> str:
    """How the one-layer task with markers answers: exact matches in percent."""
    return _table(runs, "condition", FRAME_TITLES, _FRAME_METRICS)


def _table(runs: RecordedRungs, head: str, titles: Mapping[str, str], metrics: Mapping[str, str]) -> str:
    return report.markdown([head, *metrics], [[title, *(_cell(runs, name, metric) for metric in metrics.values())]
                                              for name, title in titles.items()])


def _cell(runs: RecordedRungs, condition: str, metric: str) -> str:
    """Mean and range over seeds; a dash for what the condition does not have."""
    found = runs.find(condition)
    if found is None:
        return "not run here"
    return report.cell(found["metrics"][metric], 0) if metric in found["metrics"] else "–"
