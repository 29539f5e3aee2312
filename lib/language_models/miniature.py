"""One cell of the miniature Table 7: pretrain a small model, fine-tune it forward-only, ask in both directions.

    python -m lib.language_models.miniature --architecture llada --dataset p2c --orders both --tuning full --replay 0.5 \\
        --masking any --seed 0 --out results/miniature/llada_p2c_both_full_any_replay_0.json

Pretraining is `lib.language_models.pretraining`; all that follows is the code for the published models: `lib.language_models.reversal_run.run`
(`lib.language_models.finetuning`, `lib.language_models.decoding`) and `lib.language_models.signatures`. A pretrained model is kept under ``--work`` and shared by the
cells that start from it (``--work none`` keeps nothing). A run that is interrupted goes on from its checkpoint; one
that is done is left alone.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float

from lib.language_models import (
    decoding,
    miniature_world,
    queries,
    reversal_run,
    signature_run,
    signatures,
)
from lib.language_models import (
    facts as facts_module,
)
from lib.language_models.architectures import ARCHITECTURES
from lib.language_models.facts import Dataset, Example, Fact
from lib.language_models.finetuning import MASKING, FineTuningConfig
from lib.language_models.pretraining import PretrainingConfig, pretrain
from lib.record import provenance
from lib.record.options import at_least, json_file, writable

TUNINGS = ("full", "lora")
#: which dataset's facts are told in pretraining; the other order of the same facts needs no other text
_TOLD = {"p2c": "p2c", "c2p": "p2c", "p2d": "p2d", "d2p": "p2d", "trex": "trex"}
_WORK = provenance.ROOT / "_build" / "miniature"
#: steps of pretraining of `followed`
FOLLOWED_STEPS = 400


@dataclasses.dataclass(frozen=True)
class Cell:
    """What fixes one cell."""

    architecture: str = "llada"
    dataset: str = "p2c"
    orders: str = "both"
    tuning: str = "full"
    replay: float = 0.5
    masking: str = "any"
    seed: int = 0
    held: int = 30  # facts that pretraining did not tell; fine-tuned on, forward
    epochs: int = 200
    learning_rate: float = 5e-4
    rank: int = 16  # of the adapters, where tuning is lora
    steps: int = 1000  # of pretraining
    causal_steps: int = 0  # before those, as an autoregressive model
    facts: int = 240  # told in pretraining

    def __post_init__(self) -> None:
        choices = {"architecture": tuple(ARCHITECTURES), "dataset": facts_module.DATASETS, "tuning": TUNINGS,
                   "orders": miniature_world.ORDERS, "masking": MASKING}
        for field, accepted in choices.items():
            if getattr(self, field) not in accepted:
                raise ValueError(f"{field} must be one of {', '.join(accepted)}, not {getattr(self, field)!r}")
        at_least(self, held=2, facts=2, epochs=1, steps=1, rank=1, seed=0)
        self.pretraining()
        self.protocol()  # these refuse what cannot be, before anything is pretrained

    def pretraining(self) -> PretrainingConfig:
        """The run that this cell starts from."""
        return PretrainingConfig(self.architecture, self.orders, self.facts, (_TOLD[self.dataset],), steps=self.steps,
                           causal_steps=self.causal_steps, seed=self.seed)

    def protocol(self) -> FineTuningConfig:
        """The fine-tuning, in the terms of `lib.language_models.finetuning`."""
        return FineTuningConfig(rank=self.rank if self.tuning == "lora" else 0, scaling=2 * self.rank, batch=32,
                        learning_rate=self.learning_rate, epochs=self.epochs, masking=self.masking,
                        replay=self.replay, seed=self.seed)


def run(cell: Cell, work: Path = _WORK, *, checkpoint: Path | None = None, log: bool = False) -> dict[str, Any]:
    """Pretrain, probe, fine-tune and evaluate; metrics, curves and the size of the model.

    :param work: where pretrained models are kept
    :param checkpoint: of the fine-tuning
    """
    settings = cell.pretraining()
    split = miniature_world.worlds({"told": cell.facts, "held": cell.held}, settings.stock, cell.seed)
    text = miniature_world.told(split["told"], cell.orders, settings.kinds)
    tokenizer = miniature_world.tokenizer(not ARCHITECTURES[cell.architecture].causal, settings.stock)
    model, losses = pretrain(settings, text, tokenizer, checkpoint=work / f"{_digest(settings)}.safetensors",
                             watch=_progress("pretraining", settings.causal_steps + settings.steps) if log else None)
    data = getattr(split["held"], cell.dataset)
    metrics = _before(model, tokenizer, data, text)
    found, curves, tuned = reversal_run.run(copy.deepcopy(model), tokenizer, data, cell.protocol(), watches=1,
                                            replay=text if cell.replay else (), checkpoint=checkpoint)
    whole = tuned.merge_and_unload() if cell.tuning == "lora" else tuned
    metrics |= found | _after(whole, tokenizer, data, text)
    thinned = {"pretraining_loss": _means(losses), "finetuning_loss": _means(curves["loss"])}
    return {"metrics": metrics, "curves": thinned, "size": signature_run.size_of(model)}


def _before(model: Any, tokenizer: Any, data: Dataset, text: Sequence[Example]) -> dict[str, float]:
    cosines = {f"cosine_{name}": value for name, value in alignment(model, tokenizer, data).items()}
    return cosines | {"told_accuracy": _recall(model, tokenizer, text)}


def _after(model: Any, tokenizer: Any, data: Dataset, text: Sequence[Example]) -> dict[str, float]:
    """What the tuned model still knows of the text, and how likely the left entity is, from either side."""
    asked = [[queries.encode(query, tokenizer) for query in data.queries(fact)] for fact in data.facts]
    likely = {f"probability_{side}": float(signatures.target_probability(model, queries.batch(rows)).mean())
              for side, rows in zip(("forward", "reverse"), zip(*asked, strict=True), strict=True)}
    return likely | {"kept_accuracy": _recall(model, tokenizer, text)}


def _recall(model: Any, tokenizer: Any, text: Sequence[Example], count: int = 60) -> float:
    """Percent of sentences of the pretraining text, evenly chosen, that are completed exactly."""
    chosen = [text[int(i)] for i in np.linspace(0, len(text) - 1, min(count, len(text)))]
    length = 1 + max(len(tokenizer(each.completion, add_special_tokens=False)["input_ids"]) for each in chosen)
    return decoding.accuracy(model, tokenizer, chosen, length=length, batch=count)


def alignment(model: Any, tokenizer: Any, data: Dataset, facts: int = 8) -> dict[str, float]:
    """Mean gradient cosine, over facts, of a query about the forward sentence with the reverse query.

    ``matched`` asks for the left entity, as the reverse query does; ``mismatched`` too, but of another fact;
    ``right`` asks for the right entity of the same fact.
    """
    pairs = [data.queries(fact) for fact in data.facts[:facts]]
    left, reverse = ([_batch(pair[side], tokenizer) for pair in pairs] for side in (0, 1))
    right = [_batch(_right_query(data, fact), tokenizer) for fact in data.facts[:facts]]
    asked = {"matched": (left, reverse), "mismatched": (left, reverse[1:] + reverse[:1]), "right": (right, reverse)}
    return {name: float(np.mean([signatures.gradient_cosine(model, *pair).cosine for pair in zip(*both, strict=True)]))
            for name, both in asked.items()}


def _right_query(data: Dataset, fact: Fact) -> facts_module.Query:
    return facts_module.query(data.relation, fact, "forward", "right")


def _batch(query: facts_module.Query, tokenizer: Any) -> dict[str, torch.Tensor]:
    return queries.batch([queries.encode(query, tokenizer)])


def _means(losses: Sequence[float], points: int = 20) -> list[float]:
    """A curve of at most so many points, each the mean of the steps since the last."""
    return [float(part.mean()) for part in np.array_split(np.array(losses), min(points, len(losses)))]


def _digest(settings: PretrainingConfig) -> str:
    content = json.dumps(dataclasses.asdict(settings), sort_keys=True)
    digest = hashlib.sha256(content.encode()).hexdigest()[:8]
    return f"{settings.architecture}_{settings.orders}_{settings.seed}_{digest}"


def _progress(what: str, total: int) -> Any:
    def show(step: int, loss: float) -> None:
        if (step + 1) % max(1, total // 5) == 0:
            print(f"{what}: step {step + 1} of {total}, loss {loss:.2f}", file=sys.stderr, flush=True)
    return show


# Half a minute ---------------------------------------------------------------------------------------------


class TracedRun(NamedTuple):
    """A small run with its probabilities along the way."""

    model: Any  # tuned, its adapters apart
    tokenizer: Any
    data: Dataset  # the held-out facts
    curves: dict[str, list]  # those of `lib.language_models.reversal_run.run`
    metrics: dict[str, float]
    share: float  # of each held-out sentence in the text of fine-tuning


def followed(architecture: str, seed: int = 0, *, facts: int = 40, held: int = 8, steps: int = FOLLOWED_STEPS,
             epochs: int = 200, masking: str = "any") -> TracedRun:
    """A smaller cell for what `run` keeps none of: adapters, and the left entity's probability at every tenth step.

    Every sentence begins with the lead of the probes, "Fact:", so that they ask what was trained.
    """
    settings = PretrainingConfig(architecture, facts=facts, stock=18, width=96, steps=steps, warmup=50, learning_rate=4e-3,
                           seed=seed)
    split = miniature_world.worlds({"told": facts, "held": held}, settings.stock, seed)
    text, data = _led(miniature_world.told(split["told"], "both", settings.kinds)), split["held"].p2c
    data = dataclasses.replace(data, train=_led(data.train), forward=_led(data.forward), reverse=_led(data.reverse))
    tokenizer = miniature_world.tokenizer(not ARCHITECTURES[architecture].causal, settings.stock)
    model, _ = pretrain(settings, text, tokenizer)
    protocol = FineTuningConfig(batch=2 * held, learning_rate=4e-3, epochs=epochs, masking=masking, replay=0.5, seed=seed)
    metrics, curves, tuned = reversal_run.run(model, tokenizer, data, protocol, replay=text, watched=held)
    return TracedRun(tuned, tokenizer, data, curves, metrics, (1 - protocol.replay) / len(data.train))


def _led(examples: Sequence[Example]) -> tuple[Example, ...]:
    return tuple(dataclasses.replace(each, prompt=f"{signature_run.LEAD} {each.prompt}") for each in examples)


# Recorded cells ----------------------------------------------------------------------------------------------


def parameters_of(cell: Cell) -> dict[str, Any]:
    """What is recorded of a cell, but for its size."""
    return {field: value for field, value in dataclasses.asdict(cell).items() if field != "seed"}


def recorded(folder: Path | None = None, **wanted: Any) -> dict[int, Mapping[str, Any]]:
    """Recorded cells by seed, with these parameters and, in all that is not named, the standard ones.

    :raises ValueError: for a parameter that a cell does not have
    """
    standard = parameters_of(Cell())
    for name in set(wanted) - set(standard):
        raise ValueError(f"a cell has no {name!r}; it has {', '.join(standard)}")
    expected = (standard | wanted).items()
    found = {result["seeds"][0]: result for result in provenance.results("miniature", folder)
             if all(result["parameters"].get(name, standard[name]) == value for name, value in expected)}
    return dict(sorted(found.items()))


def values(metric: str, cells: Mapping[int, Mapping[str, Any]]) -> Float[np.ndarray, " seed"]:
    """One metric of recorded cells, seed by seed."""
    return np.array([cell["metrics"][metric][0] for cell in cells.values()])


# From the command line ---------------------------------------------------------------------------------------


def _arguments(argv: Sequence[str] | None) -> tuple[Cell, Path, Path]:
    parser = argparse.ArgumentParser(prog="python -m lib.language_models.miniature", description=(__doc__ or "").splitlines()[0])
    for field in dataclasses.fields(Cell):
        parser.add_argument(f"--{field.name.replace('_', '-')}", default=field.default, type=type(field.default))
    parser.add_argument("--out", type=Path, required=True, help="the result (JSON); its checkpoint goes beside it")
    parser.add_argument("--work", type=Path, default=_WORK, help="folder of pretrained models; none to keep nothing")
    options = parser.parse_args(argv)
    try:
        cell = Cell(**{field.name: getattr(options, field.name) for field in dataclasses.fields(Cell)})
        out = json_file("--out", options.out)
        writable("--out", out.parent)
    except ValueError as error:
        parser.error(str(error))
    return cell, out, options.work


def record(cell: Cell, out: Path, work: Path = _WORK) -> dict[str, Any]:
    """The result of a cell, read from ``out`` if it is there, else made and written to it.

    :raises ValueError: if ``out`` holds the result of another cell
    """
    if out.exists():
        return _checked(provenance.load(out), cell, out)
    clock = provenance.Run()
    unfinished = work / f"{out.stem}.tuning.safetensors"
    found = run(cell, work, checkpoint=unfinished, log=True)
    result = provenance.save(
        out, experiment="miniature", parameters=parameters_of(cell) | {"size": found["size"]}, seeds=[cell.seed],
        metrics={name: [value] for name, value in found["metrics"].items()}, curves=found["curves"], run=clock)
    unfinished.unlink(missing_ok=True)
    shown = "forward_accuracy", "reverse_accuracy", "cosine_matched", "cosine_mismatched"
    print(out.stem, *(f"{name} {found['metrics'][name]:.2f}" for name in shown), flush=True)
    return result


def _checked(result: dict[str, Any], cell: Cell, path: Path) -> dict[str, Any]:
    whole = {**result, "parameters": parameters_of(Cell()) | result["parameters"]}  # it may be older than a parameter
    provenance.check_same(whole, parameters_of(cell), f"{path}: holds")
    if result["seeds"] != [cell.seed]:
        raise ValueError(f"{path}: holds seeds {result['seeds']}, not {[cell.seed]}; choose another file")
    return result


def main(argv: Sequence[str] | None = None) -> None:
    """Run one cell and write its result; where work is kept, a result that is there already stays."""
    cell, out, work = _arguments(argv)
    try:
        if work != Path("none"):
            record(cell, out, work)
        else:  # nothing is kept, so what an earlier call wrote is made anew
            with tempfile.TemporaryDirectory() as folder:
                made = Path(folder) / out.name
                record(cell, made, Path(folder))
                provenance.write_json(out, provenance.load(made))
    except ValueError as error:
        sys.exit(f"{Path(__file__).stem}: {error}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
