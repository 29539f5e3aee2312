"""What is recorded belongs to what is written: the recorded notebooks hold the chapters' present text."""

import json

import pytest

from pipeline import chapters


@pytest.mark.parametrize("chapter", chapters.chapters())
def test_a_recorded_notebook_holds_its_chapter(chapter):
    recorded = json.loads((chapters.ROOT / "book" / f"{chapter}.ipynb").read_text())["cells"]
    kept = ["".join(cell["source"]) for cell in recorded
            if "injected-parameters" not in cell["metadata"].get("tags", [])]
    written = [cell["source"] for cell in chapters.notebook(chapter).cells]
    assert kept == written, f"book/{chapter}.md has changed since it was recorded: run `make record`"


def test_every_recorded_result_is_whole():
    from lib import provenance

    found = list(provenance.results("one_layer", provenance.RECORDED))
    assert found and all(result["provenance"]["seconds"] > 0 for result in found)
