"""Figures and the table of the recorded edits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lib.record import figures, report
from lib.record.figures import LINES
from lib.stores.edit_results import CONDITION_NAMES, PART_CONDITIONS, RecordedEdits, stores_expected, stores_found

#: edit -> what is drawn of it
_EDITS: dict[str, dict[str, Any]] = {
    "forward": {**LINES["forward"], "label": "edited forward, asked in reverse"},
    "reverse": {**LINES["reverse"], "label": "edited in reverse, asked forward"},
    "right": {**LINES["control"], "label": "right-hand question edited, asked in reverse"},
    "other": {**LINES["autoregressive"], "label": "another fact edited, asked in reverse"},
}
_COLUMNS = {"edited forward": "forward", "edited in reverse": "reverse", "right-hand question edited": "right",
            "another fact edited": "other", "erased forward": "erase_forward",
            "right-hand question erased": "erase_right"}
_MEASURES = {"distance ratio": "distance_ratio", "fact probe, %": "fact_probe", "direction probe, %": "direction_probe",
             "direction probe, flipped, %": "direction_probe_flipped"}


def transfer_by_condition(runs: RecordedEdits, conditions: Sequence[str]) -> Figure:
    """Transfer ratio and answers that follow, a row a condition, one dot a seed; none where nothing is run."""
    figure, panels = plt.subplots(1, 2, figsize=(7.2, 0.55 * len(conditions) + 1.6), sharey=True)
    for panel, key in zip(panels, ("transfer", "follows"), strict=True):
        for edit, offset in zip(_EDITS, (-0.27, -0.09, 0.09, 0.27), strict=True):
            for place, condition in enumerate(conditions):
                figures.dots(panel, place + offset, runs.metric(f"{edit}_{key}", condition), across=True,
                             **_EDITS[edit] | {"markersize": 4})
    for at in (0, 1):
        panels[0].axvline(at, color="k", linewidth=0.6)
    panels[0].set_xlabel("transfer ratio")
    _name_rows(panels[0], runs, conditions)
    panels[1].set(xlabel="answers that follow, %", xlim=(-4, 104))
    _legend(figure, [_EDITS[edit] for edit in _EDITS])
    return figure


def _name_rows(panel: Axes, runs: RecordedEdits, conditions: Sequence[str]) -> None:
    """The conditions beside a panel, first at the top, and a note in rows without runs."""
    panel.set(yticks=range(len(conditions)), ylim=(len(conditions) - 0.5, -0.5),
                  yticklabels=[CONDITION_NAMES[condition] for condition in conditions])
    figures.note_not_run(panel, [place for place, name in enumerate(conditions) if not runs.find(name)])


def _legend(figure: Figure, lines: Sequence[dict[str, Any]]) -> None:
    handles = [plt.Line2D([], [], **line | {"linestyle": "none"}) for line in lines]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, fontsize=9)


def edits_of_facts(runs: RecordedEdits, conditions: Sequence[str]) -> Figure:
    """Change of the logit difference in the asked question against that in the edited one, a dot a fact and seed."""
    figure, panels = plt.subplots(1, len(conditions), figsize=(7.2, 2.9), sharex=True, sharey=True, squeeze=False)
    for panel, condition in zip(panels[0], conditions, strict=True):
        for edit in ("right", "forward"):
            edited, asked = runs.points(edit, condition)
            panel.plot(edited, asked, **_EDITS[edit] | {"linestyle": "none", "markersize": 3, "alpha": 0.5})
        panel.axline((0, 0), slope=1, color="k", linewidth=0.6)
        panel.axhline(0, color="k", linewidth=0.6)
        panel.set_title(CONDITION_NAMES[condition], fontsize=9)
        panel.set_xlabel("change in edited question (nats)", fontsize=9)
    panels[0, 0].set_ylabel("change in asked question (nats)", fontsize=9)
    _legend(figure, [_EDITS[edit] for edit in ("forward", "right")])
    return figure


def measures_by_condition(runs: RecordedEdits, conditions: Sequence[str]) -> Figure:
    """Distance ratio, fact probe and direction probe of both pairs of questions, a row a condition, one dot a seed."""
    pairs = {"left": {**LINES["forward"], "label": "forward and reverse: one answer"},
             "ends": {**LINES["control"], "label": "right-hand and reverse: either entity"}}
    figure, panels = plt.subplots(1, 3, figsize=(7.2, 0.45 * len(conditions) + 1.6), sharey=True)
    for panel, (label, key) in zip(panels, _MEASURES.items(), strict=False):
        for pair, offset in (("left", -0.15), ("ends", 0.15)):
            for place, condition in enumerate(conditions):
                figures.dots(panel, place + offset, runs.metric(f"{pair}_{key}", condition), across=True,
                             **pairs[pair] | {"markersize": 4})
        panel.set_xlabel(label, fontsize=9)
    for panel, at in zip(panels, (1, None, 50), strict=True):  # as far as different facts; chance
        if at is not None:
            panel.axvline(at, **LINES["bound"] | {"linewidth": 1})
    for panel in panels[1:]:
        panel.set_xlim(-4, 104)
    _name_rows(panels[0], runs, conditions)
    _legend(figure, list(pairs.values()))
    return figure


def edit_table(runs: RecordedEdits) -> str:
    """Transfer ratio and, in parentheses, answers that follow and others kept, in percent: means over seeds."""
    rows = [[CONDITION_NAMES[condition], len(runs.find(condition)) or "",
             *(_edit_cell(runs, edit, condition) for edit in _COLUMNS.values())] for condition in CONDITION_NAMES]
    return report.markdown(["", "seeds", *_COLUMNS], rows)


def _edit_cell(runs: RecordedEdits, edit: str, condition: str) -> str:
    if not runs.find(condition):
        return "not run here"
    ratio, percent, kept = (runs.metric(f"{edit}_{key}", condition).mean() for key in ("transfer", "follows", "kept"))
    return f"{ratio:.2f} ({percent:.0f}, {kept:.0f})"


def design_table(runs: RecordedEdits, conditions: Sequence[str]) -> str:
    """Other facts kept, and what each edit does, where conditions differ in how they edit: means over seeds, or one."""
    def row(condition: str) -> list[Any]:
        mean = lambda metric: runs.at_all(metric, condition).mean()
        return [f"{mean('forward_kept'):.0f}", *(f"{mean(f'{edit}_transfer'):.2f} ({mean(f'{edit}_follows'):.0f})"
                                                 for edit in ("forward", "right", "other"))]

    return report.markdown(
        ["", "seeds", "others kept, %", "edited forward", "right-hand question edited", "another fact edited"],
        [[CONDITION_NAMES[name], count, *(row(name) if count else ["not run here"] * 4)]
         for name in conditions for count in [len(runs.at_all("forward_kept", name))]])


def told_edit(runs: RecordedEdits, edit: str, condition: str) -> str:
    """Answers that follow, in percent, and the transfer ratio: means over seeds, each with its 95 % interval."""
    if not runs.find(condition):
        return "not run here"
    follows, ratio = (runs.metric(f"{edit}_{key}", condition) for key in ("follows", "transfer"))
    return f"{_told(follows, 0, ' %')}, ratio {_told(ratio, 2)}"


def told_measure(runs: RecordedEdits, measure: str, condition: str) -> str:
    """A measure of states: mean over seeds with its 95 % interval; a dash where the condition does not have it."""
    return _measure_cell(runs.metric(measure, condition)) if runs.find(condition) else "not run here"


def _told(values: np.ndarray, digits: int, unit: str = "") -> str:
    low, high = report.bootstrap_interval(values)
    return f"{values.mean():.{digits}f}{unit} ({low:.{digits}f} to {high:.{digits}f})"


def verdict_table(runs: RecordedEdits) -> str:
    """One store or two, a row a condition: what theory expects, what follows in each direction, and what was found."""
    rows = [[title, len(runs.find(condition)) or "", stores_expected(condition),
             *(told_edit(runs, edit, condition) for edit in ("forward", "reverse")),
             f"**{stores_found(runs, condition)}**"] for condition, title in CONDITION_NAMES.items()]
    return report.markdown(["", "seeds", "expected", "edited forward, reverse follows",
                            "edited in reverse, forward follows", "found"], rows)


def measure_table(runs: RecordedEdits) -> str:
    """Every measure of both pairs of questions, mean over seeds with its 95 % interval."""
    names = {f"{title}, {word}": f"{pair}_{key}" for title, key in _MEASURES.items()
             for pair, word in (("left", "same answer"), ("ends", "either entity"))}
    rows = [[title, *(_measure_cell(runs.metric(name, condition)) for name in names.values())]
            for condition, title in CONDITION_NAMES.items()
            if condition not in PART_CONDITIONS and runs.find(condition)]
    return report.markdown(["", *names], rows)


def _measure_cell(values: np.ndarray) -> str:
    if not len(values):
        return "–"
    return _told(values, 2 if values.max() < 10 else 0)
