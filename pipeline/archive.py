"""The pages as one file to take along:  python -m pipeline.archive PAGES OUTPUT.zip

The archive holds everything that the pages need, recorded results and downloads among it: unpacked anywhere,
``index.html`` opens from disk without a network. The same pages give the same bytes.
"""

from __future__ import annotations

import argparse
import sys
import zipfile
from pathlib import Path

from lib.record import provenance

FOLDER = "reversal-curse-book"
EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can hold


def pack(pages: Path, output: Path) -> int:
    """Pack rendered pages; returns how many files the archive holds.

    :raises FileNotFoundError: if there are no pages
    """
    if not (pages / "index.html").is_file():
        raise FileNotFoundError(f"{pages / 'index.html'} is missing; `make pages` renders the pages")
    files = [path for path in sorted(pages.rglob("*")) if path.is_file()]
    with provenance.replacing(output) as draft, zipfile.ZipFile(draft, "w") as archive:
        for path in files:
            entry = zipfile.ZipInfo(f"{FOLDER}/{path.relative_to(pages).as_posix()}", EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, path.read_bytes())
    return len(files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", type=Path)
    parser.add_argument("output", type=Path)
    asked = parser.parse_args()
    try:
        count = pack(asked.pages, asked.output)
    except FileNotFoundError as error:
        sys.exit(f"archive: {error}")
    print(f"Archive: {asked.output} ({count} files, {asked.output.stat().st_size / 1e6:.1f} MB); "
          f"unpacked, it opens at {FOLDER}/index.html")


if __name__ == "__main__":
    main()
