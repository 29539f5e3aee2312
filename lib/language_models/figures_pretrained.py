"""Figures of the runs on SmolLM2-135M: data in, a matplotlib figure out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from lib.language_models.filled_names import FILLING_METRICS
from lib.language_models.name_ranks import ANSWER_KINDS
from lib.language_models.pretrained_results import CHANCE, FROM_KEPT, RecordedRuns
from lib.record import figures
from lib.record.figures import LINES

#: kind of answer -> its colour, from right to wrong
_COLOURS = dict(zip(ANSWER_KINDS, ("#009E73", "#D55E00", "#CC79A7", "#E69F00", "#BBBBBB", "#56B4E9"), strict=True))
#: name of a signature in a result -> its words on an axis
_SIGNATURES = {"correlation": "score correlation", "cosine": "gradient cosine"}
#: where a piece of a wrong answer may stand -> its words on an axis
_PLACES = {"of_right": "in the right name", "of_shown": "in the shown name", "of_both": "in either",
           "of_others": "in another fact's names"}
_PATCHES = (("matched", "same fact's", "rope"), ("mismatched", "another fact's", "control"))


def written_and_ranked(runs: RecordedRuns, conditions: Sequence[str]) -> Figure:
    """Exact match, and how often the right name is first of all, by direction; a row a condition, one dot a seed."""
    shown = runs.recorded(conditions)
    figure, panels = plt.subplots(1, 2, figsize=(7.2, 0.5 * len(shown) + 1.8), sharey=True)
    for panel, name in zip(panels, ("{}_accuracy", "{}_first_without_prior"), strict=True):
        for place, condition in enumerate(shown):
            for direction, offset in (("forward", -0.16), ("reverse", 0.16)):
                figures.dots(panel, place + offset, runs.metric(name.format(direction), condition), across=True,
                             **LINES[direction] | {"label": direction if place == 0 else None})
    panels[1].axvline(CHANCE, **LINES["bound"], label="chance")
    _name_rows(panels[0], shown)
    panels[0].set_xlabel("written exactly, %")
    panels[1].set(xlabel="ranked first of all, %", xlim=(-4, 104))
    figures.legend_below(figure, panels[1], 3, runs.not_run(conditions))
    return figure


def kinds_of_answers(runs: RecordedRuns, conditions: Sequence[str]) -> Figure:
    """What is written: a bar for each condition, direction and way of decoding, mean over seeds."""
    rows = [(condition, direction, word) for condition in runs.recorded(conditions)
            for direction in ("forward", "reverse")
            for word in ("free", "forbidden")]
    figure, axes = plt.subplots(figsize=(7.2, 0.3 * len(rows) + 1.4))
    left = np.zeros(len(rows))
    for kind, colour in _COLOURS.items():
        widths = np.array([runs.metric(f"{direction}_{word}_{kind.replace(' ', '_')}", condition).mean()
                           for condition, direction, word in rows])
        axes.barh(range(len(rows)), widths, left=left, color=colour, label=kind if widths.any() else None, height=0.8)
        left += widths
    names = [f"{condition}, {direction}{', shown name forbidden' if word == 'forbidden' else ''}"
             for condition, direction, word in rows]
    axes.set(yticks=range(len(rows)), yticklabels=names, xlabel="answers, %", xlim=(0, 100))
    axes.invert_yaxis()
    figures.legend_below(figure, axes, 6)
    return figure


def written_with_length(runs: RecordedRuns, conditions: Sequence[str]) -> Figure:
    """What is written exactly, freely and where the answer's length is known; a panel a condition, one dot a seed.

    Of the runs that measured answers of known length (`lib.language_models.filled_names`).
    """
    known = {f"length known, {way}": metric for way, metric in FILLING_METRICS.items()}
    ways = {"free answer": "free_right", **known}
    figure, panels = plt.subplots(1, len(conditions), figsize=(7.2, 3.1), sharey=True, squeeze=False)
    for panel, condition in zip(panels[0], conditions, strict=True):
        for direction, offset in (("forward", -0.16), ("reverse", 0.16)):
            measured = runs.measured(f"{direction}_length_at_once", condition).values()
            for place, name in enumerate(ways.values() if measured else ()):
                values = np.array([run["metrics"][f"{direction}_{name}"][0] for run in measured])
                figures.dots(panel, place + offset, values, across=True,
                             **LINES[direction] | {"label": direction if place == 0 else None})
        _name_rows(panel, list(ways))
        panel.set_xlabel("written exactly, %")
        panel.set_title(condition, fontsize=10)
    figures.legend_below(figure, panels[0, 0], 2, [each for each in conditions if not runs.measured(
        "reverse_length_at_once", each)])
    return figure


def pieces_of_wrong_answers(runs: RecordedRuns, condition: str = FROM_KEPT) -> Figure:
    """Where the pieces of wrong reverse answers stand, before and after fine-tuning; a row a place, one dot a seed."""
    figure, axes = plt.subplots(figsize=(7.2, 2.9))
    measured = bool(runs.measured("reverse_wrong_of_right", condition))
    for place, name in enumerate(_PLACES if measured else ()):
        for when, line, offset in (("before_", "control", -0.14), ("", "reverse", 0.14)):
            label = f"{'before' if when else 'after'} fine-tuning" if place == 0 else None
            values = runs.metric(f"{when}reverse_wrong_{name}", condition)
            figures.dots(axes, place + offset, values, across=True, **LINES[line] | {"label": label})
    _name_rows(axes, list(_PLACES.values()))
    axes.set_xlabel("pieces of wrong answers, %")
    figures.legend_below(figure, axes, 2, [] if measured else [condition])
    return figure


def first_by_condition(runs: RecordedRuns, conditions: Sequence[str], chance: float = CHANCE) -> Figure:
    """How often the right name is first of all in reverse, its prior taken out, before and after; one dot a seed.

    :param chance: percent
    """
    shown = runs.recorded(conditions)
    figure, axes = plt.subplots(figsize=(7.2, 0.4 * len(shown) + 1.7))
    for place, condition in enumerate(shown):
        for when, line, offset in (("before_", "control", -0.14), ("", "reverse", 0.14)):
            label = f"{'before' if when else 'after'} fine-tuning" if place == 0 else None
            values = runs.metric(f"{when}reverse_first_without_prior", condition)
            figures.dots(axes, place + offset, values, across=True, **LINES[line] | {"label": label})
    axes.axvline(chance, **LINES["bound"], label="chance")
    _name_rows(axes, shown)
    axes.set_xlabel("reverse: right name first of all, %")
    figures.legend_below(figure, axes, 3, runs.not_run(conditions))
    return figure


def _name_rows(panel: plt.Axes, conditions: Sequence[str]) -> None:
    """The conditions beside a panel, the first at the top, and percent along it."""
    panel.set(xlim=(-4, 104), ylim=(max(len(conditions), 1) - 0.5, -0.5))
    panel.set_yticks(range(len(conditions)), conditions)


def probabilities_along(runs: RecordedRuns, conditions: Sequence[str]) -> Figure:
    """Probability of the whole left name along fine-tuning in both queries, a panel a condition (Fig. 4, right)."""
    figure, panels = plt.subplots(1, len(conditions), figsize=(7.2, 2.8), sharey=True, squeeze=False)
    for panel, condition in zip(panels[0], conditions, strict=True):
        steps = runs.curves("step", condition)
        for direction in ("forward", "reverse") if len(steps) else ():
            curves = np.maximum(runs.curves(f"probability_{direction}", condition), 1e-12)
            panel.plot(steps[0], curves.T, **LINES[direction] | {"marker": ""}, linewidth=0.7, alpha=0.4)
            panel.plot(steps[0], np.median(curves, 0), **LINES[direction], label=f"{direction}, median")
        panel.set(xlabel="step of fine-tuning", yscale="log", title=condition)
    panels[0, 0].set_ylabel("probability of the left name")
    figures.legend_below(figure, panels[0, 0], 2)
    return figure


def signatures_along(runs: RecordedRuns, conditions: Sequence[str]) -> Figure | None:
    """Both signatures along fine-tuning, mean over layers, of one fact and of two; a row a condition (Figs 4 and 6).

    A thin line is a seed, a thick one their mean. None where no run has measured them along fine-tuning.
    """
    conditions = [name for name in conditions if len(runs.curves_along("along_cosine_matched", name))]
    if not conditions:
        return None

    def draw(panel: plt.Axes, condition: str, signature: str) -> None:
        for word, line in (("matched", "rope"), ("mismatched", "control")):
            curves = runs.curves_along(f"along_{signature}_{word}", condition) / 100  # recorded in percent
            steps = runs.curves("step", condition)[0]
            panel.plot(steps, curves.T, **LINES[line] | {"marker": ""}, linewidth=0.7, alpha=0.4)
            panel.plot(steps, curves.mean(0), **LINES[line], label=word)
        panel.axhline(0, color="k", linewidth=0.6)

    return _signature_grid(conditions, draw, "step of fine-tuning", columns=2)


def trained_signatures_by_layer(runs: RecordedRuns, conditions: Sequence[str]) -> Figure:
    """Score correlation and gradient cosine by layer, before and after fine-tuning, one fact and two (Figs 4 and 6)."""
    def draw(panel: plt.Axes, condition: str, signature: str) -> None:
        _by_layer(panel, {f"{word}, {when}": runs.curves(f"{prefix}{signature}_{word}", condition)
                          for word in ("matched", "mismatched")
                          for when, prefix in (("before", "before_"), ("after", ""))})

    return _signature_grid(conditions, draw, "layer", columns=4)


def _signature_grid(
    conditions: Sequence[str], draw: Callable[[plt.Axes, str, str], None], across: str, columns: int
) -> Figure:
    """A row a condition and a column a signature, each panel drawn by what is given; the legend in so many columns."""
    figure, panels = plt.subplots(len(conditions), 2, figsize=(7.2, 2.2 * len(conditions) + 0.6), sharex=True,
                                  sharey="col", squeeze=False)
    for row, condition in zip(panels, conditions, strict=True):
        for panel, (signature, words) in zip(row, _SIGNATURES.items(), strict=True):
            draw(panel, condition, signature)
            panel.set_ylabel(words, fontsize=9)
            panel.set_title(condition, fontsize=10)
    for panel in panels[-1]:
        panel.set_xlabel(across)
    figures.legend_below(figure, panels[0, 0], columns)
    return figure


def _by_layer(panel: plt.Axes, curves: Mapping[str, Float[np.ndarray, "seed layer"]]) -> None:
    for label, values in curves.items():
        if not len(values):
            continue
        word, when = label.split(", ")
        look = LINES["rope" if word == "matched" else "control"] | {"linestyle": "-" if when == "after" else ":"}
        figures.band(panel, range(values.shape[1]), values, **look | {"marker": ""}, label=label)
    panel.axhline(0, color="k", linewidth=0.6)


def recorded_patching_by_layer(
    runs: RecordedRuns, condition: str = "masked", score: str = "logit_difference"
) -> Figure:
    """What the reverse query gains by the forward query's attention, one layer at a time; mean and range over seeds."""
    figure, panels = plt.subplots(1, 2, figsize=(7.2, 3), sharey=True)
    for panel, (kind, title) in zip(panels, (("weights", "attention weights on the evidence"),
                                             ("output", "output of the attention")), strict=True):
        for source, whose, line in _PATCHES:
            change = runs.curves(f"patching_{score}_{kind}_{source}", condition)
            _patched(panel, change, f"{whose} forward query's", line)
        without = runs.curves(f"patching_{score}_knockout_reverse", condition)
        _patched(panel, without, "no attention to the evidence", "reverse")
        panel.axhline(0, color="k", linewidth=0.6)
        panel.set(xlabel="patched layer", title=title)
    panels[0].set_ylabel("change in the right name's\nlead over the shown one (nats)", fontsize=9)
    figures.legend_below(figure, panels[0], 3)
    return figure


def _patched(panel: plt.Axes, change: Float[np.ndarray, "seed variant"], label: str, line: str) -> None:
    """One line; the last variant, all layers at once, is left out."""
    if len(change):
        figures.band(panel, range(change.shape[1] - 1), change[:, :-1], **LINES[line] | {"marker": ""}, label=label)
