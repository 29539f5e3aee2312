"""Each number of a check in words, and where it comes from: what a reader is told of it, and the link that leads on.

A number on a page is a link to its check on the claim's page, whose numbers link the recorded results. On hover, focus
or tap ``book/_static/book.js`` shows a card: the paper's value, the book's, interval, seeds, and where it was computed
(chapter and cell, commit, device, parameters, seconds, whether the claim was registered before its runs). In a box the
card is put together from what stands on the page without any script: the number's row, the list of its check
(`check_lines`), and the lists of the results that the page read (`run_lines`). A number elsewhere has all of it in its
``title``.
"""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from markupsafe import Markup

from lib.record.ledger import Row

Lines = Sequence[tuple[str, str]]  # what is told, and what it is
FEW = 4  # so many results, or values of a parameter, are named one by one
MARKS = "|$`*_{}[]\\"  # that Markdown reads
CLAIM_PAGES = "claims"  # the folder of the ledger's pages, one a claim
REGISTERED = {
    "before": "before its runs started",
    "before new runs": "before its new runs started; the runs compared with were already there",
    "afterwards": "no: the check was written down after its runs",
    "": "no recorded run: computed whenever the chapter runs",
}
NO_MEAN = "none: no mean over seeds"
OF_RESULTS = "those of the results below"
OF_CHAPTER = "none recorded: the chapter computes the interval itself"


# Values in words ---------------------------------------------------------------------------------------------------


def format_value(value: Any) -> str:
    """A measured value in words: four digits, and each named value after its name."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {format_value(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return " to ".join(map(format_value, value)) if len(value) == 2 else ", ".join(map(format_value, value))
    return f"{value:.{4 if abs(value) < 1e4 else 6}g}" if isinstance(value, float) else str(value)


_RATIOS = ("Hedges' g", "share of the gain")  # how names of numbers without a unit end


def values_of(check: Row) -> list[dict[str, Any]]:
    """The values of a check as they are recorded, one entry a name: name, ours, spread, both intervals, paper, seeds.

    ``seeds`` says how many a value rests on, or that it rests on those of the results that it was read from; nothing
    for a value without seeds, interval and spread.
    """
    ours = check.get("ours")
    if ours is None and check.get("paper") is None:
        return []
    named, fields = isinstance(ours, Mapping), ("ours", "spread", "interval", "t_interval", "paper")
    found = [{"name": "" if name is None else str(name),
              **{field: _part(check.get(field), name, place, named) for field in fields}}
             for place, name in enumerate(ours if isinstance(ours, Mapping) else [None])]
    return [{**value, "seeds": _seeds_of(check, place) or _seeds_read(check, value)}
            for place, value in enumerate(found)]


def _part(value: Any, name: Any, place: int, named: bool) -> Any:
    """The part of a value that belongs to one name: by name, or by place where it has none."""
    if not named or value is None or not isinstance(value, (Mapping, list, tuple)):
        return value
    if isinstance(value, Mapping):
        return value.get(name)
    return value[place] if place < len(value) else None


def _seeds_of(check: Row, place: int) -> str:
    """How many seeds the value at that place rests on; of all cells, where values and cells differ in number."""
    cells, ours = _seed_cells(check), check.get("ours")
    if len(cells) > 1 and isinstance(ours, Mapping) and len(cells) == len(ours):
        return str(len(cells[place]))
    return ", ".join(str(len(each)) for each in cells)


def _seeds_read(check: Row, value: Mapping[str, Any]) -> str:
    """How many seeds a number with an interval or spread rests on, by its results, where its check was not told.

    Their number if these results have the same seeds; one seed has no interval, so it is not what the number rests on.
    """
    if value["interval"] is None and value["spread"] is None:
        return ""
    runs = _runs_of(check, _file(check, value["name"]))
    if not runs:
        return OF_CHAPTER
    seeds = runs[0].get("seeds") or ()
    alike = all(run.get("seeds") == seeds for run in runs)
    return str(len(seeds)) if alike and len(seeds) > 1 else OF_RESULTS


def shown_values(check: Row) -> list[dict[str, str]]:
    """The entries of `values_of` in words, numbers with their unit."""
    return [{name: found if name in ("name", "seeds") else with_unit(found, unit_of(check, value["name"]))
             for name, found in value.items()} for value in values_of(check)]


def unit_of(check: Row, name: str) -> str:
    """The unit of one number of a check; none for a ratio that stands beside numbers with one."""
    return "" if name.endswith(_RATIOS) else check.get("unit", "")


def with_unit(value: Any, unit: str) -> str:
    """A value in words, its unit behind it; nothing for None."""
    text = "" if value is None else format_value(value)
    return f"{text} {unit}" if text and unit else text


def phrase(value: Mapping[str, str]) -> str:
    """One entry of `shown_values` as a phrase."""
    name = f"{value['name']}: " if value["name"] else ""
    return f"{name}{value['ours']}{beside(value)}"


def beside(value: Mapping[str, str]) -> str:
    """What stands behind a number of `shown_values`: its spread, its interval, and the paper's."""
    spread = f" ± {value['spread']}" if value["spread"] else ""
    interval = f" (interval {value['interval']})" if value["interval"] else ""
    paper = f" (paper: {value['paper']})" if value["paper"] else ""
    return f"{spread}{interval}{paper}"


def seed_count(check: Row) -> str:
    """How many seeds a check rests on, by cell where cells differ."""
    cells = _seed_cells(check)
    return f"{', '.join(str(len(each)) for each in cells)} seeds" if cells else ""


def _seed_cells(check: Row) -> list[Sequence[int]]:
    found = check.get("seeds") or ()
    return [each for each in found if isinstance(each, (list, tuple))] or ([found] if found else [])


# Where a number comes from -----------------------------------------------------------------------------------------


def number_lines(check: Row, value: Mapping[str, str]) -> Lines:
    """What is said of one number beside its origin: the paper's value, the book's, interval, spread, seeds.

    :param value: an entry of `shown_values`
    """
    metric = check.get("sources", {}).get(value["name"], ("", ""))[1]
    lines = [("number", value["name"]), ("paper", value["paper"] or "prints none"), ("this book", value["ours"]),
             ("interval", value["interval"]), ("by Student's t", value["t_interval"]),
             ("spread over seeds", value["spread"] and f"± {value['spread']}"),
             ("seeds", value["seeds"] or NO_MEAN),
             ("mean of", metric.replace("_", " "))]
    return [line for line in lines if line[1]]


def origin_lines(check: Row, file: str = "") -> Lines:
    """Where numbers of a check come from: results, commit, device, parameters, seconds, chapter and cell.

    :param check: a check of a ledger's row; each of its ``runs`` may carry ``parameters``
    :param file: the result that they come from; all that the check read, where not said
    """
    runs = _runs_of(check, file)
    where = [("checked in", f"{check['chapter']}, cell {check['cell']}"),
             ("registered", REGISTERED[check.get("registered", "")])]
    if not runs:
        return [*where, *_made([check], flat(check["parameters"]))]
    files = [name_of(run["file"]) for run in runs]
    read = ", ".join(files) if len(files) <= FEW else f"{', '.join(files[:FEW])} and {len(files) - FEW} more"
    return [*where, ("result" if len(files) == 1 else "results read", read), *_made(runs, _together(runs))]


def check_lines(check: Row) -> Lines:
    """What is said of all numbers of a check in a box: where they were checked, and on how many seeds they rest."""
    own = "" if check.get("runs") or check.get("seconds") is None else format_value(float(check["seconds"]))
    lines = [("seeds", _seeds_together(check)),
             ("checked in", f"{check['chapter']}, cell {check['cell']}"),
             ("registered", REGISTERED[check.get("registered", "")]), ("seconds", own)]
    return [line for line in lines if line[1]]


def _seeds_together(check: Row) -> str:
    """On how many seeds the numbers of a check rest; where they differ, each says so itself, see `box_link`."""
    if told := seed_count(check):
        return told.removesuffix(" seeds")
    return " or ".join(dict.fromkeys(value["seeds"] for value in values_of(check) if value["seeds"])) or NO_MEAN


def run_lines(run: Row) -> Lines:
    """What is said of one result that a page read: commit, device, seconds, parameters."""
    return _made([run], _parameters(run))


def flat(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters without nesting, ``subject.training.steps``; an empty group says nothing and is left out."""
    found: dict[str, Any] = {}
    for name, value in parameters.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{inner}": each for inner, each in flat(value).items()}
        else:
            found[name] = value
    return found


def _parameters(run: Row) -> dict[str, Any]:
    return flat(run.get("parameters", {}))


def _runs_of(check: Row, file: str) -> list[Row]:
    """The results of that file that a check read; all that it read for no file."""
    return [run for run in check.get("runs", ()) if file in ("", run["file"])]


def _file(check: Row, name: str) -> str:
    return check.get("sources", {}).get(name, ("", ""))[0]


def shared_parameters(runs: Sequence[Row]) -> tuple[dict[str, Any], list[Row]]:
    """The parameters that all runs share, none of a single run, and the runs with the others alone."""
    each = [_parameters(run) for run in runs]
    first = each[0] if len(each) > 1 else {}
    shared = {name: value for name, value in first.items()
              if all(name in other and other[name] == value for other in each)}
    return shared, [{**run, "parameters": {name: value for name, value in own.items() if name not in shared}}
                    for run, own in zip(runs, each, strict=True)]


def _made(runs: Sequence[Row], parameters: Mapping[str, Any]) -> Lines:
    """Commit, device, seconds and parameters of runs, or of the chapter that computed a check itself."""
    seconds = [run["seconds"] for run in runs if run.get("seconds") is not None]
    words = ", ".join(f"{name} = {_word(value)}" for name, value in parameters.items())
    lines = [("commit", _each("commit", runs)), ("device", _each("device", runs)),
             ("seconds", format_value(float(sum(seconds))) if seconds else ""), ("parameters", words)]
    return [line for line in lines if line[1]]


def _each(field: str, runs: Sequence[Row]) -> str:
    return ", ".join(dict.fromkeys(str(run[field]) for run in runs if run.get(field)))


def _together(runs: Sequence[Row]) -> dict[str, Any]:
    """The parameters of several runs: a value, or all values where they differ."""
    found: dict[str, list[Any]] = {}
    for run in runs:
        for name, value in _parameters(run).items():
            found.setdefault(name, []).append(value)
    return {name: _alternatives(values) for name, values in found.items()}


def _alternatives(values: Sequence[Any]) -> Any:
    different = list({json.dumps(value): value for value in values}.values())
    if len(different) == 1:
        return different[0]
    return " or ".join(map(_word, different[:FEW])) + (" or other" if len(different) > FEW else "")


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def single_sources(check: Row, means: Mapping[str, Mapping[str, float]]) -> dict[str, tuple[str, str]]:
    """Result and metric of those numbers of a check that are the mean of one metric in one of the results it read.

    A number is that mean if they agree to nine digits. Whole numbers are left out: many means are 0 or 100 percent.

    :param means: result -> metric -> mean over its seeds
    :return: name of the value -> result, metric
    """
    found = {}
    for value in values_of(check):
        alike = [(file, metric) for file, metrics in means.items() for metric, mean in metrics.items()
                 if isinstance(value["ours"], float) and math.isclose(value["ours"], mean, rel_tol=1e-9)]
        if len({file for file, _ in alike}) == 1 and not value["ours"].is_integer():
            found[value["name"]] = alike[0][0], " or ".join(metric for _, metric in alike)
    return found


# Links -------------------------------------------------------------------------------------------------------------


def name_of(file: str) -> str:
    """A recorded result without its folder and ending: ``one_layer/full_rope``."""
    return str(PurePosixPath(file).relative_to("results").with_suffix("")) if file.startswith("results/") else file


def result_page(file: str) -> str:
    """The page that shows a recorded result, seen from a chapter."""
    return f"../{PurePosixPath(file).with_suffix('.html')}"


def claim_page(claim: str) -> str:
    """The page of a claim, seen from a chapter."""
    return f"../{CLAIM_PAGES}/{claim}.html"


def check_place(check: Row) -> str:
    """The place of a check on the page of its claim, seen from a chapter."""
    return f"{claim_page(check['claim'])}#{anchor(check)}"


def anchor(check: Row) -> str:
    """The name of a check's place on its claim's page, and in the ledger; of several of one name the first."""
    return f"check-{check['claim']}-{check['check']}"


def title(lines: Lines, marks: str) -> Markup:
    """Lines as the value of a ``title`` attribute.

    :param marks: written as numbers, for what reads the page's source: `MARKS` inside Markdown
    """
    text = html.escape("\n".join(f"{name}: {told}" for name, told in lines))
    for mark in f"\n{marks}":
        text = text.replace(mark, f"&#{ord(mark)};")
    return Markup(text)


def rounded(check: Row, name: str, digits: str | None = None, interval: bool = False) -> str:
    """A value of a check as a text shows it: with its unit, and its interval in parentheses where asked for.

    :param digits: how many behind the point, ``"0"`` to ``"9"``; four in all, where not said
    :raises KeyError: for an interval that the value does not have
    """
    value = next(value for value in values_of(check) if value["name"] == name)
    if interval and value["interval"] is None:
        raise KeyError(f"{name!r} has no interval")
    shown = format_value if digits is None else lambda number: f"{round(number, int(digits)) + 0.0:.{digits}f}"
    low_high = f" ({' to '.join(map(shown, value['interval']))})" if interval else ""
    return f"{with_unit(shown(value['ours']), unit_of(check, name))}{low_high}"


def page_link(check: Row, value: Mapping[str, str], shown: str = "") -> Markup:
    """A number in a text: a link to its check on the claim's page, with all that is said of it as title.

    :param value: an entry of `shown_values`
    :param shown: the number in words, see `rounded`; in full, where not said
    """
    lines = [*number_lines(check, value), *origin_lines(check, _file(check, value["name"]))]
    return Markup('<a class="number" href="{}" title="{}">{}</a>').format(
        check_place(check), title(lines, MARKS), shown or value["ours"])


def box_link(check: Row, value: Mapping[str, str], item: int) -> Markup:
    """A number in a box: a link to its check on the claim's page, and where in the page the rest is said.

    :param value: an entry of `shown_values`
    :param item: place of the check in its box; a number outside the item says about itself what a row of a table would
    """
    run = next((run["place"] for run in check.get("runs", ()) if run["file"] == _file(check, value["name"])), None)
    told = "" if item < 0 else Markup(' data-item="{}" title="{}"').format(item, title(number_lines(check, value), ""))
    source = "" if run is None else Markup(' data-run="{}"').format(run)
    own = value["seeds"] or NO_MEAN
    seeds = "" if own == _seeds_together(check) else Markup(' data-seeds="{}"').format(own)
    return Markup('<a class="number" href="{}"{}{}{}>{}</a>').format(
        check_place(check), told, source, seeds, value["ours"])


def ledger_link(check: Row, value: Mapping[str, str]) -> Markup:
    """A number on a claim's page: a link to the one result that it was read from, or to the run of its chapter.

    A number that was computed from several results leads to none: the row lists them.
    """
    runs, source = check.get("runs", ()), _file(check, value["name"])
    if len(runs) > 1 and not source:
        return Markup.escape(value["ours"])
    file = source or (runs[0]["file"] if runs else f"results/chapters/{check['chapter']}.json")
    return Markup('<a class="number" href="{}">{}</a>').format(result_page(file), value["ours"])


def find(rows: Iterable[Row], claim: str, check: str, name: str = "") -> tuple[Row, dict[str, str]]:
    """A check of the ledger and one of its values, as `shown_values` has it.

    :param name: of the value; may be left out where the check has only one. Of several checks of one name it says which
    :raises KeyError: if there is no such claim, check or value, and then says which there are, or if several are meant
    """
    row = _named({row["id"]: row for row in rows}, claim, "claim")
    done: dict[str, list[Row]] = {}
    for each in row["checks"]:
        if "skipped" not in each:
            done.setdefault(each["check"], []).append({**each, "registered": row["registered"]})
    told = [(each, shown_values(each)) for each in _named(done, check, f"executed check of {claim}")]
    found = [(each, value) for each, values in told for value in values
             if value["name"] == name or (not name and len(values) == 1)]
    if len(found) > 1:
        raise KeyError(f"{len(found)} checks {check!r} of {claim} have a value {name!r}: which is meant is not clear")
    if not found:
        _named({value["name"]: value for _, values in told for value in values}, name, f"value of {claim}/{check}")
    return found[0]


def _named(found: Mapping[str, Any], name: str, kind: str) -> Any:
    if name not in found:
        raise KeyError(f"no {kind} {name!r}; there are {', '.join(sorted(found)) or 'none'}")
    return found[name]
