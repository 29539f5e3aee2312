"""The front page's sentences: supported by the recorded ledger, refused where a row says otherwise or is missing."""

import pytest
import yaml

from lib.record import provenance, story
from lib.record.story import StoryError, supported_sentences

ROWS = [{"id": "one", "status": "proved"}, {"id": "two", "status": "deviates"}]


def written(tmp_path, *sentences):
    path = tmp_path / "story.yml"
    path.write_text(yaml.safe_dump([{"group": "What <stands>", "of": "the paper", "sentences": list(sentences)}]))
    return path


def sentence(row="one", status=("proved",), says="A & B."):
    return {"says": says, "row": row, "status": list(status)}


def test_a_sentence_shows_the_status_of_its_row_and_leads_there(tmp_path):
    page = str(supported_sentences(ROWS, written(tmp_path, sentence(), sentence("two", ["pattern", "deviates"]))))
    assert 'href="ledger.html#claim-one"' in page and 'href="ledger.html#claim-two"' in page
    assert "A &amp; B." in page and "What &lt;stands&gt;" in page
    assert page.index("status-proved") < page.index("status-deviates")


@pytest.mark.parametrize(("given", "message"), [
    (sentence(status=["pattern"]), "one is 'proved' in the ledger, and the sentence supposes pattern: 'A & B.'"),
    (sentence("three"), "three: the ledger has no such row"),
    (sentence(status=["true"]), "one: no status 'true'; one of"),
    ({"says": "A.", "row": "one"}, "What <stands>: sentence 1: field 'status' is missing"),
    ({**sentence(), "colour": 1}, "What <stands>: sentence 1: unknown field 'colour'"),
    (sentence() | {"status": "proved"}, "sentence 1: field 'status' must be a list"),
    (sentence(status=[{"a": 1}]), "one: no status {'a': 1}; one of")])
def test_a_sentence_that_the_ledger_does_not_support_is_refused(tmp_path, given, message):
    with pytest.raises(StoryError, match=message):
        supported_sentences(ROWS, written(tmp_path, given))


@pytest.mark.parametrize(("text", "message"), [
    ("", "a list of groups is expected, each with group, of, sentences, not None"),
    ("group: a\n", "a list of groups is expected"), ("- a\n", "group 1: expected fields, such as group, of, sentences"),
    ("- {group: a, of: b}\n", "group 1: field 'sentences' is missing"),
    ("- {group: a, of: b, sentences: c}\n", "group 1: field 'sentences' must be a list"),
    ("- {group: a, of: b, sentences: [c]}\n", "a: sentence 1: expected fields, such as says, row, status, not 'c'"),
    ("- group: a\n  group: b\n", "line 2: key 'group' stands twice"), ("- [\n", "line ")])
def test_a_malformed_file_is_refused_by_group_and_field(tmp_path, text, message):
    path = tmp_path / "story.yml"
    path.write_text(text)
    with pytest.raises(StoryError, match=rf"story\.yml.*{message}"):
        supported_sentences(ROWS, path)


def test_the_book_tells_nothing_that_its_ledger_does_not_hold():
    rows = provenance.read_json(provenance.RECORDED / "ledger.json")["rows"]
    page = str(supported_sentences(rows))
    groups = yaml.safe_load(story.STORY.read_text())
    assert page.count("<li>") == sum(len(group["sentences"]) for group in groups) > 10
    changed = [{**row, "status": "open"} for row in rows]
    with pytest.raises(StoryError):
        supported_sentences(changed)
