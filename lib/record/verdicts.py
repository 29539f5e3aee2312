"""Checks and claims as a reader sees them: a line in a terminal, a box under a statement, the ledger's table and graph.

Everything here turns records of checks and rows of `ledger.compute` into text and HTML; no status is decided here. A
status shows by its symbol and by the dash of its outline as well as by its colour. `lib.record.traced_numbers` says
where each number comes from.
"""

from __future__ import annotations

import bisect
import csv
import html
import io
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import networkx as nx
from markupsafe import Markup

from lib.record import traced_numbers
from lib.record.claims_file import SOURCES, known_claims
from lib.record.ledger import STATUSES, Row
from lib.record.traced_numbers import format_value, phrase, seed_count, shown_values, values_of

INLINE = 2  # so many numbers stand in a line, more in a table
PAPER = ("paper", "v1")  # sources whose printed numbers are compared


# In words ----------------------------------------------------------------------------------------------------------


def code(text: str) -> Markup:
    """Plain words as HTML: what stands between backticks is code, between dollars mathematics."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
    inline = re.sub(r"\$([^$]+)\$", r'<span class="tex2jax_process mathjax_process">\\(\1\\)</span>', marked)
    return Markup(inline)


def plain(check: Row) -> str:
    """An executed check in a terminal."""
    facts = [*map(phrase, shown_values(check)), seed_count(check),
             f"tolerance {format_value(check['tolerance'])}" if check.get("tolerance") is not None else ""]
    facts = [fact for fact in facts if fact]
    lines = [f"{'holds' if check['holds'] else 'FAILS'} [{check['claim']}] {check['says']}"
             + (f": {'; '.join(facts)}" if facts else "")]
    lines += [f"  scope: {check['scope']}"] if check["scope"] else []
    return "\n".join([*lines, f"  control, {check['control']}: {control_outcome(check)}"])


def control_outcome(check: Row) -> str:
    """How the negative control came out, in words."""
    return "holds: the outcome is the opposite" if check.get("control_holds") else "fails, as it must"


# Boxes and the ledger ----------------------------------------------------------------------------------------------

_PAGES = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")), autoescape=True,
                            trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
_PAGES.filters |= {"code": code, "format": format_value, "seeds": seed_count, "values": shown_values,
                   "control_outcome": control_outcome,
                   "beside": traced_numbers.beside, "origin": traced_numbers.check_lines,
                   "run": traced_numbers.run_lines, "name": traced_numbers.name_of,
                   "page": traced_numbers.result_page, "anchor": traced_numbers.anchor,
                   "claim_page": traced_numbers.claim_page}
BROKEN = {"hypothesis": "one hypothesis broken", "mutation": "the formula changed"}
REGISTRATION = {"before": "Registered before its runs.",
                "before new runs": "Registered before its new runs; the runs compared with were already there.",
                "afterwards": "Found afterwards: its runs were made before this check was written down."}
_HOLDING = ("proved", "certified", "checked", "reproduced", "pattern")
_PAGES.globals |= {"BROKEN": BROKEN, "INLINE": INLINE, "REGISTRATION": REGISTRATION, "FEW": traced_numbers.FEW,
                   "page_link": traced_numbers.page_link, "box_link": traced_numbers.box_link,
                   "ledger_link": traced_numbers.ledger_link}


def _template(name: str) -> jinja2.Template:
    return _PAGES.get_template(f"{name}.html")


def box(checks: Sequence[Row], runs: bool = True) -> str:
    """The checks of one claim: a line with the verdict and a few numbers, and behind it how they were checked.

    :param checks: if their numbers are to say where they come from, with the fields of `traced_numbers.check_lines`,
        and with the ``place`` of each result that they read in the list of `runs_read`
    :param runs: whether it says so; what a notebook holds must not change from run to run
    """
    claim = checks[0]["claim"]
    ran = [check for check in checks if "skipped" not in check]
    word = "skip" if not ran else "holds" if all(check["holds"] for check in ran) else "fails"
    title = known_claims().get(claim, {}).get("title", claim)
    count = sum(len(values_of(check)) for check in ran)
    shown = _template("box").render(
        checks=checks, claim=claim, title=title, word=word,
        waiting=len(checks) - len(ran) if ran else 0, traced=runs and "commit" in checks[0],
        mark={"skip": "○", "holds": "✓", "fails": "✗"}[word], count=count, inline=count <= INLINE).strip()
    return re.sub(r"\n\s*", "\n", shown)


def boxes(checks: Mapping[str, Sequence[Row]]) -> str:
    """The checks of several claims as one box, a line a claim; those of a single claim are a line without a frame.

    :param checks: by claim, see `box`
    """
    lines = "".join(f'<div id="claim-box-{claim}">{box(found)}</div>' for claim, found in checks.items())
    return f'<div class="checks{" together" if len(checks) > 1 else ""}">{lines}</div>'


def box_places(last: Mapping[str, int], headings: Sequence[int]) -> dict[int, list[str]]:
    """Where the boxes of a page stand: one in each section with checks, in the cell where the last of them ran.

    :param last: claim -> number of the cell in which its last check ran
    :param headings: numbers of the cells that begin a section, rising
    :return: number of a cell -> claims, in the order of their last checks
    """
    sections: dict[int, list[str]] = {}
    for claim, cell in sorted(last.items(), key=lambda item: item[1]):
        sections.setdefault(bisect.bisect_right(headings, cell), []).append(claim)
    return {last[claims[-1]]: claims for claims in sections.values()}


def runs_read(runs: Sequence[Row], made: Row) -> str:
    """The results that the checks of a page read, folded, where their numbers find them.

    :param runs: one for each result, in the order of their ``place``
    :param made: the record of the chapter's execution, for what was computed there
    """
    shared, own = traced_numbers.shared_parameters(runs)
    return _template("read").render(runs=own, shared={"parameters": shared}, made={**made, "seconds": None}).strip()


def _class(status: str) -> str:
    return "status-" + status.replace(" ", "-")


def badge(status: str) -> Markup:
    """A status as its symbol and its word."""
    symbol, meaning = STATUSES[status]
    return Markup('<span class="status {}" title="{}">{} {}</span>').format(_class(status), meaning, symbol, status)


def _mark(status: str) -> Markup:
    """A status as its symbol and its word, without the meaning, which a legend on the same page gives."""
    return Markup('<span class="status {}">{} {}</span>').format(_class(status), STATUSES[status][0], status)


_PAGES.filters |= {"badge": badge, "mark": _mark}


def status_counts(rows: Sequence[Row]) -> str:
    """How many claims of each source have each status, as an HTML table that is also the legend."""
    sources = [source for source in SOURCES if any(row["source"] == source for row in rows)]
    number = lambda status, source: sum(row["status"] == status and row["source"] == source for row in rows)
    lines = [(status, meaning, [number(status, source) for source in sources])
             for status, (_, meaning) in STATUSES.items()]
    return _template("counts").render(titles=[SOURCES[source] for source in sources], lines=lines).strip()


def ledger_table(rows: Sequence[Row]) -> str:
    """Every claim, a line each that opens: its statement, and what its checks say; a script filters them.

    Numbers, controls and results stand on the claim's own page, see `claim_pages`.
    """
    return _template("ledger").render(
        rows=rows, statuses=[status for status in STATUSES if any(row["status"] == status for row in rows)],
        sources={source: title for source, title in SOURCES.items() if any(row["source"] == source for row in rows)},
        chapters=list(dict.fromkeys(row["chapter"] for row in rows))).strip()


def claim_pages(rows: Sequence[Row]) -> dict[str, str]:
    """The page of each claim by its id: statement, hypotheses, checks, numbers, controls, results and provenance.

    A page stands in the folder `traced_numbers.CLAIM_PAGES` beside that of the chapters.
    """
    titles, template = {row["id"]: row["title"] for row in rows}, _template("claim")
    return {row["id"]: template.render(row=row, titles=titles, sources=SOURCES, holds=_HOLDING).strip()
            for row in rows}


_OF_CLAIM = ("title", "source", "place", "status", "registered", "chapter")
_OF_CHECK = ("holds", "unit", "scope", "control", "cell", "commit", "device", "seconds")
_OF_NUMBER = ("number", "this book", "paper", "interval low", "interval high", "t interval low", "t interval high",
              "spread")
_COLUMNS = ("claim", *_OF_CLAIM, "check", "says", *_OF_NUMBER, *_OF_CHECK, "seeds", "results read")


def as_csv(rows: Iterable[Row]) -> str:
    """The ledger as CSV, a line a number (a check without one, or a claim without a check, has a line of its own)."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _COLUMNS, restval="")
    writer.writeheader()
    for row in rows:
        for check in row["checks"] or [{}]:
            for value in values_of(check) or [{}]:
                writer.writerow(_cells_of(row, check, value))
    return out.getvalue()


def _cells_of(row: Row, check: Row, value: Mapping[str, Any]) -> dict[str, Any]:
    """One line of the CSV; numbers with all their digits."""
    (low, high), (t_low, t_high) = (value.get(field) or ("", "") for field in ("interval", "t_interval"))
    told = {"check": check.get("check", ""), "says": check.get("says", check.get("skipped", "")),
            "number": value.get("name", ""), "this book": value.get("ours"), "paper": value.get("paper"),
            "interval low": low, "interval high": high, "t interval low": t_low, "t interval high": t_high,
            "spread": value.get("spread"),
            "seeds": value.get("seeds", ""),
            "results read": " ".join(run["file"] for run in check.get("runs", ()))}
    return {"claim": row["id"], **{name: row[name] for name in _OF_CLAIM},
            **{name: check.get(name, "") for name in _OF_CHECK}, **told}


# The paper's numbers beside the book's -----------------------------------------------------------------------------


def paper_numbers(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Every number that the paper prints of a claim, beside the book's: one entry each, in the order of the ledger.

    They come from the checks that were executed; where none was, and where a check compares with no printed value, from
    the claim's ``printed`` in claims.yml.

    :return: row and check (None without one), and what `traced_numbers.values_of` has
    """
    found = []
    for row in rows:
        if row["source"] in PAPER:
            checked = [{"row": row, "check": {**check, "registered": row["registered"]}, **value}
                       for check in row["checks"] for value in values_of(check)]
            found += [each for each in checked if each["paper"] is not None]
            found += _printed(row, {each["name"]: each for each in checked})
    return found


def _printed(row: Row, checked: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The numbers that claims.yml says the paper prints of a claim, beside those of its checks that have their name."""
    empty = {"row": row, "check": None, "ours": None, "interval": None, "t_interval": None, "spread": None,
             "seeds": ""}
    printed = known_claims().get(row["id"], {}).get("printed", {})
    return [{**empty, **checked.get(name, {}), "name": name, "paper": value} for name, value in printed.items()
            if checked.get(name, empty).get("paper") is None]


def paper_table(rows: Sequence[Row]) -> str:
    """Every number that the paper prints beside the book's, as an HTML table; a script filters it."""
    lines = [{**each, "shown": _shown(each)} for each in paper_numbers(rows)]
    statuses = [status for status in STATUSES if any(each["row"]["status"] == status for each in lines)]
    return _template("paper").render(lines=lines, statuses=statuses,
                                     places=list(dict.fromkeys(each["row"]["place"] for each in lines))).strip()


def _shown(each: Mapping[str, Any]) -> dict[str, str]:
    """The values of an entry of `paper_numbers` in words."""
    unit = traced_numbers.unit_of(each["check"] or {}, each["name"])
    return {"name": each["name"], "seeds": each["seeds"], **{field: traced_numbers.with_unit(each[field], unit)
                                     for field in ("ours", "interval", "t_interval", "spread", "paper")}}


def paper_csv(rows: Iterable[Row]) -> str:
    """The numbers of `paper_numbers` as CSV, with all their digits."""
    out = io.StringIO()
    names = ("place", "claim", "title", "number", "paper", "this book", "interval low", "interval high", "unit",
             "seeds", "check holds", "status")
    writer = csv.DictWriter(out, names, restval="")
    writer.writeheader()
    for each in paper_numbers(rows):
        row, check, (low, high) = each["row"], each["check"] or {}, each["interval"] or ("", "")
        writer.writerow({"place": row["place"], "claim": row["id"], "title": row["title"], "number": each["name"],
                         "paper": each["paper"], "this book": each["ours"], "interval low": low, "interval high": high,
                         "unit": check.get("unit", ""), "seeds": each["seeds"],
                         "check holds": check.get("holds", ""), "status": row["status"]})
    return out.getvalue()


# What rests on what ------------------------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _LINE = 168, 40, 46, 10, 30


def claim_graph(rows: Sequence[Row]) -> str:
    """What rests on what, as an SVG that fits the page and zooms: a statement stands right of those it depends on."""
    links = nx.DiGraph((other, row["id"]) for row in rows for other in row["depends"])
    by_name = {row["id"]: row for row in rows}
    layers = [sorted(layer) for layer in nx.topological_generations(links)]
    _uncross(layers, links)
    place = {name: (column * (_WIDTH + _GAP_X), line * (_HEIGHT + _GAP_Y))
             for column, layer in enumerate(layers) for line, name in enumerate(layer)}
    nodes = [{"row": by_name[name], "x": place[name][0], "y": place[name][1], "kind": _class(by_name[name]["status"]),
              "lines": _label(by_name[name])} for name in links]
    return _template("graph").render(
        width=len(layers) * (_WIDTH + _GAP_X) - _GAP_X + 4,
        height=max(map(len, layers), default=1) * (_HEIGHT + _GAP_Y) + 4, w=_WIDTH, h=_HEIGHT, nodes=nodes,
        edges=[_edge(place[start], place[end]) for start, end in links.edges]).strip()


def _label(row: Row) -> list[str]:
    """A title on two lines, cut where it is longer."""
    lines = textwrap.wrap(f"{STATUSES[row['status']][0]} {row['title']}", _LINE)
    return lines if len(lines) <= 2 else [lines[0], textwrap.shorten(" ".join(lines[1:]), _LINE, placeholder=" …")]


def _uncross(layers: list[list[str]], links: nx.DiGraph) -> None:
    """Order each layer by the mean place of its neighbours (barycentre heuristic), a few sweeps both ways."""
    for _ in range(4):
        for neighbours, order in ((links.predecessors, layers), (links.successors, layers[::-1])):
            line = {name: place for layer in layers for place, name in enumerate(layer)}
            for layer in order:
                mean = {name: _mean([line[other] for other in neighbours(name)], line[name]) for name in layer}
                layer.sort(key=mean.__getitem__)
                line.update({name: place for place, name in enumerate(layer)})


def _mean(numbers: Sequence[int], otherwise: int) -> float:
    return sum(numbers) / len(numbers) if numbers else float(otherwise)


def _edge(start: tuple[int, int], end: tuple[int, int]) -> str:
    x0, y0, x1, y1 = start[0] + _WIDTH, start[1] + _HEIGHT / 2, end[0], end[1] + _HEIGHT / 2
    middle = (x0 + x1) / 2
    return f"M{x0},{y0} C{middle},{y0} {middle},{y1} {x1},{y1}"
