"""Checks and claims as a reader sees them: a line in a terminal, a box under a statement, the ledger's table and graph.

Everything here turns records of checks and rows of `ledger.compute` into text and HTML; no status is decided here. A
status shows by its symbol and by the dash of its outline as well as by its colour.
"""

from __future__ import annotations

import base64
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

from lib.record.claims_file import SOURCES, known_claims
from lib.record.ledger import STATUSES, Row

INLINE = 2  # so many values stand in a line, more in a table


# Words and numbers -------------------------------------------------------------------------------------------------


def format_value(value: Any) -> str:
    """A measured value in words: four digits, and each named value after its name."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {format_value(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return " to ".join(map(format_value, value)) if len(value) == 2 else ", ".join(map(format_value, value))
    return f"{value:.{4 if abs(value) < 1e4 else 6}g}" if isinstance(value, float) else str(value)


def code(text: str) -> Markup:
    """Plain words as HTML: what stands between backticks is code, between dollars mathematics."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text, quote=False))
    inline = re.sub(r"\$([^$]+)\$", r'<span class="tex2jax_process mathjax_process">\\(\1\\)</span>', marked)
    return Markup(inline)


def shown_values(check: Row) -> list[dict[str, str]]:
    """The values of a check, one entry a name: name, ours, spread, interval, paper, each in words and with its unit."""
    ours, unit = check.get("ours"), check.get("unit", "")
    names: list[Any] = list(ours) if isinstance(ours, Mapping) else [None]
    if ours is None and check.get("paper") is None:
        return []
    shown = []
    for place, name in enumerate(names):
        each = {field: _part(check.get(field), name, place, isinstance(ours, Mapping))
                for field in ("ours", "spread", "interval", "paper")}
        shown.append({"name": "" if name is None else str(name), **{
            field: _with_unit(value, unit) for field, value in each.items()}})
    return shown


def _part(value: Any, name: Any, place: int, named: bool) -> Any:
    """The part of a value that belongs to one name: by name, or by place where it has none."""
    if not named or value is None or not isinstance(value, (Mapping, list, tuple)):
        return value
    if isinstance(value, Mapping):
        return value.get(name)
    return value[place] if place < len(value) else None


def _with_unit(value: Any, unit: str) -> str:
    text = "" if value is None else format_value(value)
    return f"{text} {unit}" if text and unit else text


def phrase(value: Mapping[str, str]) -> str:
    """One entry of `shown_values` as a phrase."""
    spread = f" ± {value['spread']}" if value["spread"] else ""
    interval = f" (interval {value['interval']})" if value["interval"] else ""
    paper = f" (paper: {value['paper']})" if value["paper"] else ""
    name = f"{value['name']}: " if value["name"] else ""
    return f"{name}{value['ours']}{spread}{interval}{paper}"


def seeds(check: Row) -> str:
    """How many seeds a check rests on, by cell where cells differ."""
    found = check.get("seeds") or ()
    cells = [len(each) for each in found if isinstance(each, (list, tuple))] or ([len(found)] if found else [])
    return f"{', '.join(map(str, cells))} seeds" if cells else ""


def plain(check: Row) -> str:
    """An executed check in a terminal."""
    facts = [*map(phrase, shown_values(check)), seeds(check),
             f"tolerance {format_value(check['tolerance'])}" if check.get("tolerance") is not None else ""]
    facts = [fact for fact in facts if fact]
    lines = [f"{'holds' if check['holds'] else 'FAILS'} [{check['claim']}] {check['says']}"
             + (f": {'; '.join(facts)}" if facts else "")]
    lines += [f"  scope: {check['scope']}"] if check["scope"] else []
    return "\n".join([*lines, f"  control, {check['control']}: fails, as it must"])


# Boxes and the ledger ----------------------------------------------------------------------------------------------

_PAGES = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")), autoescape=True,
                            trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
_PAGES.filters |= {"code": code, "format": format_value, "in_words": phrase, "seeds": seeds, "values": shown_values}
BROKEN = {"hypothesis": "one hypothesis broken", "mutation": "the formula changed"}
_PAGES.globals |= {"INLINE": INLINE, "BROKEN": BROKEN}


def _template(name: str) -> jinja2.Template:
    return _PAGES.get_template(f"{name}.html")


def box(checks: Sequence[Row], runs: bool = True) -> str:
    """The checks of one claim as one box that opens.

    :param runs: whether it names the results that were read; what a notebook holds must not change from run to run
    """
    checks = checks if runs else [{**check, "runs": ()} for check in checks]
    claim = checks[0]["claim"]
    ran = [check for check in checks if "skipped" not in check]
    word = "skip" if not ran else "holds" if all(check["holds"] for check in ran) else "fails"
    title = known_claims().get(claim, {}).get("title", claim)
    return _template("box").render(checks=checks, claim=claim, title=title, word=word,
                                   mark={"skip": "○", "holds": "✓", "fails": "✗"}[word]).strip()


def _class(status: str) -> str:
    return "status-" + status.replace(" ", "-")


def badge(status: str) -> Markup:
    """A status as its symbol and its word."""
    symbol, meaning = STATUSES[status]
    return Markup('<span class="status {}" title="{}">{} {}</span>').format(_class(status), meaning, symbol, status)


_PAGES.filters["badge"] = badge


def status_counts(rows: Sequence[Row]) -> str:
    """How many claims of each source have each status, as an HTML table that is also the legend."""
    sources = [source for source in SOURCES if any(row["source"] == source for row in rows)]
    number = lambda status, source: sum(row["status"] == status and row["source"] == source for row in rows)
    lines = [(status, meaning, [number(status, source) for source in sources])
             for status, (_, meaning) in STATUSES.items()]
    return _template("counts").render(titles=[SOURCES[source] for source in sources], lines=lines).strip()


def ledger_table(rows: Sequence[Row]) -> str:
    """Every claim, a line each that opens: statement, checks, controls and provenance; a script filters them."""
    return _template("ledger").render(
        rows=rows, statuses=[status for status in STATUSES if any(row["status"] == status for row in rows)],
        sources={source: title for source, title in SOURCES.items() if any(row["source"] == source for row in rows)},
        chapters=list(dict.fromkeys(row["chapter"] for row in rows)), titles={row["id"]: row["title"] for row in rows},
        holds=("proved", "certified", "checked", "reproduced", "pattern"),
        csv=base64.b64encode(as_csv(rows).encode()).decode()).strip()


def as_csv(rows: Iterable[Row]) -> str:
    """The ledger as CSV, a line a check (or a claim without one)."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["claim", "title", "source", "place", "status", "registered", "chapter", "check", "holds",
                     "this book", "paper", "seeds", "scope", "control", "commit", "device", "results read"])
    for row in rows:
        for check in row["checks"] or [{}]:
            writer.writerow([
                row["id"], row["title"], row["source"], row["place"], row["status"], row["registered"], row["chapter"],
                check.get("says", check.get("skipped", "")), check.get("holds", ""),
                *("" if check.get(field) is None else format_value(check[field]) for field in ("ours", "paper")),
                seeds(check), check.get("scope", ""), check.get("control", ""), check.get("commit", ""),
                check.get("device", ""), " ".join(run["file"] for run in check.get("runs", ()))])
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
