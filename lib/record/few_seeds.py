"""What few seeds do to an interval: how often it holds the mean it is for, and which outcomes rest on its kind.

The book's intervals are percentile bootstraps of seeds, as its predictions were registered. A bootstrap can draw only
what is there: of three seeds it never leaves the range from the lowest to the highest. Student's t interval does not
have this fault, and supposes normal values instead. Both are told of every number, and every check that decides
by such an interval is decided a second time by the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from lib.record import report, traced_numbers


def coverage(seeds: int, trials: int = 1_000, seed: int = 0) -> dict[str, float]:
    """Percent of 95 % intervals that hold the true mean, over samples of so many normal values, by both kinds.

    :param trials: samples
    :raises ValueError: for fewer than two seeds
    """
    samples = np.random.default_rng(seed).standard_normal((trials, seeds))
    found = report.bootstrap_intervals(list(samples), seed)
    holds = lambda ends: 100 * float(np.mean([low <= 0 <= high for low, high in ends]))
    return {"bootstrap": holds(found), "Student's t": holds([each.t for each in found])}


def coverage_table(counts: Sequence[int] = (2, 3, 5, 10, 20)) -> str:
    """`coverage` by the number of seeds, as Markdown; percent."""
    found = {count: coverage(count) for count in counts}
    return report.markdown(["seeds", *map(str, counts)], [
        [kind, *(f"{found[count][kind]:.0f}" for count in counts)] for kind in ("bootstrap", "Student's t")])


def decided_by_intervals(rows: Iterable[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The checks of a ledger that decide by intervals over seeds, with their rows."""
    return [(row, check) for row in rows for check in row["checks"] if check.get("t_holds") is not None]


def otherwise_by_student(rows: Iterable[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Those of `decided_by_intervals` that come out otherwise with Student's t intervals."""
    return [(row, check) for row, check in decided_by_intervals(rows) if check["t_holds"] != check["holds"]]


def otherwise_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """`otherwise_by_student` as Markdown: claim, what the check says, by the bootstrap, by Student's t."""
    word = {True: "holds", False: "fails"}
    found = otherwise_by_student(rows)
    if not found:
        return "None comes out otherwise."
    return report.markdown(["claim", "check", "bootstrap", "Student's t"], [
        [f'<a href="{traced_numbers.claim_page(row["id"])}">{row["title"]}</a>', check["says"], word[check["holds"]],
         word[check["t_holds"]]]
        for row, check in found])
