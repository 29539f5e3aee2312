"""What a page says of a number, and where its link leads."""

import html
import re

import pytest

from lib.record import traced_numbers as traced

RUNS = [{"file": f"results/one_layer/full_rope_{length}.json", "commit": commit, "device": "CPU", "seconds": 100.0,
         "parameters": {"length": length, "steps": 6000, "encoding": "rope"}}
        for length, commit in ((10, "abc"), (20, "def"))]
CHECK = {"claim": "table-1", "check": "reverse", "says": "reverse", "holds": False, "unit": "%",
         "seeds": [[0, 1, 2], [0, 1]], "runs": RUNS,
         "paper": {"L = 10": 43.1, "L = 20": 55.7}, "ours": {"L = 10": 22.47, "L = 20": 0.5},
         "spread": {"L = 10": 3.0, "L = 20": 1.0}, "interval": {"L = 10": [9.4, 38.1], "L = 20": [0.1, 1.0]},
         "chapter": "one_layer", "cell": 13, "commit": "page", "device": "GPU", "seconds": 0.1,
         "parameters": {"batch": 120}, "registered": "afterwards"}


def first(check=CHECK):
    return traced.shown_values(check)[0]


def test_a_number_says_the_papers_value_interval_and_seeds():
    assert dict(traced.number_lines(CHECK, first())) == {
        "number": "L = 10", "paper": "43.1 %", "this book": "22.47 %", "interval": "9.4 to 38.1 %",
        "spread over seeds": "± 3 %", "seeds": "3"}
    assert [value["seeds"] for value in traced.values_of(CHECK)] == ["3", "2"]
    assert traced.values_of({**CHECK, "ours": 1.0})[0]["seeds"] == "3, 2"
    assert {value["seeds"] for value in traced.values_of({**CHECK, "seeds": [4, 5, 6, 7]})} == {"4"}


def test_a_number_the_paper_does_not_print_says_so():
    plain = {**CHECK, "paper": None, "ours": 1.5, "spread": None, "interval": None, "seeds": []}
    assert dict(traced.number_lines(plain, first(plain))) == {
        "paper": "prints none", "this book": "1.5 %", "seeds": "none: no mean over seeds"}


def untold(*seeds, **fields):
    """A check that was not told its seeds, of results with these."""
    runs = [{**run, "seeds": own, "place": place} for place, (run, own) in enumerate(zip(RUNS, seeds, strict=False))]
    return {**CHECK, "seeds": [], "runs": runs, **fields}


@pytest.mark.parametrize(("seeds", "words"), [
    (([0, 1, 2], [0, 1, 2]), "3"), (([0, 1], [0, 1, 2]), "those of the results below"),
    (([0], [1]), "those of the results below"), (([0], [0]), "those of the results below"),
    ((), "none recorded: the chapter computes the interval itself")])
def test_a_number_with_an_interval_says_the_seeds_of_its_results_where_the_check_was_not_told_them(seeds, words):
    for check in (untold(*seeds), untold(*seeds, spread=None), untold(*seeds, interval=None)):
        assert dict(traced.number_lines(check, first(check)))["seeds"] == words
        assert dict(traced.check_lines(check))["seeds"] == words
        assert "data-seeds" not in traced.box_link(check, first(check), -1)
    bare = untold(*seeds, spread=None, interval=None)
    assert dict(traced.number_lines(bare, first(bare)))["seeds"] == "none: no mean over seeds"
    assert dict(traced.check_lines(bare))["seeds"] == "none: no mean over seeds"


def test_numbers_of_a_check_that_rest_on_other_seeds_say_so_each():
    check = untold([0, 1, 2], [0, 1], sources={"L = 10": (RUNS[0]["file"], "reverse_accuracy")})
    one, other = traced.shown_values(check)
    assert (one["seeds"], other["seeds"]) == ("3", "those of the results below")
    assert dict(traced.check_lines(check))["seeds"] == "3 or those of the results below"
    assert 'data-seeds="3"' in traced.box_link(check, one, -1)
    half = untold([0, 1, 2], [0, 1, 2], spread=None, interval={"L = 10": [9.4, 38.1]})
    assert dict(traced.check_lines(half))["seeds"] == "3"
    assert 'data-seeds="none: no mean over seeds"' in traced.box_link(half, traced.shown_values(half)[1], -1)


def test_the_origin_is_that_of_the_results_read_not_of_the_page():
    told = dict(traced.origin_lines(CHECK))
    assert told["checked in"] == "one_layer, cell 13"
    assert told["results read"] == "one_layer/full_rope_10, one_layer/full_rope_20"
    assert (told["commit"], told["device"], told["seconds"]) == ("abc, def", "CPU", "200")
    assert told["parameters"] == "length = 10 or 20, steps = 6000, encoding = rope"
    assert told["registered"] == "no: the check was written down after its runs"


def test_without_results_the_origin_is_the_chapters_execution():
    told = dict(traced.origin_lines({**CHECK, "runs": [], "registered": ""}))
    assert (told["commit"], told["device"], told["seconds"]) == ("page", "GPU", "0.1")
    assert told["parameters"] == "batch = 120"
    assert "results read" not in told and told["registered"].startswith("no recorded run")


def nested(length, intervention, **more):
    subject = {"model": {}, "training": {"intervention": intervention, "steps": 1000}, **more}
    return {**RUNS[0], "parameters": {"length": length, "subject": subject}}


def test_nested_parameters_are_told_flat_one_by_one():
    one, other = nested(10, "drop_right_of_capital"), nested(10, "none", told=True)
    assert dict(traced.run_lines(one))["parameters"] == (
        "length = 10, subject.training.intervention = drop_right_of_capital, subject.training.steps = 1000")
    together = dict(traced.origin_lines({**CHECK, "runs": [one, other]}))["parameters"]
    assert together.split(", ") == ["length = 10", "subject.training.intervention = drop_right_of_capital or none",
                                    "subject.training.steps = 1000", "subject.told = true"]
    shared, own = traced.shared_parameters([one, other])
    assert shared == {"length": 10, "subject.training.steps": 1000}
    assert [run["parameters"] for run in own] == [
        {"subject.training.intervention": "drop_right_of_capital"},
        {"subject.training.intervention": "none", "subject.told": True}]
    alone = {**CHECK, "runs": [], "parameters": {"a": {"b": {"c": [1, 2]}}}}
    assert dict(traced.origin_lines(alone))["parameters"] == "a.b.c = [1, 2]"


def test_many_results_are_counted():
    told = dict(traced.origin_lines({**CHECK, "runs": RUNS * 5}))
    assert told["results read"].endswith("and 6 more")


def test_the_link_in_a_chapter_leads_to_the_check_and_its_title_holds_everything():
    link = traced.page_link(CHECK, first())
    assert 'href="../claims/table-1.html#check-table-1-reverse"' in link and link.endswith(">22.47 %</a>")
    title = html.unescape(re.search('title="([^"]*)"', link)[1])
    lines = [f"{name}: {told}" for name, told in (*traced.number_lines(CHECK, first()), *traced.origin_lines(CHECK))]
    assert title.split("\n") == lines
    assert not set(re.search('title="([^"]*)"', link)[1]) & set("\n|$`*_[]{}")  # it stands in Markdown too


PLACED = {**CHECK, "runs": [{**run, "place": place} for place, run in enumerate(RUNS)]}


def test_a_number_in_a_box_says_what_its_row_and_the_lists_of_the_page_do_not():
    known = {**PLACED, "sources": {"L = 20": (RUNS[1]["file"], "reverse_accuracy")}}
    values = traced.shown_values(known)
    assert [traced.box_link(known, value, -1) for value in values] == [
        '<a class="number" href="../claims/table-1.html#check-table-1-reverse" data-seeds="3">22.47 %</a>',
        '<a class="number" href="../claims/table-1.html#check-table-1-reverse" data-run="1" data-seeds="2">0.5 %</a>']
    assert 'data-item="4" title="number: L = 20&#10;paper: 55.7 %&#10;' in traced.box_link(known, values[1], 4)


def test_the_lists_of_a_page_say_where_its_numbers_come_from():
    assert dict(traced.check_lines(CHECK)) == {"seeds": "3, 2", "checked in": "one_layer, cell 13",
                                               "registered": "no: the check was written down after its runs"}
    assert dict(traced.check_lines({**CHECK, "runs": []}))["seconds"] == "0.1"
    assert dict(traced.run_lines(RUNS[1])) == {"commit": "def", "device": "CPU", "seconds": "100",
                                               "parameters": "length = 20, steps = 6000, encoding = rope"}


def test_a_number_that_is_the_mean_of_one_metric_names_it():
    means = {RUNS[0]["file"]: {"reverse_accuracy": 22.47, "forward_accuracy": 100.0},
             RUNS[1]["file"]: {"reverse_accuracy": 0.5, "forward_accuracy": 22.4701}}
    found = traced.single_sources(CHECK, means)
    assert found == {"L = 10": (RUNS[0]["file"], "reverse_accuracy"), "L = 20": (RUNS[1]["file"], "reverse_accuracy")}
    told = dict(traced.number_lines({**CHECK, "sources": found}, first()))
    assert told["mean of"] == "reverse accuracy"


def test_a_number_from_one_of_several_results_has_the_origin_of_that_one():
    check = {**CHECK, "sources": {"L = 20": (RUNS[1]["file"], "reverse_accuracy")}}
    told = dict(traced.origin_lines(check, RUNS[1]["file"]))
    assert (told["result"], told["commit"], told["seconds"]) == ("one_layer/full_rope_20", "def", "100")
    assert told["parameters"] == "length = 20, steps = 6000, encoding = rope"
    assert "commit: def" in html.unescape(traced.page_link(check, traced.shown_values(check)[1]))


@pytest.mark.parametrize("means", [
    {"a": {"x": 22.47}, "b": {"y": 22.47}},  # either could be meant
    {"a": {"x": 22.470001}},
    {}])
def test_a_number_of_unclear_source_names_none(means):
    assert "L = 10" not in traced.single_sources(CHECK, means)


def test_whole_numbers_have_no_single_source():
    assert traced.single_sources({**CHECK, "ours": 100.0}, {"a": {"x": 100.0}}) == {}
    assert traced.single_sources({**CHECK, "ours": 99.5}, {"a": {"x": 99.5}}) == {"": ("a", "x")}


def test_the_link_in_the_ledger_leads_to_the_result():
    assert traced.ledger_link(CHECK, first()) == "22.47 %"  # of two results: the row lists them
    one = {**CHECK, "sources": {"L = 10": (RUNS[1]["file"], "reverse_accuracy")}}
    assert 'href="../results/one_layer/full_rope_20.html"' in traced.ledger_link(one, first())
    assert 'href="../results/one_layer/full_rope_10.html"' in traced.ledger_link({**CHECK, "runs": RUNS[:1]}, first())
    assert 'href="../results/chapters/one_layer.html"' in traced.ledger_link({**CHECK, "runs": []}, first())


SKIPPED = {"claim": "table-1", "check": "reverse", "skipped": "why"}
ROWS = [{"id": "table-1", "registered": "before", "checks": [SKIPPED, CHECK]},
        {"id": "empty", "registered": "", "checks": []}]


def test_a_number_is_found_by_claim_check_and_name():
    check, value = traced.find(ROWS, "table-1", "reverse", "L = 20")
    assert value["ours"] == "0.5 %" and check["registered"] == "before"
    single = [{**ROWS[0], "checks": [{**CHECK, "ours": {"only": 1.0}}]}]
    assert traced.find(single, "table-1", "reverse")[1]["ours"] == "1 %"


OTHER = {**CHECK, "says": "other", "ours": {"L = 30": 7.0, "L = 20": 9.0}, "spread": None, "interval": None}
TWICE = [{**ROWS[0], "checks": [SKIPPED, CHECK, OTHER]}]


def test_of_several_checks_of_one_name_the_one_with_the_named_value_is_found():
    assert traced.find(TWICE, "table-1", "reverse", "L = 10")[0]["says"] == "reverse"
    check, value = traced.find(TWICE, "table-1", "reverse", "L = 30")
    assert (check["says"], value["ours"], check["registered"]) == ("other", "7 %", "before")
    single = [{**ROWS[0], "checks": [CHECK, {**OTHER, "ours": 5.0}]}]
    assert traced.find(single, "table-1", "reverse")[1]["ours"] == "5 %"


@pytest.mark.parametrize(("checks", "name"), [
    ([CHECK, OTHER], "L = 20"), ([{**CHECK, "ours": {"a": 1.0}}, {**CHECK, "ours": {"b": 1.0}}], "")])
def test_a_value_that_several_checks_of_one_name_have_is_refused(checks, name):
    with pytest.raises(KeyError, match=f"2 checks 'reverse' of table-1 have a value '{name}'"):
        traced.find([{**ROWS[0], "checks": checks}], "table-1", "reverse", name)


def test_a_value_that_none_of_several_checks_has_is_refused_with_all_that_there_are():
    with pytest.raises(KeyError, match="no value of table-1/reverse 'L = 50'; there are L = 10, L = 20, L = 30"):
        traced.find(TWICE, "table-1", "reverse", "L = 50")


@pytest.mark.parametrize(("how", "text"), [
    ({}, "22.47 %"), ({"digits": "0"}, "22 %"), ({"interval": True}, "22.47 % (9.4 to 38.1)"),
    ({"digits": "0", "interval": True}, "22 % (9 to 38)"), ({"digits": "3"}, "22.470 %")])
def test_a_number_in_a_text_has_as_many_digits_as_asked_for(how, text):
    assert traced.rounded(CHECK, "L = 10", **how) == text
    link = traced.page_link(CHECK, first(), text)
    assert link.endswith(f">{text}</a>") and "this book: 22.47 %" in html.unescape(link)


def test_what_rounds_to_zero_has_no_sign_and_no_interval_is_made_up():
    check = {**CHECK, "unit": "", "ours": {"a": -0.004}, "interval": {"a": [-0.02, 0.003]}}
    assert traced.rounded(check, "a", "2", interval=True) == "0.00 (-0.02 to 0.00)"
    with pytest.raises(KeyError, match="'a' has no interval"):
        traced.rounded({**check, "interval": None}, "a", interval=True)


@pytest.mark.parametrize(("names", "message"), [
    (("table-9", "reverse"), "no claim 'table-9'; there are empty, table-1"),
    (("table-1", "forward"), "no executed check of table-1 'forward'; there are reverse"),
    (("table-1", "reverse"), "no value of table-1/reverse ''; there are L = 10, L = 20"),
    (("empty", "reverse"), "no executed check of empty 'reverse'; there are none")])
def test_a_number_that_is_not_there_is_refused_by_name(names, message):
    with pytest.raises(KeyError, match=message):
        traced.find(ROWS, *names)


def test_a_ratio_beside_numbers_with_a_unit_has_none():
    check = CHECK | {"unit": "points", "ours": {"gain": 72.0, "gain, Hedges' g": 3.0, "share of the gain": 1.0},
                     "spread": None, "interval": None, "paper": None}
    assert [value["ours"] for value in traced.shown_values(check)] == ["72 points", "3", "1"]
