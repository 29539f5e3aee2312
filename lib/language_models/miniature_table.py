"""Every cell of the miniature Table 7, seed by seed; each is recorded the moment it is done.

    python -m lib.language_models.miniature_table --folder results/miniature

Cells that are recorded already are passed over, and a cell that fails is reported and does not stop the others.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from lib.language_models import facts, miniature
from lib.language_models.architectures import ARCHITECTURES
from lib.language_models.miniature import Cell
from lib.record import provenance

#: what is changed of the standard cell, one thing at a time
CONDITIONS: dict[str, dict[str, Any]] = {
    "standard": {},
    "response": {"masking": "response"},
    "no replay": {"replay": 0.0},
    "adapters": {"tuning": "lora", "learning_rate": 2e-3},
    "one order": {"orders": "one"},
    # as many sentences as both orders make, and each fact told as often
    "one order, twice the facts": {"orders": "one", "facts": 2 * Cell.facts, "steps": 2 * Cell.steps},
}
#: LLaDA and Llama under these
CHANGES: tuple[dict[str, Any], ...] = (
    *CONDITIONS.values(),
    *({**one, **two} for one, two in itertools.combinations(
        (CONDITIONS[name] for name in ("adapters", "no replay", "response")), 2)),
    {**CONDITIONS["adapters"], **CONDITIONS["no replay"], **CONDITIONS["response"]},
    {**CONDITIONS["one order"], **CONDITIONS["response"]},
)
MASKED_STEPS, CAUSAL_STEPS = (100, 300, 1000), 1000
#: Dream by masked steps: begun as an autoregressive model, as the published one was; without that; as long in all
STARTS: dict[int, dict[str, dict[str, Any]]] = {steps: {
    "autoregressive first": {"causal_steps": CAUSAL_STEPS, "steps": steps},
    "as many masked steps": {"steps": steps},
    "as many steps in all": {"steps": CAUSAL_STEPS + steps},
} for steps in MASKED_STEPS}


def plan(seeds: int = 5) -> Iterator[Cell]:
    """The cells, seed by seed, those that most depends on first; none twice."""
    for seed in range(seeds):
        yield from (Cell(name, seed=seed) for name in ARCHITECTURES)
        yield from (Cell(name, seed=seed, **change) for change in CHANGES if change for name in ("llada", "llama"))
        yield from (Cell(name, dataset=dataset, seed=seed) for dataset in facts.DATASETS
                    if dataset != Cell.dataset for name in ARCHITECTURES)
        yield from (Cell("dream", seed=seed, **start) for starts in STARTS.values() for start in starts.values()
                    if start != {"steps": Cell.steps})


def file_of(cell: Cell) -> str:
    """Name of a cell's result."""
    told = [f"{word}{getattr(cell, name)}" for name, word in (("facts", "facts"), ("steps", "steps"),
            ("causal_steps", "causal")) if getattr(cell, name) != getattr(Cell, name)]
    words = (cell.architecture, cell.dataset, cell.orders, cell.tuning, cell.masking,
             "replay" if cell.replay else "alone", *told, cell.seed)
    return "_".join(map(str, words)) + ".json"


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is not recorded yet."""
    parser = argparse.ArgumentParser(prog="python -m lib.language_models.miniature_table", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=provenance.RECORDED / "miniature", help="of the results")
    parser.add_argument("--seeds", type=int, default=5, help="of every cell; default 5")
    options = parser.parse_args(argv)
    failed = 0
    for cell in plan(options.seeds):
        try:
            miniature.record(cell, options.folder / file_of(cell))
        except Exception:
            failed += 1
            print(f"{file_of(cell)} failed:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
    if failed:
        sys.exit(f"{failed} cells failed")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
