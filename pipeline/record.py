"""Promote what the last build made into the repository:  python -m pipeline.record

Executed chapters go to ``book/``, their provenance, the results and the ledger to ``results/``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline import chapters


def promote(build: Path, root: Path) -> list[Path]:
    """Copy notebooks and results; returns what was written."""
    pairs = [(path, root / "book" / path.name) for path in sorted((build / "chapters").glob("*.ipynb"))]
    pairs += [(path, root / "results" / path.relative_to(build / "results"))
              for path in sorted((build / "results").rglob("*.json"))]
    for made, kept in pairs:
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(made, kept)
    return [kept for _, kept in pairs]


if __name__ == "__main__":
    written = promote(chapters.ROOT / "_build", chapters.ROOT)
    print(f"recorded {len(written)} files in book/ and results/; `git status` shows what changed")
