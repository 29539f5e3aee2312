"""The ledger: what is claimed, what was checked, and the status that follows.

A chapter *checks* a claim by calling `verify` (a statement) or `compare` (a number). Both run the same test
twice: under the claim's hypotheses, and with one hypothesis broken. The second run is the negative control and
must come out false; a control that passes raises `ControlPassed`, because then the check shows nothing.

The outcome travels in the executed notebook itself, as metadata of the displayed verdict. `ledger` reads the
executed notebooks and `book/claims.yml` and computes the status of every claim. No status is ever typed.
"""

from __future__ import annotations

import dataclasses
import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

METADATA_KEY = "claim_check"
#: kind of evidence -> the status a claim gains from it, strongest first
STATUS_OF = {"symbolic": "proved", "certified": "certified", "numeric": "reproduced", "pattern": "pattern"}
#: status -> (symbol, meaning); the symbol carries the status where colour is not seen
STATUSES = {
    "proved": ("∎", "derived symbolically, proof on the page"),
    "certified": ("⊢", "enclosed by ball arithmetic"),
    "reproduced": ("≈", "the number agrees within the stated tolerance"),
    "pattern": ("~", "the qualitative pattern agrees, the numbers need not"),
    "deviates": ("≠", "checked, and it came out otherwise"),
    "not run here": ("○", "needs weights, a GPU or other settings than this build's"),
    "open": ("?", "stated, not settled in this book yet"),
}
_REQUIRED = {"id", "title", "source", "place", "statement", "hypotheses", "depends", "evidence", "chapter"}
_OPTIONAL = {"deviation", "needs", "open"}


class ControlPassed(AssertionError):
    """A negative control came out true: the check cannot tell the claim from its negation."""


class LedgerError(ValueError):
    """claims.yml and the executed checks do not fit together."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One executed check of one claim."""

    claim: str
    kind: str
    says: str
    holds: bool
    control: str
    scope: str = ""
    paper: Any = None
    ours: Any = None
    tolerance: float | None = None
    control_ours: Any = None
    seeds: tuple[int, ...] | tuple[tuple[int, ...], ...] = ()  # by cell where cells have different ones
    spread: Any = None

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        record = {METADATA_KEY: dataclasses.asdict(self)}
        return {"text/plain": str(self), "text/html": self._html()}, record

    def __str__(self) -> str:
        parts = [f"{'holds' if self.holds else 'FAILS'} [{self.claim}] {self.says}{self._numbers()}"]
        parts += [f"  scope: {self.scope}"] if self.scope else []
        parts += [f"  control, {self.control}: fails, as it must"]
        return "\n".join(parts)

    def _numbers(self) -> str:
        if self.paper is None and self.ours is None:
            return ""
        spread = f" ± {short(self.spread)}" if self.spread is not None else ""
        paper = "" if self.paper is None else f"; paper {short(self.paper)}"
        tolerance = "" if self.tolerance is None else f", tolerance {short(self.tolerance)}"
        cells = [len(each) for each in self.seeds if isinstance(each, tuple)] or [len(self.seeds)]
        seeds = f"; {', '.join(map(str, cells))} seeds" if self.seeds else ""
        return f": ours {short(self.ours)}{spread}{paper}{tolerance}{seeds}"

    def _html(self) -> str:
        mark, word = ("✓", "holds") if self.holds else ("✗", "fails")
        scope = f'<br><span class="check-scope">Scope: {marked(self.scope)}</span>' if self.scope else ""
        return (
            f'<div class="check check-{word}"><b>{mark} {word}</b> '
            f'<a href="ledger.html#claim-{self.claim}">{self.claim}</a> '
            f"{marked(self.says)}{html.escape(self._numbers())}{scope}<br>"
            f'<span class="check-control">Control, {marked(self.control)}: fails, as it must.</span></div>'
        )


@dataclasses.dataclass(frozen=True)
class Skip:
    """A claim that this execution did not check, and why."""

    claim: str
    reason: str

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        record = {METADATA_KEY: {"claim": self.claim, "skipped": self.reason}}
        text = f"not run here [{self.claim}] {self.reason}"
        return {
            "text/plain": text,
            "text/html": f'<div class="check check-skip">○ {marked(text)}</div>',
        }, record


def verify(
    claim: str,
    says: str,
    test: Callable[..., Any],
    *,
    given: Mapping[str, Any],
    broken: Mapping[str, Any],
    control: str,
    kind: str = "symbolic",
    scope: str = "",
    paper: Any = None,
    ours: Any = None,
    seeds: Sequence[int] | Sequence[Sequence[int]] = (),
    spread: Any = None,
) -> Check:
    """Check a statement: ``test(**given)`` decides, and ``test(**broken)`` must be false.

    :param claim: id in ``book/claims.yml``
    :param says: what is checked, in one sentence
    :param test: returns a truth value (Python's, numpy's or sympy's)
    :param control: which hypothesis ``broken`` breaks, in words
    :param kind: the evidence: ``symbolic``, ``certified``, ``numeric`` or ``pattern``
    :param scope: what the check covers (general n, n <= 4, ...), where narrower than the claim
    :param seeds: of the runs; one sequence a cell where cells have different ones
    :raises ControlPassed: if the negative control is true
    :raises TypeError: if the test returns anything but a truth value
    """
    _known_kind(kind)
    holds = _truth(test(**given), claim)
    if _truth(test(**broken), claim):
        raise ControlPassed(f"{claim}: the check also passes when its hypothesis is broken ({control})")
    check = Check(
        claim,
        kind,
        says,
        holds,
        control,
        scope,
        _plain(paper),
        _plain(ours),
        None,
        None,
        _by_cell(seeds),
        _plain(spread),
    )
    _display(check)
    return check


def compare(
    claim: str,
    says: str,
    measure: Callable[..., Any],
    *,
    paper: Any,
    tolerance: float,
    given: Mapping[str, Any],
    broken: Mapping[str, Any],
    control: str,
    kind: str = "numeric",
    scope: str = "",
    seeds: Sequence[int] = (),
) -> Check:
    """Check numbers: ``measure(**given)`` must lie within ``tolerance`` of ``paper`` everywhere.

    With ``seeds``, ``measure`` returns one value a seed (first axis), or, by cell, one value for each of the first of
    ``seeds``, as many as the cell has; the mean is compared and the sample standard deviation is the spread.
    ``measure(**broken)`` is the negative control: it must miss somewhere.

    :raises ControlPassed: if the negative control also lies within the tolerance
    :raises ValueError: for a value that is not finite, and for another number of values than of seeds
    """
    _known_kind(kind)
    measured = measure(**given)
    ours, spread = _summary(measured, seeds)
    control_ours, _ = _summary(measure(**broken), seeds)
    if _within(control_ours, paper, tolerance):
        raise ControlPassed(f"{claim}: the check also passes when its hypothesis is broken ({control})")
    check = Check(
        claim,
        kind,
        says,
        _within(ours, paper, tolerance),
        control,
        scope,
        _plain(paper),
        _plain(ours),
        float(tolerance),
        _plain(control_ours),
        _by_cell([seeds[: len(cell)] for cell in measured.values()] if isinstance(measured, Mapping) else seeds),
        _plain(spread),
    )
    _display(check)
    return check


def skip(claim: str, reason: str) -> Skip:
    """Say that this execution does not check a claim (settings for which the paper has no value, no GPU, ...)."""
    skipped = Skip(claim, reason)
    _display(skipped)
    return skipped


def _summary(values: Any, seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
    if isinstance(values, Mapping):
        cells = [_summary(cell, seeds[: len(cell)]) for cell in values.values()]
        spreads = [spread for _, spread in cells if spread is not None]
        return np.array([mean for mean, _ in cells]), np.array(spreads) if len(spreads) == len(cells) else None
    array = np.asarray(values, dtype=float)
    if not np.isfinite(array).all():
        raise ValueError(f"a measured value is not finite: {array}")
    if not seeds:
        return array, None
    if len(array) != len(seeds):
        raise ValueError(f"{len(array)} measured values for {len(seeds)} seeds")
    spread = np.asarray(array.std(0, ddof=1)) if len(seeds) > 1 else None
    return np.asarray(array.mean(0)), spread


def _by_cell(seeds: Sequence[Any]) -> tuple[Any, ...]:
    """Seeds as they are kept: one tuple a cell, or a single one where all cells have the same."""
    if not seeds or isinstance(seeds[0], (int, np.integer)):
        return tuple(seeds)
    cells = [tuple(each) for each in seeds]
    return cells[0] if len(set(cells)) == 1 else tuple(cells)


def _within(ours: np.ndarray, paper: Any, tolerance: float) -> bool:
    # printed values are rounded: half a unit in the last place, and a little for the binary fraction
    return bool((np.abs(ours - np.asarray(paper, dtype=float)) <= tolerance * (1 + 1e-9)).all())


def _truth(value: Any, claim: str) -> bool:
    if isinstance(value, (bool, np.bool_)) or type(value).__name__ in {"BooleanTrue", "BooleanFalse"}:
        return bool(value)
    raise TypeError(f"{claim}: a test returns True or False, not {type(value).__name__}")


def _known_kind(kind: str) -> None:
    if kind not in STATUS_OF:
        raise ValueError(f"unknown kind of evidence {kind!r}; one of {', '.join(STATUS_OF)}")


def _plain(value: Any) -> Any:
    """A value as JSON holds it."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return np.asarray(value).tolist()


def marked(text: str) -> str:
    """Plain words as HTML; what stands between backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def short(value: Any) -> str:
    """A measured value in words: four digits, and each named value after its name."""
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {short(item)}" for key, item in value.items())
    if isinstance(value, list):
        return "[" + ", ".join(map(short, value)) + "]"
    return f"{value:.{4 if abs(value) < 1e4 else 6}g}" if isinstance(value, float) else str(value)


def _display(shown: Check | Skip) -> None:
    from IPython.display import display

    display(shown)


# The ledger -----------------------------------------------------------------------------------------------------


def read_claims(path: Path) -> dict[str, dict[str, Any]]:
    """Claims by id. A missing or unknown field, a doubled id, an unknown or circular dependency is refused."""
    claims: dict[str, dict[str, Any]] = {}
    for entry in yaml.safe_load(path.read_text()):
        name = entry.get("id", f"entry {len(claims) + 1}")
        for field in sorted(_REQUIRED - set(entry)):
            raise LedgerError(f"{path}: {name}: field {field!r} is missing")
        for field in sorted(set(entry) - _REQUIRED - _OPTIONAL):
            raise LedgerError(
                f"{path}: {name}: unknown field {field!r}; valid: {', '.join(sorted(_REQUIRED | _OPTIONAL))}"
            )
        if entry["evidence"] not in STATUS_OF:
            raise LedgerError(
                f"{path}: {name}: evidence {entry['evidence']!r} is none of {', '.join(STATUS_OF)}"
            )
        if name in claims:
            raise LedgerError(f"{path}: {name} stands twice")
        claims[name] = entry
    for name, entry in claims.items():
        for other in entry["depends"]:
            if other not in claims:
                raise LedgerError(f"{path}: {name} depends on {other!r}, which is no claim")
    order(claims)
    return claims


def order(claims: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Claim ids, each after those it depends on."""
    import graphlib

    try:
        return list(
            graphlib.TopologicalSorter(
                {name: entry["depends"] for name, entry in claims.items()}
            ).static_order()
        )
    except graphlib.CycleError as error:
        raise LedgerError(f"claims depend on each other in a circle: {' -> '.join(error.args[1])}") from None


def checks_of(notebook: Path) -> list[dict[str, Any]]:
    """The checks and skips that an executed notebook holds, each with its chapter and the number of its cell."""
    found = []
    for number, cell in enumerate(json.loads(notebook.read_text())["cells"]):
        for output in cell.get("outputs", []):
            record = output.get("metadata", {}).get(METADATA_KEY)
            if record:
                found.append({**record, "chapter": notebook.stem, "cell": number})
    return found


def ledger(
    claims: Mapping[str, Mapping[str, Any]], checks: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One row a claim: its status, the reason for it, whether it is fully established, and its checks.

    :raises LedgerError: for a check of an unknown claim, and for an orphan: no check and no reason why
    """
    for check in checks:
        if check["claim"] not in claims:
            raise LedgerError(
                f"chapter {check['chapter']}, cell {check['cell']}: unknown claim {check['claim']!r}"
            )
    rows = {}
    for name, entry in claims.items():
        mine = [dict(check) for check in checks if check["claim"] == name]
        status, reason = _status(entry, mine)
        rows[name] = {**entry, "status": status, "reason": reason, "checks": mine}
    for name in order(claims):
        settled = rows[name]["status"] in STATUS_OF.values()
        rows[name]["established"] = settled and all(
            rows[other]["established"] for other in rows[name]["depends"]
        )
    return list(rows.values())


def _status(entry: Mapping[str, Any], checks: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    done = [check for check in checks if "skipped" not in check]
    if not done:
        return _unchecked(entry, checks)
    failed = [check for check in done if not check["holds"]]
    if failed:
        return "deviates", entry.get("deviation") or f"unexplained: {failed[0]['says']}"
    kinds = {check["kind"] for check in done}
    if entry["evidence"] in kinds:
        return STATUS_OF[entry["evidence"]], ""
    ranks = list(STATUS_OF)
    best = max(min(map(ranks.index, kinds)), ranks.index(entry["evidence"]))
    return STATUS_OF[ranks[best]], f"{entry['evidence']} evidence is owed; so far {', '.join(sorted(kinds))}"


def _unchecked(entry: Mapping[str, Any], checks: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    if checks:
        return "not run here", checks[0]["skipped"]
    if entry.get("needs"):
        return "not run here", f"needs {entry['needs']}"
    if entry.get("open"):
        return "open", entry["open"]
    raise LedgerError(
        f"claim {entry['id']!r} is an orphan: no chapter checks it, and neither 'needs' nor 'open' says why"
    )


def count(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many claims have each status, in the order of `STATUSES`."""
    return {status: sum(row["status"] == status for row in rows) for status in STATUSES}
