"""Tables of the chapters on language models, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lib.language_models import fact_signatures, model_size, pretraining, queries, synthetic_facts, table_7
from lib.language_models.architectures import ARCHITECTURES, SHORT_NAMES
from lib.language_models.fact_signatures import ProbedModel
from lib.language_models.facts import DATASETS, Dataset
from lib.language_models.finetuning import FineTuningConfig
from lib.language_models.miniature import CONDITIONS, MiniatureConfig
from lib.language_models.miniature_results import WAYS, RecordedCells, mean_and_range
from lib.language_models.pretraining import PretrainingConfig
from lib.record import report

#: row of the table of costs -> the metric of `benchmarks.language_models` and its form
_COSTS = {
    "parameters": ("parameters", "{:,.0f}"), "weights, GB": ("weight_gigabytes", "{:.1f}"),
    "loading, s": ("load_seconds", "{:.0f}"), "LoRA step, s": ("lora_step_seconds", "{:.2g}"),
    "LoRA, tokens/s": ("lora_tokens_per_second", "{:.3g}"),
    "decoding, tokens/s": ("decode_tokens_per_second", "{:.2g}"),
    "gradient cosine, s": ("cosine_seconds", "{:.2g}"), "attention scores, s": ("scores_seconds", "{:.2g}"),
    "peak of loading, in weights": ("load_peak", "{:.2f}"), "of the gradient cosine": ("cosine_peak", "{:.2f}"),
    "of attention scores": ("scores_peak", "{:.2f}"), "of the probability": ("probability_peak", "{:.2f}"),
    "of decoding": ("decode_peak", "{:.2f}"), "of LoRA training": ("lora_peak", "{:.2f}"),
}
_LOST = "named by the paper, value not legible; chosen"
_OURS = "the paper does not say; chosen"


def query_table(data: Dataset, facts: int) -> str:
    """Forward and reverse query of the first facts."""
    pairs = [(fact.left, data.queries(fact, lead=queries.LEAD)) for fact in data.facts[:facts]]
    return report.markdown(["", "forward query", "reverse query"],
                           [[left, forward.shown, reverse.shown] for left, (forward, reverse) in pairs])


def evidence_table(probed: Mapping[str, ProbedModel], data: Dataset) -> str:
    """For each model: attention on the evidence, the loss gradient at its embeddings (first fact), gradient cosines."""
    rows = []
    for title, (model, tokenizer, found) in probed.items():
        mean = fact_signatures.signature_means(found)
        pair = queries.encoded_pair(data, data.facts[0], tokenizer)
        gradient = [f"{fact_signatures.evidence_gradient(model, prompt):.2g}" for prompt in pair]
        rows.append([title, f"{mean['attention_forward']:.3f}", f"{mean['attention_reverse']:.3f}", *gradient,
                     f"{mean['gradient_cosine']:.2f}", f"{mean['gradient_cosine_mismatched']:.2f}"])
    return report.markdown(["model", "attention on the evidence, forward", "reverse",
                            "gradient at the evidence, forward", "reverse", "cosine, matched", "mismatched"], rows)


def cost_table(costs: Sequence[Mapping[str, Any]]) -> str:
    """Seconds, throughput and peaks of memory, a column for each recorded benchmark.

    :param costs: recorded results of `benchmarks.language_models`
    """
    missing = [] if any(cost["parameters"]["shape"] == "8b" for cost in costs) else ["not run here"]
    heads = [f"{cost['provenance']['device']}, {cost['parameters']['dtype']}" for cost in costs]
    return report.markdown(["", *heads, *(["8B on a CUDA device"] * len(missing))], [
        [label, *(form.format(cost["metrics"][key][0]) for cost in costs), *missing]
        for label, (key, form) in _COSTS.items()])


def finetuning_protocol_table() -> str:
    """How a run of the sweep is trained and asked when nothing is said, and whose choice each value is."""
    config, sweep = FineTuningConfig(), table_7.DEFAULTS
    return report.markdown(["", "value", "whose"], [
        ["what is trained", "adapters (LoRA) on every linear map but the unembedding",
         "adapters: the paper's; where: chosen"],
        ["rank", config.rank, _LOST], ["scaling, alpha", config.scaling, _LOST],
        ["optimiser", "AdamW", "the paper's"], ["weight decay", config.weight_decay, _LOST],
        ["learning rate", f"{config.learning_rate:g}; `special` sets it for a model and dataset",
         "one for each in the paper, values not legible; chosen"],
        ["epochs", config.epochs, _LOST], ["examples a step", config.batch * config.accumulation, _LOST],
        ["seeds", ", ".join(map(str, sweep["seeds"])), "three: the paper's; which: chosen"],
        ["masked in training", f"{sweep['masking']} token", _OURS],
        ["other text replayed", config.replay, _OURS], ["dropout", config.dropout, _OURS],
        ["warm-up, steps", config.warmup, _OURS], ["gradients cut to norm", config.clip, _OURS],
        ["weights", sweep["dtype"], _OURS],
        ["decoding", "greedy, one token a step", "greedy: the paper's; steps: chosen"],
        ["longest answer", "the longest of the dataset, and an end token", _LOST],
    ])


# The miniature -----------------------------------------------------------------------------------------------


def miniature_sizes() -> dict[str, int]:
    """Parameters of the small model of each architecture."""
    found = {}
    for name, kind in ARCHITECTURES.items():
        words = synthetic_facts.word_tokenizer(not kind.causal)
        found[name] = model_size.size_of(pretraining.new_model(PretrainingConfig(name), words))
    return found


def standard_cell_table(sizes: Mapping[str, int]) -> str:
    """What the standard cell of the miniature is, with one held-out fact.

    :param sizes: parameters by architecture
    """
    standard = MiniatureConfig()
    settings, split = standard.pretraining(), {"told": standard.facts, "held": standard.held}
    fact = synthetic_facts.recombined_worlds(split, settings.stock, standard.seed)["held"].p2c.facts[0]
    words = len(synthetic_facts.word_tokenizer(False))
    return report.markdown(["", ""], [
        ["parameters", ", ".join(f"{SHORT_NAMES[name]} {size:,}" for name, size in sizes.items())],
        ["each", f"{settings.layers} layers of width {settings.width}, {settings.heads} heads; {words} words"],
        ["pretraining", f"{standard.facts} facts told; {settings.steps} steps of {settings.batch} sentences"],
        ["fine-tuning", f"{standard.held} held-out facts, {standard.epochs} epochs at rate {standard.learning_rate}"],
        ["forward, trained", f"{fact.left}'s child is **{fact.right}**"],
        ["reverse, only asked", f"{fact.right}'s parent is **{fact.left}**"],
    ])


def masking_table(cells: RecordedCells) -> str:
    """Reverse accuracy of LLaDA and Llama for each way of fine-tuning, by what is masked: mean and range over seeds."""
    columns = [(name, masking) for name in ("llada", "llama") for masking in ("any", "response")]
    rows = {**WAYS, "one order told, replay": CONDITIONS["one order"]}
    reverse = lambda change, name, masking: mean_and_range(
        cells.metric("reverse_accuracy", architecture=name, **{**change, "masking": masking}))
    return report.markdown(
        ["reverse accuracy (%), mean and range",
         *(f"{SHORT_NAMES[name]}, {'any token' if masking == 'any' else masking}" for name, masking in columns)],
        [[way, *(reverse(change, *column) for column in columns)] for way, change in rows.items()])


def kinds_table(cells: RecordedCells) -> str:
    """Mean forward / reverse accuracy of every architecture on every kind of fact, and the number of seeds."""
    def entry(name: str, dataset: str) -> str:
        both = cells.accuracies(architecture=name, dataset=dataset)
        means = " / ".join(f"{each.mean():.0f}" for each in both.values() if len(each))
        return f"{means} ({len(both['reverse'])})" if means else "not recorded"

    return report.markdown(["", *SHORT_NAMES.values()],
                           [[dataset, *(entry(name, dataset) for name in ARCHITECTURES)] for dataset in DATASETS])
