"""Overwrite and erase facts of a trained model through one question each, and ask the others: one condition, one seed.

    python -m lib.stores.edit_run --condition attention --seed 0 --out results/one_store/full_attention_0.json

The model is trained first, or taken from the work folder. Facts that are answered in all three of their questions are
edited one at a time (`lib.stores.transfer`), each time from the trained weights. A run that is interrupted goes on from
the fact it was at; one that is done is left alone.

Metrics: how many questions of each kind are answered (percent), for each edit the transfer ratio, answers that
follow, others kept and margins reached (percent) and steps, and the measures of `lib.stores.states`. Curves: the edits
fact by fact, and the measures layer by layer.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lib.record import provenance
from lib.record.accepted import at_least, check_seeds, json_file, one_of
from lib.record.experiment import finished, recording
from lib.record.options import command, option
from lib.record.training_state import Checkpoint
from lib.stores import states, transfer
from lib.stores.editing import EditConfig, allow_edits
from lib.stores.subjects import SUBJECTS
from lib.stores.transfer import EDITS, FactQuestions, Outcome

_EXPERIMENT = "one_store"
_CURVES = ("edited", "asked", "start", "ahead", "kept", "steps")
FEWEST_FACTS = 4  # that must be answered for anything to be measured


@dataclasses.dataclass(frozen=True, kw_only=True)
class EditRunOptions:
    """What the command can be told."""

    condition: str = option(choices=SUBJECTS)  # whose facts are edited
    seed: int = 0  # of the model, and of its facts
    facts: int = 26  # edited at most, evenly chosen among those that are answered
    work: Path = provenance.ROOT / "_build" / "one_store"  # folder of the trained models
    out: Path = option()  # the result (JSON)
    edit: EditConfig = option(EditConfig())

    def __post_init__(self) -> None:
        json_file("--out", self.out)
        one_of(self, condition=tuple(SUBJECTS))
        check_seeds([self.seed])
        at_least(self, facts=FEWEST_FACTS)


def edit_and_measure(asked: EditRunOptions) -> None:
    """One run; a result that is there already stays.

    :raises ValueError: for a result of another run in its place
    :raises lib.record.training_state.CheckpointError: for a checkpoint of another run
    :raises ArithmeticError: if training diverges, or too few facts are answered to edit any
    """
    parameters = edit_parameters(asked)
    if finished(asked.out, experiment=_EXPERIMENT, parameters=parameters, seeds=[asked.seed]):
        print(f"{asked.out}: this run is done, and its result stays")
        return
    with recording({asked.out: parameters}, experiment=_EXPERIMENT, seeds=[asked.seed]) as recorded:
        model, facts = SUBJECTS[asked.condition].prepare(asked.seed, asked.work, asked.condition)
        allow_edits(model, SUBJECTS[asked.condition].edits)
        metrics, curves = measured_edits(model, facts, asked.edit, asked.facts, recorded.checkpoint)
        recorded.save({name: [value] for name, value in metrics.items()}, curves)
    shown = "facts", "forward_transfer", "forward_follows", "forward_kept", "reverse_transfer", "right_transfer"
    print(asked.out.stem, *(f"{name} {metrics[name]:.2f}" for name in shown), flush=True)


def edit_parameters(asked: EditRunOptions) -> dict[str, Any]:
    """What is recorded of a run and known before its model is."""
    return {"condition": asked.condition, "edited": asked.facts, **dataclasses.asdict(asked.edit),
            "subject": changed_fields(SUBJECTS[asked.condition])}


def changed_fields(config: Any) -> dict[str, Any]:
    """The fields of a dataclass that differ from their defaults, and so on in fields that are dataclasses."""
    found = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            found[field.name] = changed_fields(value)
        elif value != field.default:
            found[field.name] = value
    return found


def measured_edits(
    model: Any, facts: Sequence[FactQuestions], config: EditConfig, most: int, checkpoint: Checkpoint
) -> tuple[dict[str, float], dict[str, list]]:
    """Metrics and curves of the edits of at most so many of the facts that are answered.

    :raises ArithmeticError: where fewer than `FEWEST_FACTS` are
    """
    ahead = transfer.leads(model, facts)
    right = transfer.answered_facts(ahead)
    if len(right) < FEWEST_FACTS:
        raise ArithmeticError(f"{len(right)} of {len(facts)} facts are answered in all three questions; at least "
                              f"{FEWEST_FACTS} are needed to edit and compare")
    chosen = transfer.evenly(right, most)
    outcomes = _outcomes(model, facts, chosen, config, checkpoint)
    found, layers = states.state_metrics(model, [facts[fact] for fact in right])
    answers = {f"{name}_answered": float(100 * (values >= transfer.LEAST_LEAD).mean())
               for name, values in ahead.items()}
    curves = {f"{edit}_{key}": [outcome[edit][key] for outcome in outcomes] for edit in EDITS for key in _CURVES}
    return ({**answers, "facts": float(len(chosen)), **transfer.edit_metrics(outcomes), **found},
            {"fact": chosen, **curves, **layers})


def _outcomes(model: Any, facts: Sequence[FactQuestions], chosen: Sequence[int], config: EditConfig,
              checkpoint: Checkpoint) -> list[Mapping[str, Outcome]]:
    """What the edits do to each fact, going on from the checkpoint."""
    before = checkpoint.load()
    found: list[Mapping[str, Outcome]] = before[1]["outcomes"] if before else []
    for fact in chosen[len(found):]:
        found.append(transfer.measure_fact(model, facts, fact, config))
        print(f"fact {len(found)} of {len(chosen)}: {found[-1]['forward']['steps']} steps to overwrite it forward",
              file=sys.stderr, flush=True)
        if checkpoint.due():
            checkpoint.save({"facts": torch.tensor(chosen)}, {"outcomes": found})
    return found


main = command(EditRunOptions, edit_and_measure)

if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
