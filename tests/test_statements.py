"""The paper's own numbers on its statements, in references, and among the titles of the search."""

import json

import pytest

from pipeline import statements

PLACES = {"thm-4-3": "Thm 4.3, App. A.3", "prop-c-1": "Prop. C.1, App. C.2", "table-3": "Table 3, App. B.1",
          "v1-thm": "Thm 4.1 of v1", "n-own": "beside Thm 4.3", "n-next": "this book", "sec": "Sec. 3, App. A.1",
          "table-7": "Table 7", "fig": "Fig. 3 (left), Sec. 5", "mini": "beside Table 7",
          "real": "Table 7, on trained weights"}


def statement(name, label, title):
    return (f'<div class="proof theorem admonition" id="{name}">\n<p class="admonition-title">'
            f'<span class="caption-number">{label} </span> ({title})</p></div>')


ROUTING = (statement("n-own", "Theorem 1", "Ours") + statement("thm-4-3", "Theorem 2", "Scores (Thm. 4.3)")
           + statement("v1-thm", "Theorem 3", "Means (v1, Thm. 4.1)")
           + statement("table-3", "Observation 1", "Table 3"))
FLOWS = (statement("n-next", "Theorem 4", "Next") + statement("sec", "Theorem 5", "Split (Sec. 3)")
         + '<p><a class="reference internal" href="routing.html#thm-4-3">Theorem 2</a>, '
         '<a class="reference internal" href="#n-next">Theorem 4</a>, '
         '<a class="reference internal" href="#x">Theorem 9</a>'
         '<div id="claim-box-table-7"></div><div id="claim-box-real"></div><div id="claim-box-fig"></div>')
NAMED = statements.labels([FLOWS, ROUTING], PLACES)


@pytest.mark.parametrize(("place", "found"), [
    ("Thm 4.3, App. A.3", ["Theorem 4.3", "Appendix A.3"]), ("Prop. C.1", ["Proposition C.1"]),
    ("Table 7", ["Table 7"]),
    ("Fig. 3 (left), Sec. 5", ["Figure 3 (left)", "Section 5"]), ("Thm 4.1 of v1", ["Theorem 4.1 of v1"]),
    ("beside Thm 4.3", []), ("Table 7, on trained weights", []), ("chapter one_layer", [])])
def test_places_are_written_out_where_a_claim_stands_for_them(place, found):
    assert statements.paper_places(place) == found


def test_the_paper_gives_its_statements_their_numbers_and_those_of_this_book_have_no_gap():
    assert NAMED == {"thm-4-3": "Theorem 4.3", "v1-thm": "Theorem 4.1 of v1", "table-3": "Table 3",
                     "n-own": "Theorem 1", "n-next": "Theorem 2", "sec": "Theorem 3"}


def test_statements_and_what_refers_to_them_are_named_alike():
    page = statements.labelled(FLOWS + ROUTING, NAMED)
    assert ">Theorem 4.3 </span> (Scores)</p>" in page and ">Theorem 4.1 of v1 </span> (Means)</p>" in page
    assert ">Table 3 </span></p>" in page and ">Theorem 3 </span> (Split (Sec. 3))</p>" in page
    assert '#thm-4-3">Theorem 4.3</a>, ' in page and '#n-next">Theorem 2</a>, ' in page and '#x">Theorem 9</a>' in page


def test_pages_that_are_labelled_keep_their_labels():
    pages = [statements.labelled(page, NAMED) for page in (FLOWS, ROUTING)]
    assert statements.labels(pages, PLACES) == NAMED
    assert [statements.labelled(page, NAMED) for page in pages] == pages


def test_the_search_knows_the_papers_places():
    content = {"alltitles": {" (Scores (Thm. 4.3))": [[1, "thm-4-3"]], " (Next)": [[0, "n-next"]],
                             "Scores": [[1, "scores"]]},
               "docnames": ["book/flows", "book/routing"], "indexentries": {"mask": [[1, "term-mask", True]]}}
    pages = {"book/flows": FLOWS, "book/routing": ROUTING}
    changed = statements.searchable(f"Search.setIndex({json.dumps(content)})", pages, NAMED, PLACES)
    assert changed.startswith("Search.setIndex({") and changed.endswith("})")
    found = json.loads(changed[len("Search.setIndex("):-1])
    titles = found["alltitles"]
    assert titles["Theorem 4.3"] == [[1, "thm-4-3"]] and titles["Theorem 4.3 (Scores)"] == [[1, "thm-4-3"]]
    assert titles["Theorem 2 (Next)"] == [[0, "n-next"]] and titles["Scores"] == [[1, "scores"]]
    assert titles["Table 7"] == [[0, "claim-box-table-7"]] and titles["Table 3"] == [[1, "table-3"]]
    assert titles["Figure 3 (left)"] == titles["Section 5"] == [[0, "claim-box-fig"]]
    assert "Proposition C.1" not in titles  # which no page treats
    assert found["indexentries"]["thm. 4.3"] == [[1, "thm-4-3", True]] and "mask" in found["indexentries"]
    assert statements.searchable(changed, pages, NAMED, PLACES) == changed


def test_what_is_found_as_a_whole_comes_first_and_no_page_is_read_from_disk():
    program = "score = Math.round(Scorer.title * queryLower.length / title.length), score: Scorer.title }"
    assert statements.search_program(program) == program.replace("Scorer.title *", "100 *")
    assert 'location.protocol !== "file:"' in statements.search_options("    SHOW_SEARCH_SUMMARY: true,")
