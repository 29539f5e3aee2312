"""A small model traced through forward-only fine-tuning: Fig. 4 (right) in miniature, and the cosine over adapters.

    python -m lib.language_models.traced_run --architecture llada --out results/traced_runs/llada.json

Each seed pretrains a model on facts told in both orders (`lib.language_models.pretraining`), trains adapters on other
facts told forward, follows the probability of the left entity in both directions, and takes the gradient cosine of the
tuned model, over its weights and over its adapters. A seed takes some fifteen seconds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from lib.language_models import finetuning, model_size, queries, reversal_run, signatures, synthetic_facts
from lib.language_models.architectures import ARCHITECTURES
from lib.language_models.facts import Dataset, Example
from lib.language_models.finetuning import FineTuningConfig
from lib.language_models.pretraining import PretrainingConfig, pretrain
from lib.record import claims_file
from lib.record.accepted import at_least, check_seeds, json_file
from lib.record.experiment import finished, recording
from lib.record.options import command, option

#: where the adapters are, and where they are not: the maps of a layer
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PARAMETER_SETS = ("weights", "adapters")  # over which parameters a cosine is taken
#: pairing -> the reverse query is of the fact so many places after that of the forward query
PAIRINGS = {"matched": 0, "mismatched": 1, "mismatched_two_on": 2}
PRETRAINING_STEPS = 400
_EXPERIMENT = "traced_runs"


class TracedRun(NamedTuple):
    """A small run with its probabilities along the way."""

    model: Any  # tuned, its adapters apart
    tokenizer: Any
    data: Dataset  # the held-out facts
    curves: dict[str, list]  # those of `lib.language_models.reversal_run.run`
    metrics: dict[str, float]
    share: float  # of each held-out sentence in the text of fine-tuning


def trace(architecture: str, seed: int = 0, *, facts: int = 40, held: int = 8, steps: int = PRETRAINING_STEPS,
          epochs: int = 200, masking: str = "any") -> TracedRun:
    """Pretrain, then train adapters and follow the left entity's probability at every tenth step.

    Every sentence begins with the lead of the probes, "Fact:", so that they ask what was trained.

    :param facts: told in pretraining, in both orders
    :param held: other facts, fine-tuned on in forward order
    :param steps: of pretraining
    """
    pretraining = PretrainingConfig(architecture, facts=facts, stock=18, width=96, steps=steps, warmup=50,
                                    learning_rate=4e-3, seed=seed)
    split = synthetic_facts.recombined_worlds({"told": facts, "held": held}, pretraining.stock, seed)
    text, data = _led(synthetic_facts.pretraining_examples(split["told"], "both", pretraining.kinds)), split["held"].p2c
    data = dataclasses.replace(data, train=_led(data.train), forward=_led(data.forward), reverse=_led(data.reverse))
    tokenizer = synthetic_facts.word_tokenizer(not ARCHITECTURES[architecture].causal, pretraining.stock)
    model, _ = pretrain(pretraining, text, tokenizer)
    config = FineTuningConfig(batch=2 * held, learning_rate=4e-3, epochs=epochs, masking=masking, replay=0.5, seed=seed)
    metrics, curves, tuned = reversal_run.run(model, tokenizer, data, config, replay=text, watched=held)
    return TracedRun(tuned, tokenizer, data, curves, metrics, (1 - config.replay) / len(data.train))


def _led(examples: Sequence[Example]) -> tuple[Example, ...]:
    return tuple(dataclasses.replace(each, prompt=f"{queries.LEAD} {each.prompt}") for each in examples)


def tuned_cosines(run: TracedRun) -> dict[str, Float[np.ndarray, "fact matrix"]]:
    """Gradient cosine of forward and reverse queries, by ``weights_matched``, ``adapters_mismatched`` and so on.

    :return: one row a fact; a column for each of `MATRICES`, put together over the layers, and a last one for all
        parameters of that kind
    """
    asked = [[queries.batch([each]) for each in queries.encoded_pair(run.data, fact, run.tokenizer)]
             for fact in run.data.facts]
    rows: dict[str, list] = {f"{kind}_{pairing}": [] for kind in PARAMETER_SETS for pairing in PAIRINGS}
    for pairing, shift in PAIRINGS.items():
        for (forward, _), (_, reverse) in zip(asked, asked[shift:] + asked[:shift], strict=True):
            parts = signatures.gradient_alignment(run.model, forward, reverse)
            for kind in PARAMETER_SETS:
                adapters = kind == "adapters"
                mine = {name: part for name, part in parts.items() if finetuning.is_adapter(name) == adapters}
                rows[f"{kind}_{pairing}"].append([
                    signatures.whole({name: part for name, part in mine.items() if f".{matrix}." in name}).cosine
                    for matrix in MATRICES] + [signatures.whole(mine).cosine])
    return {name: np.array(values) for name, values in rows.items()}


def measurements(run: TracedRun) -> tuple[dict[str, float], dict[str, list]]:
    """Metrics and curves of one seed, as they are recorded.

    :return: probabilities of the left entity at the first step and on average over the second half of the run, mean
        cosines over facts, accuracies; then the probabilities step by step, and the mean cosines by matrix
    """
    found: dict[str, float] = dict(run.metrics)
    curves: dict[str, list] = {}
    for direction in ("forward", "reverse"):
        curve = run.curves[f"probability_{direction}"]
        curves[f"probability_{direction}"] = curve
        found |= {f"start_{direction}": curve[0], f"late_{direction}": float(np.mean(curve[len(curve) // 2:]))}
    for name, values in tuned_cosines(run).items():
        *curves[name], found[f"cosine_{name}"] = values.mean(0).tolist()
    return found, curves


# What recorded runs say --------------------------------------------------------------------------------------


def reverse_rises(run: Mapping[str, Any]) -> bool:
    """Does the reverse probability rise in the median seed, and stay below the forward one in every seed?

    It rises if, on average over the second half of fine-tuning, it is above a twentieth and above ten times its start.
    """
    start, late, ahead = (np.array(run["metrics"][name]) for name in ("start_reverse", "late_reverse", "late_forward"))
    return bool(np.median(late) > max(0.05, 10 * np.median(start)) and (late < ahead).all())


def exceeds(run: Mapping[str, Any], pairing: str, other: str) -> bool:
    """Is the cosine of one pairing above that of another by more than .1, in every seed, over weights and adapters?"""
    return all(np.min(np.subtract(*(run["metrics"][f"cosine_{kind}_{name}"] for name in (pairing, other)))) > 0.1
               for kind in PARAMETER_SETS)


def cosines_over_seeds(run: Mapping[str, Any]) -> dict[str, Float[np.ndarray, " seed"]]:
    """Cosines over weights and adapters: matched, mismatched; matched within query and key maps, within the others."""
    routing = np.isin(run["curves"]["matrix"], ("q_proj", "k_proj"))
    found: dict[str, Float[np.ndarray, " seed"]] = {}
    for kind in PARAMETER_SETS:
        by_matrix = np.array(run["curves"][f"{kind}_matched"])
        found |= {f"{kind}, {name}": np.array(run["metrics"][f"cosine_{kind}_{name}"])
                  for name in ("matched", "mismatched")}
        found |= {f"{kind}, routing": by_matrix[:, routing].mean(1), f"{kind}, rest": by_matrix[:, ~routing].mean(1)}
    return found


# From the command line ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class TracedRunOptions:
    """What the command can be told."""

    architecture: str = option("llada", choices=tuple(ARCHITECTURES))  # whose classes and configuration
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)  # one run each
    epochs: int = 200  # of fine-tuning
    out: Path = option()  # write the result here (JSON)

    def __post_init__(self) -> None:
        check_seeds(self.seeds)
        at_least(self, epochs=1)
        json_file("--out", self.out)


def record_traces(options: TracedRunOptions) -> None:
    """Trace every seed and record the result; one that is there already stays.

    :raises ValueError: if ``out`` holds another result
    """
    asked = {"architecture": options.architecture, "epochs": options.epochs, "pretraining_steps": PRETRAINING_STEPS}
    if finished(options.out, experiment=_EXPERIMENT, parameters=asked, seeds=options.seeds):
        print(f"{options.out}: this run is done, and its result stays")
        return
    with recording({options.out: asked}, experiment=_EXPERIMENT, seeds=options.seeds,
                   registered=claims_file.registered_for(_EXPERIMENT)) as recorded:
        runs = [trace(options.architecture, seed, epochs=options.epochs) for seed in options.seeds]
        found = [measurements(run) for run in runs]
        metrics = {name: [each[name] for each, _ in found] for name in found[0][0]}
        curves = {name: [each[name] for _, each in found] for name in found[0][1]}
        recorded.save(metrics, {"step": runs[0].curves["step"], "matrix": MATRICES, **curves}, share=runs[0].share,
                      size=model_size.size_of(runs[0].model))
    for name, values in metrics.items():
        print(f"{name:36s}", *(f"{value:8.3f}" for value in values))


main = command(TracedRunOptions, record_traces)

if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
