"""An adapted model made small enough to be kept beside the code, and what that loses.

    python -m lib.language_models.compression_run --weights _build/pretrained/masked \\
        --folder results/pretrained/masked_adapter --out results/pretrained/full_compression_masked.json

The told sentences are completed, and the held-out names ranked, by the whole model and by the published one with the
compressed change added (`lib.language_models.compressed_weights`), which `lib.language_models.pretrained.load` reads.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from lib.language_models import compressed_weights, families, objectives, pretrained, pretrained_run, reversal_run
from lib.language_models.facts import FACT_SOURCES
from lib.record.accepted import at_least, json_file, one_of
from lib.record.experiment import finished, recording
from lib.record.options import command, option

_EXPERIMENT = "compression"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompressionOptions:
    """What the command can be told."""

    weights: Path = option()  # folder of a model that lib.language_models.adaptation has trained whole
    kind: str = option("masked", choices=pretrained.MODEL_KINDS)  # of that model
    rank: int = 64  # of each matrix's change
    data: str = option("published", choices=FACT_SOURCES)  # whose families it was told
    invented: int = 150  # pairs of invented names that it was told besides
    asked: int = 60  # told sentences that both complete
    folder: Path = option()  # for the compressed change
    out: Path = option()  # the result (JSON)

    def __post_init__(self) -> None:
        json_file("--out", self.out)
        one_of(self, kind=pretrained.MODEL_KINDS, data=FACT_SOURCES)
        at_least(self, rank=1, invented=0, asked=1)


def compress(options: CompressionOptions) -> None:
    """Compress, measure before and after, and keep the change and the result. A result that is there stays.

    :raises FileNotFoundError: if the weights are not there
    :raises ValueError: for a result of another run in its place, or weights of another kind
    """
    parameters = {name: getattr(options, name) for name in ("kind", "rank", "data", "invented", "asked")}
    if finished(options.out, experiment=_EXPERIMENT, parameters=parameters, seeds=[0]):
        print(f"{options.out}: this run is done, and its result stays")
        return
    with recording({options.out: parameters}, experiment=_EXPERIMENT, seeds=[0],
                   folders={"--folder": options.folder}) as recorded:
        whole, tokenizer = pretrained.load(options.kind, adapter=options.weights)
        told = families.families(options.data, tokenizer, options.invented)
        metrics = {f"whole_{name}": value for name, value in _measured(whole, tokenizer, told, options.asked).items()}
        small, words = pretrained.load()
        change = compressed_weights.compressed_change(
            dict(small.named_parameters()), dict(whole.named_parameters()), options.rank,
            told_tokens(told, tokenizer))
        compressed_weights.save_change(change, options.folder, options.kind, pretrained.SHA256)
        compressed_weights.add_change(
            small, compressed_weights.load_change(options.folder, options.kind, pretrained.SHA256))
        if options.kind == "masked":
            pretrained.bidirectional(small, words)
        metrics |= {f"compressed_{name}": value
                    for name, value in _measured(small, tokenizer, told, options.asked).items()}
        content = (options.folder / compressed_weights.FILE_NAME).read_bytes()
        metrics["megabytes"] = len(content) / 1e6
        checksum = hashlib.sha256(content).hexdigest()
        recorded.save({name: [value] for name, value in metrics.items()}, {}, sha256=checksum)
    print(*(f"{name} {value:.1f}" for name, value in metrics.items()), sep="\n")


def told_tokens(told: families.Families, tokenizer: Any) -> list[int]:
    """Ids of the tokens in everything that was told, and of the mask."""
    found = {token for sentence in objectives.sentences(told.examples(), tokenizer) for token in sentence.ids}
    return sorted(found | ({tokenizer.mask_token_id} - {None}))


def _measured(model: Any, tokenizer: Any, told: families.Families, asked: int) -> dict[str, float]:
    """Percent of told sentences completed exactly, and how often a held-out name is ranked first, in reverse."""
    ranks = pretrained_run.rank_metrics(model, tokenizer, told.asked("p2c", 0))
    return {"told_accuracy": reversal_run.recall(model, tokenizer, told.examples(), asked),
            "held_reverse_first": ranks["reverse_first_without_prior"]}


main = command(CompressionOptions, compress)

if __name__ == "__main__":
    main()
