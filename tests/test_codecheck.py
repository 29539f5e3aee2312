"""The manifest for an independent check is the recorded ledger's, and the page on versions counts what is recorded."""

import json

import yaml

from lib.record import provenance
from pipeline import chapters, codecheck, machines

LEDGER = provenance.RECORDED / "ledger.json"
BIBLIOGRAPHY = chapters.ROOT / "book" / "references.bib"
PATH = chapters.ROOT / "codecheck.yml"


def test_the_manifest_is_current():
    expected = codecheck.text(json.loads(LEDGER.read_text()), BIBLIOGRAPHY)
    assert PATH.read_text(encoding="utf-8") == expected, "run `python -m pipeline.codecheck`"


def test_what_the_manifest_lists_is_there():
    content = yaml.safe_load(PATH.read_text(encoding="utf-8"))
    files = [entry["file"] for entry in content["manifest"]]
    assert len(files) == len(set(files)) > 100 and all((chapters.ROOT / file).is_file() for file in files)
    assert content["version"] == codecheck.VERSION and content["paper"]["reference"].startswith("https://arxiv.org/")
    assert all(author["name"].count(" ") for author in content["paper"]["authors"])


def test_a_ledger_that_changed_changes_the_manifest():
    ledger = json.loads(LEDGER.read_text())
    row = next(row for row in ledger["rows"] if any(check.get("runs") for check in row["checks"]))
    check = next(check for check in row["checks"] if check.get("runs"))
    before = codecheck.text(ledger, BIBLIOGRAPHY)
    check["runs"] = [{**check["runs"][0], "file": "results/new.json", "seconds": 3.0}]
    after = codecheck.text(ledger, BIBLIOGRAPHY)
    assert "results/new.json" in after and after != before


def test_the_page_on_versions_counts_what_is_recorded(tmp_path):
    records, results = tmp_path / "chapters", tmp_path / "results"
    for folder in (records, results / "first", results / "second"):
        folder.mkdir(parents=True)
    run = {"commit": "aaa", "device": "a GPU", "seconds": 3600.0, "started": "2026-01-02T03:04:05+00:00",
           "versions": {"torch": "2.0"}}
    later = {"commit": "bbb", "together": 2, "started": "2026-01-05T00:00:00+00:00"}
    for name, more in {"first/a": {}, "first/b": later,
                       "second/c": {"device": "a CPU", "versions": {"torch": "2.1"}}}.items():
        (results / f"{name}.json").write_text(json.dumps({"provenance": {**run, **more}}))
    (records / "one.json").write_text(json.dumps({**run, "chapter": "one", "profile": "quick"}))
    page = machines.page(records, results)
    for line in ("3 recorded runs of 2 experiments, and 1 chapters", "| a CPU | 1 | 1.0 |", "| a GPU | 3 | 2.5 |",
                 "| torch | 2.0 | 3 |", "| torch | 2.1 | 1 |", "| first | 2 | 1.50 | 2026-01-02 | 2026-01-05 | 2 |",
                 "| [](../book/one.ipynb) | 2026-01-02 03:04 | `aaa` | a GPU | 3600 | quick |"):
        assert line in page, line
