"""The curse in sentences: what stands on the page is what the runs hold, and runs on other facts do not go together."""

from pathlib import Path

import pytest

from lib.language_models.figures_curse import quoted
from lib.record.provenance import Result


def run(reverse, asked="Bob's parent is"):
    curves = {"asked_forward": ["Ana's child is", "Eva's child is"], "right_forward": ["Bob", "Kai"],
              "written_forward": ["Bob.", "Kai"], "asked_reverse": [asked, "Kai's parent is"],
              "right_reverse": ["Ana", "Eva"], "written_reverse": list(reverse)}
    return Result({"experiment": "pretrained", "curves": curves, "metrics": {}, "seeds": [0]}, Path("run.json"))


def test_what_is_right_is_marked_right_and_what_is_not_is_not():
    page = str(quoted({"the twin": run(["Bob.", ""]), "the masked": run(["Ana.", "Eva <Kai>"])}))
    assert "Ana&#39;s child is Bob." in page and page.count("<tbody>") == 2
    assert page.count("curse-right") == 5 and page.count("curse-wrong") == 3
    assert '<td class="curse-wrong">✗ Bob.</td>' in page and '<td class="curse-right">✓ Ana.</td>' in page
    assert "✗ (nothing)" in page and "✗ Eva &lt;Kai&gt;" in page
    order = [page.index(word) for word in ("the twin writes", "the masked writes", "✗ Bob.", "✓ Ana.")]
    assert order == sorted(order)


def test_runs_on_other_facts_are_refused():
    with pytest.raises(ValueError, match=r"one and two: runs that were asked different questions \(asked_reverse\)"):
        quoted({"one": run(["", ""]), "two": run(["", ""], asked="Kai's parent is")})
