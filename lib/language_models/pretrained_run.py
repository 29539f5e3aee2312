"""Table 7 and Figs 4 and 6 on SmolLM2-135M: held-out families told forward only, then asked in both directions.

    python -m lib.language_models.pretrained_run --kind masked --dataset p2c --seed 0 \\
        --out results/pretrained/masked_p2c_any_0.json

``--kind masked`` and ``--kind autoregressive`` start from the twins of `lib.language_models.adaptation`, which are made
first if they are not there; ``published`` starts from the weights as they are, and ``--start`` names another folder.
Each seed has held-out facts of its own (`lib.language_models.families`); half of each batch is replayed from the text
of the adaptation. A run that is interrupted goes on from its checkpoint; one that is done is left alone.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.language_models import (
    adaptation,
    answer_scores,
    attention_patching,
    decoding,
    fact_signatures,
    families,
    filled_names,
    finetuning,
    model_size,
    name_ranks,
    patching_effects,
    pretrained,
    queries,
    reversal_run,
    wrong_answers,
)
from lib.language_models.facts import FACT_SOURCES, Dataset, Example
from lib.language_models.finetuning import FineTuningConfig
from lib.language_models.training_loop import print_progress
from lib.language_models.unseen_relations import UNSEEN_DATASETS, UNSEEN_SETS, unseen_facts
from lib.record.accepted import at_least, device_named, json_file, one_of
from lib.record.experiment import finished, recording
from lib.record.options import command, option, parse
from lib.record.training_state import Checkpoint

_EXPERIMENT = "pretrained"
START_KINDS = ("masked", "autoregressive", "published")
RUN_DATASETS = ("p2c", "c2p", *UNSEEN_DATASETS)
#: asked in these ways; a causal model sees nothing to the right of the left entity, and is scored by whole sentences
ASKED = ("forward", "reverse", "left")
SCORES = ("log_probability", "logit_difference")  # of the right name, and its lead over the name shown
_DIRECTIONS = ("forward", "reverse")
QUOTED = 3  # facts whose prompts, answers and right answers stand in the result
RUN_TRAINING = FineTuningConfig(rank=16, scaling=32, learning_rate=2e-3, epochs=100, batch=24, warmup=20, cooling=0.3,
                                masking="any", replay=0.5, autocast=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainedRunOptions:
    """What the command can be told."""

    kind: str = option("masked", choices=START_KINDS)  # what the model has become before
    dataset: str = option("p2c", choices=RUN_DATASETS)  # parents first, or children; or a relation never told before
    data: str = option("published", choices=FACT_SOURCES)  # whose families
    invented: int = 150  # pairs of invented names among those told before
    probed: int = 8  # facts whose attention and gradients are measured
    along: bool = False  # signatures not only before and after, but along fine-tuning as well
    conversion: str = option("standard", choices=tuple(adaptation.CONVERSIONS))  # how the masked model was made
    start: Path | None = None  # folder of the weights to start from; those of the kind if absent
    device: str = "cpu"  # cpu, cuda, cuda:1, ...; auto
    every: int = 50  # steps between checkpoints
    out: Path = option()  # the result (JSON)
    training: FineTuningConfig = option(RUN_TRAINING)

    def __post_init__(self) -> None:
        json_file("--out", self.out)
        one_of(self, kind=START_KINDS, dataset=RUN_DATASETS, data=FACT_SOURCES,
               conversion=tuple(adaptation.CONVERSIONS))
        at_least(self, invented=0, every=1, probed=2)
        sets = UNSEEN_SETS if self.dataset in UNSEEN_DATASETS else families.SETS
        if self.training.seed >= sets:
            raise ValueError(f"seed {self.training.seed}: {self.dataset} has {sets} sets of facts that were never "
                             "told, from 0 on")
        if self.start and self.kind == "published":
            raise ValueError(f"--start {self.start}: the kind 'published' starts from the package's own weights; "
                             "name a kind that was trained, or leave --start out")
        if self.conversion != "standard" and (self.start or self.kind != "masked"):
            raise ValueError(f"conversion {self.conversion!r}: takes the place of --start, for the kind 'masked'")


parsed_run = functools.partial(parse, PretrainedRunOptions)


def finetune_and_measure(options: PretrainedRunOptions) -> None:
    """One run: measure, fine-tune on the forward order, ask and measure again. A result that is there stays.

    :raises FileNotFoundError: if the model or its adapters are not there
    :raises ValueError: for a result of another run in its place, or data that cannot be read
    :raises lib.record.training_state.CheckpointError: for a checkpoint of another run
    :raises ArithmeticError: if the run diverges
    """
    config, parameters = options.training, run_parameters(options)
    if finished(options.out, experiment=_EXPERIMENT, parameters=parameters, seeds=[config.seed]):
        print(f"{options.out}: this run is done, and its result stays")
        return
    with recording({options.out: parameters}, experiment=_EXPERIMENT, seeds=[config.seed],
                   device=device_named(options.device)) as recorded:
        model, tokenizer = start_of(options)
        told = families.families(options.data, tokenizer, options.invented)
        data = (unseen_facts(options.dataset, options.data, config.seed, tokenizer)
                if options.dataset in UNSEEN_DATASETS else told.asked(options.dataset, config.seed))
        metrics, curves = measured_run(
            model, tokenizer, data, config, told.examples() if config.replay else [], checkpoint=recorded.checkpoint,
            probed=options.probed, along=options.along, every=options.every, report=print_progress)
        recorded.save({name: [value] for name, value in metrics.items()}, curves,
                      size=model_size.size_of(model), facts=len(data.facts),
                      weights=finetuning.fingerprint(model)[:16])
    print(options.out.stem, *(f"{name} {metrics[name]:.1f}" for name in (
        "forward_accuracy", "reverse_accuracy", "reverse_first", "reverse_first_without_prior")), flush=True)


def start_of(options: PretrainedRunOptions) -> tuple[Any, Any]:
    """The model that a run starts from, and its tokenizer.

    :raises FileNotFoundError: if the model or its folder is not there; names the option where one was given
    :raises ValueError: for a folder that holds something else or is damaged
    """
    published = options.kind == "published"
    kind, folder = "autoregressive" if published else options.kind, options.start
    if folder is None and not published:
        folder = adaptation.weights_of(kind, options.device, options.conversion)
    with _start_named(options):
        return pretrained.load(kind, device=device_named(options.device), adapter=folder)


@contextlib.contextmanager
def _start_named(options: PretrainedRunOptions) -> Iterator[None]:
    """What is wrong with the weights to start from is said of the option, where one was given."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        if options.start is None:
            raise
        kind_of_error = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind_of_error(f"--start {error}") from None


def measured_run(
    model: Any, tokenizer: Any, data: Dataset, config: FineTuningConfig, replay: Sequence[Example], *,
    checkpoint: Checkpoint | None = None, probed: int = 8, along: bool = False, every: int = 50,
    report: Callable[[str], None] = lambda line: None,
) -> tuple[dict[str, float], dict[str, list]]:
    """Metrics in percent and curves; what is measured before fine-tuning has ``before_`` in front of its name.

    :param replay: other text, mixed in at the share that the configuration says
    :param probed: facts whose attention and gradients are measured
    :param along: measure them along fine-tuning as well
    """
    before, layers = model_metrics(model, tokenizer, data, free_answers(model, tokenizer, data), replay, probed)
    report(f"before: {_shown(before)}")
    curves, adapted = reversal_run.finetune_and_watch(
        copy.deepcopy(model), tokenizer, data, config, replay=replay, checkpoint=checkpoint, watched=len(data.facts),
        lead="", every=every, probe=_signature_probe(tokenizer, data, probed) if along else None, report=report)
    whole = adapted.merge_and_unload() if config.rank else adapted
    answers = free_answers(whole, tokenizer, data)
    after, layers_after = model_metrics(whole, tokenizer, data, answers, replay, probed)
    after |= {f"{direction}_accuracy": after[f"{direction}_free_right"] for direction in _DIRECTIONS}
    report(f"after: {_shown(after)}")
    if tokenizer.mask_token_id is not None:  # a causal model's forward query does not see the evidence
        gaps, effects = patching_metrics(whole, tokenizer, data, probed)
        after, layers_after = {**after, **gaps}, {**layers_after, **effects}
    metrics = {**{f"before_{name}": value for name, value in before.items()}, **after}
    return metrics, {**curves, **quoted_answers(data, answers),
                     **{f"before_{name}": values for name, values in layers.items()}, **layers_after}


def _signature_probe(tokenizer: Any, data: Dataset, count: int) -> reversal_run.Probe:
    """The metrics of `signature_metrics` along a run, on a copy with the adapters merged in."""
    def measure(adapted: Any) -> dict[str, float]:
        whole = copy.deepcopy(adapted)
        whole = (whole.merge_and_unload() if hasattr(whole, "merge_and_unload") else whole).eval()
        return {f"along_{name}": value for name, value in signature_metrics(whole, tokenizer, data, count)[0].items()}
    return reversal_run.Probe(tuple(f"along_{name}_{word}" for name in ("correlation", "cosine")
                                    for word in ("matched", "mismatched")), measure)


def _shown(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in found.items())


# What is measured --------------------------------------------------------------------------------------------


def model_metrics(
    model: Any, tokenizer: Any, data: Dataset, written: Mapping[str, Sequence[str]], replay: Sequence[Example],
    probed: int,
) -> tuple[dict[str, float], dict[str, list]]:
    """What is measured of a model before fine-tuning and after: metrics in percent, and signatures by layer.

    :param written: the free answers, as `free_answers` gives them
    :param replay: the replayed text, whose recall is measured where there is any
    :param probed: facts whose attention and gradients are measured
    """
    found = {**rank_metrics(model, tokenizer, data), **answer_metrics(model, tokenizer, data, written),
             **length_metrics(model, tokenizer, data)}
    if replay:
        found["kept_accuracy"] = reversal_run.recall(model, tokenizer, replay, 48)
    signature, layers = signature_metrics(model, tokenizer, data, probed)
    return {**found, **signature}, layers


def rank_metrics(model: Any, tokenizer: Any, data: Dataset) -> dict[str, float]:
    """Where the right name stands among those of all facts, in percent, with and without the prior of each name."""
    found: dict[str, float] = {}
    for asked in ASKED:
        scores = name_ranks.log_probabilities(model, tokenizer, name_ranks.name_questions(data, asked, tokenizer))
        plain = name_ranks.without_prior(scores)
        found |= {f"{asked}_first": name_ranks.first_of_all(scores),
                  f"{asked}_first_without_prior": name_ranks.first_of_all(plain),
                  f"{asked}_percentile": name_ranks.mean_percentile(scores),
                  f"{asked}_percentile_without_prior": name_ranks.mean_percentile(plain)}
    return found


def free_answers(model: Any, tokenizer: Any, data: Dataset) -> dict[str, list[str]]:
    """What the model writes to every prompt of each direction."""
    length = reversal_run.answer_length(data, tokenizer)
    return {direction: decoding.generate_text(model, tokenizer, [each.prompt for each in getattr(data, direction)],
                                              length=length) for direction in _DIRECTIONS}


def answer_metrics(
    model: Any, tokenizer: Any, data: Dataset, written: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Percent of each kind of answer in each direction, written freely and with the shown name forbidden.

    :param written: the free answers, as `free_answers` gives them
    """
    length = reversal_run.answer_length(data, tokenizer)
    found: dict[str, float] = {}
    for direction, free in written.items():
        asked = getattr(data, direction)
        without = name_ranks.answers_without(model, tokenizer, asked, data, length=length)
        found |= {f"{direction}_contained": name_ranks.contained_share(free, asked),
                  f"{direction}_token_accuracy": name_ranks.token_accuracy(free, asked, tokenizer),
                  **{f"{direction}_wrong_{name}": share
                     for name, share in wrong_answers.piece_shares(free, asked, tokenizer).items()}}
        for word, texts in (("free", free), ("forbidden", without)):
            found |= {f"{direction}_{word}_{kind.replace(' ', '_')}": share
                      for kind, share in name_ranks.answer_kind_shares(texts, asked, data).items()}
    return found


def length_metrics(model: Any, tokenizer: Any, data: Dataset) -> dict[str, float]:
    """Percent written exactly where the answer's length is known; of a causal model, which has no masks, nothing."""
    if tokenizer.mask_token_id is None:
        return {}
    found: dict[str, float] = {}
    for direction in _DIRECTIONS:
        asked = name_ranks.name_questions(data, direction, tokenizer)
        found |= {f"{direction}_{filled_names.FILLING_METRICS[way]}": share
                  for way, share in filled_names.exact_shares(model, tokenizer, asked).items()}
        found |= {f"{direction}_first_token_{name.replace(' ', '_')}": share
                  for name, share in filled_names.shares_by_name_alone(model, tokenizer, asked).items()}
    return found


def quoted_answers(data: Dataset, written: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """What is asked about the first facts in each direction, what is written, and what would be right.

    :param written: as `free_answers` gives it
    """
    found: dict[str, list[str]] = {}
    for direction, texts in written.items():
        asked = getattr(data, direction)[:QUOTED]
        found |= {f"asked_{direction}": [each.prompt.strip() for each in asked],
                  f"written_{direction}": [text.strip() for text in texts[:QUOTED]],
                  f"right_{direction}": [min(each.answers) for each in asked]}
    return found


def signature_metrics(
    model: Any, tokenizer: Any, data: Dataset, count: int
) -> tuple[dict[str, float], dict[str, list]]:
    """Score correlation and gradient cosine of the first facts, in percent: one number each, and by layer."""
    found = fact_signatures.measure(model, tokenizer, data, data.facts[:count], lead="")
    metrics: dict[str, float] = {}
    layers: dict[str, list] = {}
    for matched, word in ((True, "matched"), (False, "mismatched")):
        correlation = found.correlation(matched)
        metrics |= {f"correlation_{word}": 100 * float(np.nanmean(correlation)),
                    f"cosine_{word}": 100 * float(found.cosines(matched).mean())}
        layers |= {f"correlation_{word}": np.nanmean(correlation, 1).tolist(),
                   f"cosine_{word}": [float(values.mean()) for layer, values in found.cosines_by_layer(matched).items()
                                      if isinstance(layer, int)]}
    return metrics, layers


def patching_metrics(model: Any, tokenizer: Any, data: Dataset, count: int) -> tuple[dict[str, float], dict[str, list]]:
    """What the reverse query of the first facts gains by the forward query's attention to the evidence.

    :return: the gap between the two queries, in nats; the mean change under each patch by layer, and under a patch of
        all layers at once in the last place
    """
    pairs = [queries.encoded_pair(data, fact, tokenizer, lead="") for fact in data.facts[:count]]
    single = attention_patching.single_layers(attention_patching.record_attention(model, pairs[0][0]))
    effects = patching_effects.measure_patching(
        model, pairs, answer_scores.shown_names(pairs), where=torch.cat([single, torch.ones_like(single[:1])]))
    gaps = {f"patching_gap_{score}": float(effects.gap(score).mean()) for score in SCORES}
    return gaps, {f"patching_{score}_{name}": effects.change(name, score).mean(0).tolist()
                  for score in SCORES for name in effects.patched}


def run_parameters(options: PretrainedRunOptions) -> dict[str, Any]:
    """What is recorded of a run and known before its model is."""
    fields = {"kind", "dataset", "data", "invented", "probed"}
    training = {field: value for field, value in dataclasses.asdict(options.training).items() if field != "seed"}
    along = {"along": True} if options.along else {}  # older results do not hold it
    return {**{field: getattr(options, field) for field in sorted(fields)}, **along,
            "start": _recorded_start(options), **training}


def _recorded_start(options: PretrainedRunOptions) -> str:
    """What a result says of the weights it started from: a folder of one's own by its name and its weights' digest."""
    if options.start is None:
        return options.kind if options.conversion == "standard" else f"{options.kind}_{options.conversion}"
    if pretrained.is_kept(options.start):  # the change that the repository keeps, whose checksum is compared
        return options.start.name
    with _start_named(options):
        return f"{options.start.name} {pretrained.trained_digest(options.start)[:16]}"


main = command(PretrainedRunOptions, finetune_and_measure)

if __name__ == "__main__":
    main()
