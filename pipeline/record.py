"""Promote what the last build made into the repository:  python -m pipeline.record

Executed chapters go to ``book/``, their provenance, the results and the ledger to ``results/``;
``codecheck.yml`` follows the ledger.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from lib.record import provenance
from pipeline import chapters, codecheck


def promote(build: Path, root: Path, names: Collection[str]) -> list[Path]:
    """Copy the notebooks and provenance of the named chapters, and all results; returns what was written.

    All recorded results are then listed in the manifest, see `lib.record.provenance`. A build folder may still
    hold chapters that the book had earlier: those are left where they are.
    """
    pairs = [(path, root / "book" / path.name) for path in sorted((build / "chapters").glob("[!.]*.ipynb"))
             if path.stem in names]
    pairs += [(path, root / "results" / path.relative_to(build / "results"))
              for path in sorted((build / "results").rglob("*.json"))
              if not any(part.startswith(".") for part in path.relative_to(build).parts)  # a draft
              and (path.parent.name != "chapters" or path.stem in names)]
    for made, kept in pairs:
        with provenance.replacing(kept) as draft:
            shutil.copy2(made, draft)
    return [*(kept for _, kept in pairs), provenance.write_manifest(root / "results")]


if __name__ == "__main__":
    written = [*promote(chapters.ROOT / "_build", chapters.ROOT, chapters.chapters()), codecheck.write(chapters.ROOT)]
    print(f"recorded {len(written)} files in book/ and results/; `git status` shows what changed")
