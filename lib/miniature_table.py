"""Every cell of the miniature Table 7, in order of value; each is recorded the moment it is done.

    python -m lib.miniature_table --folder results/miniature

Cells that are recorded already are passed over, and a cell that fails is reported and does not stop the others.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from lib import miniature, provenance
from lib.miniature import Cell

#: what is changed of the standard cell, one thing at a time, and in pairs
CONDITIONS: dict[str, dict[str, Any]] = {
    "standard": {},
    "response": {"masking": "response"},
    "no replay": {"replay": 0.0},
    "adapters": {"tuning": "lora", "learning_rate": 2e-3},
    "one order": {"orders": "one"},
    # as many sentences as both orders make, and each fact told as often
    "one order, twice the facts": {"orders": "one", "facts": 2 * Cell.facts, "steps": 2 * Cell.steps},
}
_PAIRS: tuple[dict[str, Any], ...] = (
    {"tuning": "lora", "learning_rate": 2e-3, "replay": 0.0},
    {"tuning": "lora", "learning_rate": 2e-3, "masking": "response"},
    {"replay": 0.0, "masking": "response"},
    {"tuning": "lora", "learning_rate": 2e-3, "replay": 0.0, "masking": "response"},
)


def plan(seeds: int = 5) -> Iterator[Cell]:
    """The cells, those that most depends on first; none twice."""
    few = range(min(seeds, 3))
    changes = [CONDITIONS[name] for name in ("response", "no replay", "adapters", "one order")]
    yield from (Cell("llada", **change) for change in ({}, *changes))
    yield from (Cell(name) for name in ("llama", "dream", "qwen2"))
    for seed in few[1:]:
        yield from (Cell("llada", seed=seed, **change) for change in ({}, changes[0]))
        yield Cell("llama", seed=seed)
    yield from (Cell("llada", seed=seed) for seed in range(len(few), seeds - 1))
    yield from (Cell("llada", seed=seed, **change) for change in changes[1:3] for seed in few[1:])
    yield from (Cell(name, dataset="c2p", seed=seed) for seed in few for name in ("llada", "llama"))
    yield from (Cell("llama", seed=seed) for seed in range(len(few), seeds - 1))
    yield from (Cell(name, seed=seed) for seed in range(max(len(few), seeds - 1), seeds) for name in ("llada", "llama"))
    yield from (Cell("llada", seed=seed, orders="one") for seed in few[1:])
    yield from (Cell(name, seed=seed) for seed in few[1:] for name in ("dream", "qwen2"))
    yield from (Cell("llada", seed=seed, **CONDITIONS["one order, twice the facts"]) for seed in range(seeds))
    yield Cell("qwen3_5")
    yield from (Cell("llama", **change) for change in changes)
    yield from (Cell(name, dataset=dataset) for dataset in ("trex", "d2p", "p2d") for name in ("llada", "llama"))
    yield from (Cell("llada", seed=seed, **pair) for seed in few for pair in _PAIRS)
    yield from (Cell(name, seed=seed) for seed in range(len(few), seeds) for name in ("dream", "qwen2"))
    yield from (Cell("llada", seed=seed, **change) for seed in range(len(few), seeds) for change in changes)
    yield from (Cell("llama", seed=seed, **change) for seed in few[1:] for change in changes)
    yield from (Cell(name, dataset=dataset, seed=seed) for dataset in ("trex", "d2p", "p2d") for seed in few[1:]
                for name in ("llada", "llama"))
    yield from (Cell("qwen3_5", seed=seed) for seed in range(1, seeds))
    # what the tables of the chapter still lack
    yield from (Cell("llama", seed=seed, **change) for seed in few
                for change in (*_PAIRS, CONDITIONS["one order, twice the facts"]))
    yield from (Cell(name, orders="one", masking="response", seed=seed) for seed in few for name in ("llada", "llama"))
    yield from (Cell(name, dataset=dataset, seed=seed) for seed in few for dataset in ("c2p", "trex", "d2p", "p2d")
                for name in ("dream", "qwen2", "qwen3_5"))


def file_of(cell: Cell) -> str:
    """Name of a cell's result."""
    told = [f"{name}{value}" for name, value in (("facts", cell.facts), ("steps", cell.steps))
            if value != getattr(Cell, name)]
    words = (cell.architecture, cell.dataset, cell.orders, cell.tuning, cell.masking,
             "replay" if cell.replay else "alone", *told, cell.seed)
    return "_".join(map(str, words)) + ".json"


def main(argv: Sequence[str] | None = None) -> None:
    """Run what is not recorded yet."""
    parser = argparse.ArgumentParser(prog="python -m lib.miniature_table", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=provenance.RECORDED / "miniature", help="of the results")
    parser.add_argument("--seeds", type=int, default=5, help="of the cells that most depends on")
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
