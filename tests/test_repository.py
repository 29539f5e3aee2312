"""What a repository says of itself: how to cite it, what its hosted checks run, what changed, which licence it has."""

import re

import yaml
from pybtex.database import parse_file

from pipeline.chapters import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def read(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_the_citation_names_the_version_and_the_paper():
    citation = read("CITATION.cff")
    assert citation["cff-version"] == "1.2.0" and citation["message"] and citation["authors"]
    assert f'version = "{citation["version"]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f"## {citation['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    (paper,) = citation["references"]
    entry = parse_file(str(ROOT / "book" / "references.bib")).entries["paper"]
    assert (paper["title"], paper["url"]) == (entry.fields["title"], entry.fields["url"])
    assert [author["family-names"] for author in paper["authors"]] == [
        author.last_names[0] for author in entry.persons["author"]]


def test_the_hosted_workflow_runs_the_commands_of_the_readme():
    commands = re.findall(r"^(make \w+)", README.split("## Two commands")[1].split("```")[1], re.MULTILINE)
    (job,) = read(".github/workflows/book.yml")["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make book", ".ci/run"]
    checked = re.findall(r"^make [\w-]+$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert commands == ["make book", "make test"] and checked == ["make test", "make test-processor"]
    versions = [step["with"]["python-version"] for step in job["steps"] if "python-version" in step.get("with", {})]
    assert versions == ["3.11"]


def test_no_licence_is_claimed_and_the_readme_says_so():
    assert not list(ROOT.glob("LICEN[CS]E*")) and "license" not in read("CITATION.cff")
    assert "No licence has been chosen" in README


def test_commands_of_the_contributing_page_are_targets():
    text = (ROOT / "book" / "contributing.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"make ([\w-]+)", text))
    assert len(named) > 3 and named <= targets
