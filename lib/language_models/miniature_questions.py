"""What else is asked of the miniature, and how its recorded cells answer: rows of figures, and registered checks.

Each check compares a mean over seeds with a threshold of book/claims.yml, and its 95 % bootstrap interval with it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from lib.language_models import figures, synthetic_facts
from lib.language_models.miniature import ASKING, ASKING_THROUGHOUT, LENGTH_MASKING, LONGER_DIFFUSION, plan
from lib.language_models.miniature_cell import parameters_of
from lib.language_models.miniature_results import CellChange, RecordedCells, cell_title, never_in_reverse
from lib.language_models.miniature_sentences import ASKED_FORMS
from lib.language_models.objectives import PART_MASKING
from lib.record import report

REGISTERED_SEEDS = 5  # of every cell that a prediction names
_LLAMA = {"architecture": "llama"}
_SHOWN = {"infilled": "holes filled", "permuted": "order permuted", "masked": "after a masked copy",
          "identity": "plain bridge", "composed": "composed bridge", "reversed": "reversed sentences"}
#: how Llama is asked for the first entity -> form -> what is changed
FORM_CHANGES: dict[str, dict[str, CellChange]] = {
    "throughout": {form: {**_LLAMA, **change} for form, change in ASKING_THROUGHOUT.items()},
    "in fine-tuning alone": {form: {**_LLAMA, **change} for form, change in ASKING.items()}}
#: what fine-tuning may mask -> what is changed; those without the source first
SWEEP: dict[str, CellChange] = {masking.replace("+", ", "): {"masking": masking} for masking in sorted(
    PART_MASKING, key=lambda masking: ("source" in masking, "target" in masking, "relation" in masking))}
WITHOUT_SOURCE, WITH_SOURCE = ([change for name, change in SWEEP.items() if ("source" in name) == asked]
                               for asked in (False, True))
#: wording -> what is changed
WORDING_CHANGES: dict[str, CellChange] = {
    "two words, two orders": {}, "one word, two orders": {"wording": "one word"},
    "two words, one order": {"wording": "one order"}}
#: which answer is the longer one -> what is changed
ANSWER_LENGTHS: dict[str, CellChange] = {
    "forward longer (P2D)": {"dataset": "p2d"},
    "equal (P2D, short description)": {"dataset": "p2d", "wording": "short description"},
    "reverse longer (P2D, exchanged)": {"dataset": "p2d", "wording": "exchanged"}}
#: steps of the plain objective in pretraining -> what is changed
DIFFUSION_STEPS: dict[int, CellChange] = {steps: {"objective": "diffusion", "steps": steps}
                                          for steps in LONGER_DIFFUSION}
#: masking in fine-tuning -> how a figure calls it
RATE_NAMES = dict(zip(LENGTH_MASKING, ("uniform rate", "15 %", "50 %", "whole entities"), strict=True))


def form_rows(cells: RecordedCells, when: str) -> dict[str, dict[str, Float[np.ndarray, " seed"]]]:
    """Accuracies of Llama in each form, below those of the plain one.

    :param when: ``throughout`` or ``in fine-tuning alone``
    """
    rows = {"plain": _LLAMA} | {_SHOWN[form]: change for form, change in FORM_CHANGES[when].items()}
    return {name: cells.accuracies(**change) for name, change in rows.items()}


def length_rows(cells: RecordedCells, direction: str) -> dict[str, dict[int, Float[np.ndarray, " seed"]]]:
    """Accuracy of LLaDA in one direction: masking -> words of a name -> one value a seed."""
    return {name: {length: cells.metric(f"{direction}_accuracy", **length_change(length, masking))
                   for length in synthetic_facts.NAME_LENGTHS} for masking, name in RATE_NAMES.items()}


def answer_length_figure(cells: RecordedCells, again: RecordedCells) -> Figure:
    """Forward and reverse accuracy by which answer is the longer one; words of names beside, where any were counted.

    :param again: the cells of the first row, run a second time
    """
    (first, as_told), *others = ANSWER_LENGTHS.items()
    rows = [(first, cells, as_told), ("the same, run again", again, as_told),
            *((name, cells, change) for name, change in (*others, ("equal (parents, children)", {})))]
    found = {title: {name: {direction: runs.metric(f"{direction}_{metric}", **change)
                            for direction in ("forward", "reverse")} for name, runs, change in rows}
             for title, metric in (("whole answers", "accuracy"), ("words of names", "words"))}
    counted = any(len(each["forward"]) for each in found["words of names"].values())
    drawn = figures.accuracies_by_condition(found if counted else {"whole answers": found["whole answers"]})
    for panel in drawn.axes:
        panel.set_xlabel("right, %")
    return drawn


def length_change(length: int, masking: str) -> CellChange:
    """The cell with names of so many words, and a masking in fine-tuning."""
    return {"name_length": length, "masking": masking}


def cells_made(cells: RecordedCells, part: str) -> tuple[int, int]:
    """How many cells of a question are recorded, and how many are planned.

    :param part: one of `lib.language_models.miniature.MINIATURE_PARTS`
    """
    planned = list(plan(REGISTERED_SEEDS, part))
    return sum(cell.seed in cells.find(**parameters_of(cell)) for cell in planned), len(planned)


def question_figure(cells: RecordedCells, part: str) -> Figure | None:
    """The figure of one question of `lib.language_models.miniature.MINIATURE_PARTS`; None without a recorded cell."""
    rows = lambda changes: {name: cells.accuracies(**change) for name, change in changes.items()}
    plain = {f"plain, {steps:,} steps": change for steps, change in DIFFUSION_STEPS.items()}
    drawn = {
        "first_entity": lambda: figures.accuracies_by_condition(
            {f"asked {when}": form_rows(cells, when) for when in FORM_CHANGES}),
        "sweep": lambda: figures.accuracies_by_condition({"masked in fine-tuning": rows({**SWEEP, "any token": {}})}),
        "wording": lambda: figures.accuracies_by_condition({
            title: rows({wording: {**change, "architecture": name} for wording, change in WORDING_CHANGES.items()})
            for name, title in (("llada", "LLaDA"), ("llama", "Llama"))}),
        "objective": lambda: figures.accuracies_by_condition(
            {"objective in pretraining": rows({"by question, 1,000 steps": {}, **plain})}),
        "length": lambda: figures.accuracies_by_name_length(
            {direction: length_rows(cells, direction) for direction in ("forward", "reverse")})}
    return drawn[part]() if cells_made(cells, part)[0] else None


# What the checks ask -----------------------------------------------------------------------------------------


def registered_evidence(
    cells: RecordedCells, values: Mapping[str, tuple[str, CellChange]], *more: CellChange
) -> dict[str, Any]:
    """`lib.language_models.miniature_results.RecordedCells.evidence`, where every registered seed is needed, and every
    cell must have been measured so: one recorded before a metric was there is missing.
    """
    changes = (*(change for _, change in values.values()), *more)
    lacking = {name: change for name, (metric, change) in values.items()
               if len(cells.metric(metric, **change)) < len(cells.find(**change))}
    told = cells.evidence({name: value for name, value in values.items() if name not in lacking}, *changes)
    missing = {change_title: [seed for seed in range(REGISTERED_SEEDS) if seed not in there]
               for change_title, there in ((cell_title(change), cells.find(**change)) for change in changes) if there}
    return told | {"needs": told["needs"] | {
        **{f"{title}, seeds {', '.join(map(str, seeds))}": None for title, seeds in missing.items() if seeds},
        **{f"{cell_title(change)}, with {name}": None for name, change in lacking.items()}}}


def _reverse(cells: RecordedCells, change: CellChange) -> Float[np.ndarray, " seed"]:
    return cells.metric("reverse_accuracy", **change)


def all_above(cells: RecordedCells, changes: Iterable[CellChange], least: float | int,
              metric: str = "reverse_accuracy") -> bool:
    """Does the interval of each change's mean lie above so many percent?"""
    return all(report.bootstrap_interval(cells.metric(metric, **change))[0] > least for change in changes)


def at_most(cells: RecordedCells, change: CellChange, most: float | int, metric: str = "reverse_accuracy") -> bool:
    """Does the interval of a change's mean end at so many percent or less?"""
    return report.bootstrap_interval(cells.metric(metric, **change))[1] <= most


def _paired(
    cells: RecordedCells, *changes: CellChange, metric: str = "reverse_accuracy"
) -> list[Float[np.ndarray, " seed"]]:
    """A metric over the seeds that all of the changes were run with.

    :raises ValueError: if there are fewer than two
    """
    found = [cells.find(**change) for change in changes]
    seeds = sorted(set.intersection(*map(set, found)))
    if len(seeds) < 2:
        raise ValueError(f"cells: {len(seeds)} seeds were run under each of {list(changes)}, and two are needed")
    return [np.array([each[seed]["metrics"][metric][0] for seed in seeds]) for each in found]


def all_ahead(cells: RecordedCells, pairs: Iterable[Sequence[CellChange]], least: float | int) -> bool:
    """In each pair, is the first change ahead of the second by so many points in reverse, and its interval above 0?"""
    return all(report.is_ahead(np.subtract(*_paired(cells, *pair)), least) for pair in pairs)


def never_recalls(cells: RecordedCells, changes: Iterable[CellChange]) -> bool:
    """Is at most one fact recalled in reverse, in every seed of every change?"""
    return all(never_in_reverse(_reverse(cells, change)) for change in changes)


def one_word_contrast(cells: RecordedCells, masked: str, causal: str, least: float | int = 20) -> bool:
    """With one word in two orders, does one model recall at most one fact and the other more than ``least`` percent?"""
    change = WORDING_CHANGES["one word, two orders"]
    return never_recalls(cells, [{**change, "architecture": causal}]) \
        and all_above(cells, [{**change, "architecture": masked}], least)


def falls_with_length(cells: RecordedCells, fixed: str, drawn: str, least: float | int = 20) -> bool:
    """From names of one word to names of four, does reverse accuracy fall by so many points more under ``fixed``?"""
    changes = [length_change(length, masking) for masking in (fixed, drawn) for length in (1, 4)]
    short, long, short_drawn, long_drawn = _paired(cells, *changes)
    return report.is_ahead((short - long) - (short_drawn - long_drawn), least)


def exchange_turns(cells: RecordedCells, told: CellChange, exchanged: CellChange, least: float | int = 20) -> bool:
    """Does the gap of forward over reverse grow by so many points when the two entities are exchanged, to above 0?"""
    forward, reverse = (_paired(cells, told, exchanged, metric=f"{direction}_accuracy")
                        for direction in ("forward", "reverse"))
    growth = (forward[1] - reverse[1]) - (forward[0] - reverse[0])
    return report.is_ahead(growth, least) and all_above(cells, [exchanged], 0, metric="gap")


def late_pairs() -> list[tuple[CellChange, CellChange]]:
    """Asked throughout, and asked in fine-tuning alone, for each form that asks for the first entity itself."""
    early, late = FORM_CHANGES.values()
    return [(early[form], late[form]) for form in ASKED_FORMS]


def reverse_of(changes: Mapping[str, CellChange]) -> dict[str, tuple[str, CellChange]]:
    """What `lib.language_models.miniature_results.RecordedCells.evidence` shows of each: its reverse accuracy."""
    return {name: ("reverse_accuracy", change) for name, change in changes.items()}
