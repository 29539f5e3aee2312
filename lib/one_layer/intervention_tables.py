"""Tables of recorded interventions, in Markdown: accuracies in percent, mean and range over seeds."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from lib.one_layer import results
from lib.one_layer.intervention_results import Triple, learned_from, mean_placeholder_share, metric, patched_accuracy
from lib.one_layer.intervention_runs import ENCODING_NAMES, NamedRuns, Sources
from lib.one_layer.results import RecordedRun, at_common_step, at_step, final, last_step
from lib.record.report import Values, cell, effect, markdown, signed

# What changes reverse accuracy ------------------------------------------------------------------------------------


class Change(NamedTuple):
    """A change of training, or of the trained model while it answers."""

    label: str
    line: str  # of `record.figures.LINES`
    name: str  # of the intervention, or of the patch


TRAINED = (
    Change("trained by our recipe", "reverse", "none"),
    Change("no loss on 0 right of a capital", "reverse", "drop_right_of_capital"),
    Change("control: no loss on as many random 0", "control", "drop_random"),
    Change("control: no loss on 0 left of a capital", "control", "drop_left_of_capital"),
    Change("control: no loss on 0 left of a letter", "control", "drop_left_of_letter"),
)
PATCHED = (
    Change("patched: forward score", "forward", "score_forward"),
    Change("patched: forward attention distribution", "forward", "row_forward"),
    Change("patched: forward values", "forward", "values_forward"),
    Change("patched: forward values and embedding", "forward", "values_residual_forward"),
    Change("control: another reverse score", "control", "score_reverse"),
)


def common_step(found: Sources) -> int:
    """The last step that all runs of `TRAINED` have: trained differently, they are compared after as many steps."""
    return last_step(*(found.either(encoding=encoding, intervention=change.name)
                       for encoding in ENCODING_NAMES for change in TRAINED))


def changed_accuracies(find: Callable[..., RecordedRun | None], step: int) -> dict[Change, Values]:
    """Reverse accuracy under each change, one value a seed, none where there is no run.

    :param find: looks a run up by its intervention
    :param step: near which changes of training are read; patches are of the usual model at the end
    """
    usual = find(intervention="none")
    found: dict[Change, Values] = {}
    for change in TRAINED:
        run = find(intervention=change.name)
        found[change] = [] if run is None else at_step(run, "reverse_accuracy", step)
    return found | {change: [] if usual is None else patched_accuracy(usual, change.name) for change in PATCHED}


def changes_table(found: Sources, steps: int) -> str:
    """Reverse accuracy under every change, for each encoding in this build (at ``steps``) and recorded."""
    columns = [changed_accuracies(functools.partial(runs.find, encoding=encoding), step) for encoding in ENCODING_NAMES
               for runs, step in ((found.build, steps), (found.recorded, common_step(found)))]
    return markdown(["reverse accuracy (%)", "RoPE, this build", "RoPE, recorded", "learned, this build",
                     "learned, recorded"],
                    [[change.label, *(cell(column[change]) for column in columns)] for change in (*TRAINED, *PATCHED)])


def errors_elsewhere(runs: Iterable[RecordedRun], below: float = 95.0) -> str:
    """Runs in which the placeholder's share of the reverse errors is below this many percent; empty if none is."""
    shares = sorted((mean_placeholder_share(run), results.encoding_and_length(run), last_step(run)) for run in runs)
    rows = [[kind, f"{steps:,}", f"{share:.0f}"] for share, kind, steps in shares if share < below]
    return markdown(["encoding and length", "steps", "placeholder's share of the errors (%)"], rows) if rows else ""


def by_length(found: Mapping[int, NamedRuns], interventions: Mapping[str, str]) -> str:
    """Reverse accuracy at the end, a row a length and a column an intervention.

    :param interventions: name -> heading
    """
    rows = [[length, *(recorded_cell(runs[name]) for name in interventions)] for length, runs in found.items()]
    return markdown(["$L$", *interventions.values()], rows)


def recorded_cell(run: RecordedRun | None) -> str:
    """Reverse accuracy at the end of a run; "not run" for None."""
    return "not run" if run is None else cell(final(run, "reverse_accuracy"), 0)


# Patches ----------------------------------------------------------------------------------------------------------

SITE_NAMES = {"score": "attention score on the evidence", "row": "attention distribution", "values": "values",
              "residual": "mask embedding"}
FROM = {"forward": "its forward query", "other": "another fact, forward", "reverse": "another fact, reverse"}
MORE = {"row_values_forward": "attention distribution and values",
        "values_residual_forward": "values and mask embedding",
        "mass_reverse": "own weight on the evidence, random rest",
        "mass_forward": "forward weight on the evidence, random rest"}


def patches(runs: Mapping[str, RecordedRun]) -> str:
    """Reverse accuracy of each named run untouched and under every patch."""
    return markdown(["reverse accuracy (%), patched", *(f"from {words}" for words in FROM.values())],
                    [row for name, run in runs.items() for row in _patch_rows(name, run)])


def _patch_rows(name: str, run: RecordedRun) -> list[list[str]]:
    accuracy = lambda patch: cell(patched_accuracy(run, patch))
    return [[f"**{name}**, untouched", accuracy("itself"), "", ""],
            *([words, *(accuracy(f"{site}_{source}") for source in FROM)] for site, words in SITE_NAMES.items()),
            *([words, accuracy(patch), "", ""] for patch, words in MORE.items())]


def other_signs(runs: Iterable[RecordedRun]) -> str:
    """Seeds whose forward queries stay right with the attention weights of reverse queries that fail."""
    rows = [[run["parameters"]["length"], run["seeds"][place],
             *(f"{metric(run, name)[place]:.0f}" for name in
               ("broken_accuracy", "reverse_accuracy", "graft_mass_reverse_accuracy"))]
            for run in runs for place in np.flatnonzero(metric(run, "broken_agreement") < 50)]
    return markdown(["$L$", "seed", "forward, with the reverse weight on the evidence (%)", "reverse (%)",
                     "reverse, rest of the attention distribution at random (%)"], rows)


# Runs side by side ------------------------------------------------------------------------------------------------


def stopping(runs: Mapping[int, RecordedRun]) -> str:
    """Reverse accuracy by length, when forward recall is first learned and at the end."""
    return markdown(["$L$", "forward just learned", "end of the run"],
                    [[length, *(cell(final(run, "reverse_accuracy", point)) for point in (learned_from(run), -1))]
                     for length, run in runs.items()])


def cases(runs: NamedRuns) -> str:
    """What each run reached at its own end."""
    return markdown(["", "steps", "forward (%)", "reverse (%)", "reverse, among letters (%)",
                     "attention forward / reverse", "score correlation"],
                    [[name, *summary_row(run)] for name, run in runs.items()])


def summary_row(run: RecordedRun | None) -> list[str]:
    """Steps, accuracy (forward, reverse, reverse among letters), attention and score correlation, as a table says
    them; "not run" for None."""
    if run is None:
        return ["not run", "", "", "", "", ""]
    attention = "–"
    if "forward_attention" in run["metrics"]:
        attention = " / ".join(f"{metric(run, f'{way}_attention').mean():.2f}" for way in ("forward", "reverse"))
    accuracies = ("forward_accuracy", "reverse_accuracy", "reverse_accuracy_lowercase")
    return [str(run["parameters"]["steps"]), *(cell(metric(run, name)) for name in accuracies), attention,
            cell(metric(run, "score_correlation"), 2)]


def against(runs: NamedRuns, usual: str) -> str:
    """Reverse accuracy of each run and of the usual one at the last step of both: the difference with its interval over
    seeds, in pooled standard deviations, and the permutation p."""
    plain = runs[usual]
    found: dict[str, Any] = {name: at_common_step("reverse_accuracy", run, plain) for name, run in runs.items()
                             if name != usual and run is not None and plain is not None}
    return markdown(["", "step", "reverse (%)", f"{usual} (%)", "difference (points; 95 % interval)", "Hedges' g",
                     "$p$"],
                    [[name, f"{last_step(runs[name], plain):,}", cell(own, 0), cell(other, 0), *_described(other, own)]
                     for name, (own, other) in found.items()])


def _described(first: Values, second: Values) -> list[str]:
    found = effect(first, second)
    return [signed(found), "–" if np.isinf(found.standardised) else f"{found.standardised:.1f}", f"{found.p:.2g}"]


CASE_WORDS = {"rope, ": "RoPE, ", "learned, ": "learned positions, ", "drop_random": "as many at random",
              "drop_left_of_capital": "left of a capital", "drop_left_of_letter": "left of a lowercase letter"}


def case_words(name: str) -> str:
    """A name of `intervention_results.blocking_triples` in words: the encoding, and what the control drops instead."""
    return functools.reduce(lambda text, pair: text.replace(*pair), CASE_WORDS.items(), name)


def blocking_effects(found: Mapping[str, Triple | None]) -> str:
    """What dropping the blocking loss gains over dropping another part of the loss, and what that part gains over our
    recipe: points of reverse accuracy at the last step of each pair, with intervals over seeds.

    :param found: case -> runs by our recipe, without the blocking loss and without the other part
    """
    pair = lambda first, second: at_common_step("reverse_accuracy", first, second)
    return markdown(["encoding, and what the control drops instead", "seeds",
                     "blocking loss dropped, less the control (points; 95 % interval)", "Hedges' g", "$p$",
                     "control less our recipe (points; 95 % interval)"],
                    [[case_words(name), str(len(triple[1]["seeds"])), *_described(*pair(triple[2], triple[1])),
                      signed(effect(*pair(triple[0], triple[2])))]
                     for name, triple in found.items() if triple is not None])
