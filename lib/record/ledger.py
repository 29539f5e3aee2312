"""The ledger as a reader sees it: the count, the table of claims, and the graph of what depends on what.

Everything here turns rows of `claims.ledger` into HTML; no status is decided here. A status shows by its symbol
and by the dash of its outline as well as by its colour.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

import networkx as nx

from lib.record.claims import STATUSES, marked, short
from lib.record.provenance import ROOT

SOURCES = {
    "paper": "The paper",
    "v1": "Its first version",
    "zhu2024": "Zhu et al. 2024, the autoregressive counterpart",
    "referee": "What a referee asked",
    "project": "Beyond the paper: this book's own statements",
}
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 150, 30, 70, 12
Row = Mapping[str, Any]


def _class(status: str) -> str:
    return "status-" + status.replace(" ", "-")


def badge(status: str) -> str:
    """A status as its symbol and its word."""
    symbol, meaning = STATUSES[status]
    return f'<span class="status {_class(status)}" title="{html.escape(meaning)}">{symbol} {status}</span>'


def counts(rows: Sequence[Row]) -> str:
    """How many claims of each source have each status, as an HTML table that is also the legend."""
    sources = [source for source in SOURCES if any(row["source"] == source for row in rows)]
    head = "".join(f"<th>{html.escape(SOURCES[source])}</th>" for source in sources)
    body = ""
    for status, (_, meaning) in STATUSES.items():
        numbers = [sum(row["status"] == status and row["source"] == source for row in rows) for source in sources]
        cells = "".join(f"<td>{number or '·'}</td>" for number in numbers)
        label = f"{badge(status)}<br><small>{html.escape(meaning)}</small>"
        body += f"<tr><td>{label}</td>{cells}<td>{sum(numbers)}</td></tr>"
    return _scrolled(f"<table class='ledger-counts'><tr><th>Status</th>{head}<th>All</th></tr>{body}</table>")


def table(rows: Sequence[Row]) -> str:
    """Every claim: status, statement, checks with their controls and provenance; grouped by source."""
    parts = []
    for source, title in SOURCES.items():
        mine = [row for row in rows if row["source"] == source]
        if mine:
            body = "".join(map(_row, mine))
            parts.append(f"<h3>{html.escape(title)}</h3><table class='ledger'>{body}</table>")
    return _scrolled("".join(parts))


def _row(row: Row) -> str:
    established = "" if row["established"] or row["status"] in {"open", "not run here", "deviates"} else (
        "<br><small>rests on claims not yet settled</small>")
    hypotheses = "".join(f"<li>{_mathematics(text)}</li>" for text in row["hypotheses"])
    depends = ", ".join(f'<a href="#claim-{name}">{name}</a>' for name in row["depends"])
    reason = f"<p><b>Why:</b> {_mathematics(row['reason'])}</p>" if row["reason"] else ""
    checks = "".join(map(_check, row["checks"]))
    return (
        f'<tr id="claim-{row["id"]}"><td>{badge(row["status"])}{established}</td>'
        f'<td><b>{html.escape(row["title"])}</b> <small>{html.escape(row["place"])} · '
        f'{_chapter(row["chapter"])} · <code>{row["id"]}</code></small>'
        f'<p>{_mathematics(row["statement"])}</p>{reason}'
        f'<details><summary>{len(row["checks"])} checks, hypotheses, provenance</summary>'
        + (f"<p>Hypotheses:</p><ul>{hypotheses}</ul>" if hypotheses else "")
        + (f"<p>Depends on {depends}.</p>" if depends else "")
        + f"<ul>{checks}</ul></details></td></tr>"
    )


def _chapter(name: str) -> str:
    """A link to the chapter, where it is written."""
    written = (ROOT / "book" / f"{name}.md").exists()
    return f'<a href="{name}.html">{name}</a>' if written else f"owed: {name}"


def _check(check: Mapping[str, Any]) -> str:
    where = (f"{check['chapter']}, cell {check['cell']}, {check['seconds']} s, commit {check['commit']}, "
             f"{check['device']}, profile {check['profile']}")
    if "skipped" in check:
        return f"<li>○ {marked(check['skipped'])} <small>({html.escape(where)})</small></li>"
    numbers = []
    for name in ("paper", "ours", "spread", "tolerance", "control_ours"):
        if check.get(name) is not None:
            numbers.append(f"{name.replace('_ours', '')} {short(check[name])}")
    numbers += [f"seeds {list(check['seeds'])}"] if check["seeds"] else []
    return (
        f"<li>{'✓' if check['holds'] else '✗'} {marked(check['says'])} <i>({check['kind']})</i>"
        f"{'; ' + html.escape('; '.join(numbers)) if numbers else ''}"
        f"{'; scope: ' + marked(check['scope']) if check['scope'] else ''}"
        f"<br>control, {marked(check['control'])}: fails<br><small>{html.escape(where)}</small></li>"
    )


def _mathematics(text: str) -> str:
    """Text with ``$...$`` handed to the page's typesetter."""
    inline = re.sub(r"\$([^$]+)\$", r"\\(\1\\)", text)
    return f'<span class="tex2jax_process mathjax_process">{html.escape(inline, quote=False)}</span>'


def _scrolled(content: str) -> str:
    return f'<div class="ledger-scroll">{content}</div>'


def graph(rows: Sequence[Row]) -> str:
    """What rests on what, as an SVG: each statement to the right of those it depends on, linked to its row."""
    links = nx.DiGraph((other, row["id"]) for row in rows for other in row["depends"])
    by_name = {row["id"]: row for row in rows}
    layers = [sorted(layer) for layer in nx.topological_generations(links)]
    _uncross(layers, links)
    place = {name: (column * (_WIDTH + _GAP_X), line * (_HEIGHT + _GAP_Y))
             for column, layer in enumerate(layers) for line, name in enumerate(layer)}
    width = len(layers) * (_WIDTH + _GAP_X) - _GAP_X + 4
    height = max(map(len, layers), default=1) * (_HEIGHT + _GAP_Y) + 4
    edges = "".join(_edge(place[start], place[end]) for start, end in links.edges)
    nodes = "".join(_node(by_name[name], *place[name]) for name in links)
    return _scrolled(
        f'<svg class="ledger-graph" width="{width}" height="{height}" viewBox="-2 -2 {width} {height}" role="img" '
        f'aria-label="Graph of {len(links)} claims; an edge leads from a claim to one that depends on it">'
        f"{edges}{nodes}</svg>")


def _uncross(layers: list[list[str]], links: nx.DiGraph) -> None:
    """Order each layer by the mean place of its neighbours (barycentre heuristic), a few sweeps both ways."""
    for _ in range(4):
        for neighbours, order in ((links.predecessors, layers), (links.successors, layers[::-1])):
            line = {name: place for layer in layers for place, name in enumerate(layer)}
            for layer in order:
                mean = {name: _mean([line[other] for other in neighbours(name)], line[name]) for name in layer}
                layer.sort(key=mean.__getitem__)
                line.update({name: place for place, name in enumerate(layer)})


def _mean(values: Sequence[int], otherwise: int) -> float:
    return sum(values) / len(values) if values else float(otherwise)


def _edge(start: tuple[int, int], end: tuple[int, int]) -> str:
    x0, y0, x1, y1 = start[0] + _WIDTH, start[1] + _HEIGHT / 2, end[0], end[1] + _HEIGHT / 2
    middle = (x0 + x1) / 2
    return f'<path class="edge" d="M{x0},{y0} C{middle},{y0} {middle},{y1} {x1},{y1}"/>'


def _node(row: Row, x: int, y: int) -> str:
    symbol, _ = STATUSES[row["status"]]
    return (
        f'<a href="#claim-{row["id"]}"><g class="node {_class(row["status"])}">'
        f"<title>{html.escape(row['title'])} ({row['place']}): {row['status']}</title>"
        f'<rect x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="5"/>'
        f'<text x="{x + 8}" y="{y + 20}">{symbol} {row["id"]}</text></g></a>')
