"""The three signatures of Fig. 4 from the command line.

For one model and one dataset of `lib.language_models.facts`:

    python -m lib.language_models.signature_run --model GSAI-ML/LLaDA-8B-Instruct --dataset p2c --facts 100 \\
        --device cuda

``--model tiny:llada`` (or dream, llama, qwen2, qwen3_5) makes a random checkpoint on the spot, and ``--data generated``
takes facts from `lib.language_models.synthetic_facts`: with both, the whole path runs without a network. ``--adapter
FOLDER`` probes the model after fine-tuning, with the adapters that `lib.language_models.reversal_run` left there.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from lib.language_models import fact_signatures, finetuning
from lib.language_models.fact_signatures import Signatures
from lib.language_models.fact_sources import facts_of
from lib.language_models.facts import DATASETS, FACT_SOURCES, Dataset
from lib.language_models.model_size import size_of
from lib.language_models.random_checkpoints import load_by_name
from lib.record.accepted import at_least, device_named, json_file
from lib.record.experiment import finished, recording
from lib.record.options import command, option

_EXPERIMENT = "language_model_signatures"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SignatureOptions:
    """What the command can be told."""

    model: str = option()  # hub id, folder, or tiny:ARCHITECTURE
    dataset: str = option("p2c", choices=DATASETS)  # of the paper's five
    data: str = option("published", choices=FACT_SOURCES)  # whose facts
    facts: int = 50  # facts drawn from the dataset
    dtype: str | None = option(None, choices=("float32", "bfloat16", "float16"))  # of the weights; their own if absent
    device: str = "cpu"  # cpu, cuda, cuda:1, ...; auto
    seed: int = 0  # draws the facts, and a tiny model's weights
    adapter: Path | None = None  # folder of adapters with which the model is probed
    out: Path | None = option(None, names=("--output",))  # write a result here (JSON)

    def __post_init__(self) -> None:
        if not self.model:
            raise ValueError("model must be a hub id, a folder or tiny:ARCHITECTURE, not empty")
        at_least(self, facts=2, seed=0)
        device_named(self.device)
        if self.out:
            json_file("--output", self.out)


def signature_curves(found: Signatures) -> dict[str, list]:
    """Score correlation and gradient cosine by layer, means over heads and facts."""
    layers = found.cosines_by_layer()
    return {"layers": list(found.layers),
            "score_correlation": np.nan_to_num(found.correlation()).mean(1).tolist(),
            "gradient_layers": [str(layer) for layer in layers],
            "gradient_cosine": [float(values.mean()) for values in layers.values()]}


def measure_and_record(options: SignatureOptions) -> None:
    """Measure, print one line a signature, and write the result where asked; one that is there already stays."""
    data = facts_of(options.dataset, options.data, options.facts, options.seed)
    asked = {"model": options.model, "dataset": options.dataset, "data": options.data, "facts": len(data.facts),
             "adapter": str(options.adapter or ""), **({"dtype": options.dtype} if options.dtype else {})}
    if not options.out:
        _measure_and_print(options, data)
    elif finished(options.out, experiment=_EXPERIMENT, parameters=asked, seeds=[options.seed], name="--output"):
        print(f"{options.out}: this run is done, and its result stays")
    else:
        with recording({options.out: asked}, experiment=_EXPERIMENT, seeds=[options.seed],
                       device=device_named(options.device)) as recorded:
            model, found = _measure_and_print(options, data)
            means = fact_signatures.signature_means(found)
            recorded.save({name: [value] for name, value in means.items()}, signature_curves(found),
                          architecture=model.architecture, size=size_of(model),
                          dtype=str(model.dtype).removeprefix("torch."))


def _measure_and_print(options: SignatureOptions, data: Dataset) -> tuple[Any, Signatures]:
    model, tokenizer = load_by_name(options.model, options.dtype, device_named(options.device), options.seed)
    if options.adapter:
        try:
            finetuning.load_adapters(model, options.adapter)
        except (ValueError, OSError) as error:
            raise ValueError(f"--adapter {error}") from None
    found = fact_signatures.measure(model, tokenizer, data, data.facts)
    print(*(f"{name:28s}{value:10.4f}" for name, value in fact_signatures.signature_means(found).items()), sep="\n")
    return model, found


main = command(SignatureOptions, measure_and_record)

if __name__ == "__main__":
    main()
