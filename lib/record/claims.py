"""What is claimed, and the checks of it that a chapter executes.

``book/claims.yml`` lists every claim with the texts of its checks: what a check says, its scope, its negative control.
A chapter runs a check by name, with `verify` (a statement) or `compare` (numbers):

    claims.verify("prop-4-1", "derivative", storage.gradient_is, given={"mass": total}, broken={"mass": one_weight})

The test runs twice: under the claim's hypotheses, and with something broken. The second run is the negative control and
must come out false; where both come out true, `ControlPassed` is raised, because then the check shows nothing. What is
broken is either one ``hypothesis`` of the claim or, in a ``mutation``, the formula that it states. Where the first is
false and the control true, the outcome is the opposite of what was said, and the check says so.

The outcome travels in the executed notebook, as metadata of the displayed check. `lib.record.ledger` reads the executed
notebooks and computes the status of every claim: no status is ever typed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lib.record import claims_file, report, verdicts
from lib.record.claims_file import LedgerError, known_claims
from lib.record.provenance import RECORDED, Result, results_folder

METADATA_KEY = "claim_check"
Shown = TypeVar("Shown", "Check", "Skip")
Lazy = Any  # a value, or a function of no arguments that gives it, called only if the check is run


class OurFault(AssertionError):
    """What this book computes is wrong or disagrees with its record: no finding about a claim, the build stops."""


class ControlPassed(AssertionError):
    """A negative control came out true: the check cannot tell the claim from its negation."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One executed check of one claim; numbers as JSON holds them."""

    claim: str
    check: str  # its name in claims.yml
    kind: str
    says: str
    holds: bool
    control: str
    breaks: str = ""
    covers: str = "cases"
    scope: str = ""
    unit: str = ""
    paper: Any = None
    ours: Any = None  # a number, or name -> number
    tolerance: float | None = None
    control_ours: Any = None
    control_holds: bool = False  # only where the check itself does not
    seeds: tuple[int, ...] | tuple[tuple[int, ...], ...] = ()  # by cell where cells have different ones
    spread: Any = None  # sample standard deviation over seeds
    interval: Any = None  # (low, high), or name -> (low, high)
    t_interval: Any = None  # the same by Student's t, where the interval is a bootstrap of seeds
    t_holds: bool | None = None  # what the test says with t intervals; None where it rests on none
    runs: tuple[Mapping[str, Any], ...] = ()  # recorded results that it read, see `run_read`

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        record = dataclasses.asdict(self)
        return {"text/plain": str(self), "text/html": verdicts.box([record], runs=False)}, {METADATA_KEY: record}

    def __str__(self) -> str:
        return verdicts.plain(dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True)
class Skip:
    """A check that this execution did not run, and why."""

    claim: str
    check: str
    reason: str

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> tuple[dict, dict]:
        record = {"claim": self.claim, "check": self.check, "skipped": self.reason}
        return {"text/plain": str(self), "text/html": verdicts.box([record], runs=False)}, {METADATA_KEY: record}

    def __str__(self) -> str:
        return f"not run here [{self.claim}] {self.reason}"


# Checks ------------------------------------------------------------------------------------------------------------


def verify(
    claim: str, check: str, test: Callable[..., Any], *, given: Lazy, broken: Lazy, needs: Any = (),
    words: Mapping[str, Any] | None = None, ours: Lazy = None, spread: Lazy = None, interval: Lazy = None,
    seeds: Lazy = (), paper: Any = None, **texts: Lazy,
) -> Check | Skip:
    """Check a statement: ``test(**given)`` decides, and ``test(**broken)`` must be false.

    ``given``, ``broken``, ``ours``, ``spread``, ``interval``, ``seeds`` and texts may be functions of no arguments;
    they are called only if nothing that the check needs is missing.

    :param claim: id in claims.yml
    :param check: name of the check under that claim
    :param test: returns a truth value (Python's, numpy's or sympy's)
    :param needs: recorded results that the check reads: one, several, or name -> result. Where one is None (or there is
        none at all) the check is skipped, with that as the reason; else the ledger names their files
    :param words: fill the ``{placeholders}`` of the check's texts
    :param seeds: of the runs; one sequence a cell where cells have different ones
    :param texts: ``scope``, ``says`` or ``control`` where a text depends on what was run
    :raises ControlPassed: if the negative control is true as well
    :raises TypeError: if the test returns anything but a truth value
    :raises LedgerError: for a claim or check that claims.yml does not have
    """
    found = _Texts.of(claim, check, words, texts)
    if missing := _missing(needs):
        return skip(claim, missing, check)
    holds = _truth(test(**_value(given)), claim)
    turned = _truth(test(**_value(broken)), claim)
    if holds and turned:
        raise ControlPassed(f"{claim}: the check also passes when its hypothesis is broken ({found.control})")
    told = _intervals(interval)
    rests = _by_student(test, given, claim) if told["t_interval"] or "prediction" in known_claims()[claim] else None
    return _shown(Check(
        claim, check, holds=holds, paper=_plain(paper), ours=_plain(_value(ours)), spread=_plain(_value(spread)),
        **told, t_holds=rests, control_holds=turned, seeds=_by_cell(_value(seeds)), runs=_runs(needs),
        **found.filled()))


def compare(
    claim: str, check: str, measure: Callable[..., Any], *, given: Lazy, broken: Lazy, paper: Any = None,
    tolerance: float | None = None, needs: Any = (), words: Mapping[str, Any] | None = None, seeds: Lazy = (),
    interval: Lazy = None, **texts: Lazy,
) -> Check | Skip:
    """Check numbers: ``measure(**given)`` must lie within ``tolerance`` of ``paper`` everywhere.

    With ``seeds``, ``measure`` returns one value a seed (first axis), or, by name, one value for each of the first of
    ``seeds``, as many as that cell has; the mean is compared and the sample standard deviation is the spread.
    ``measure(**broken)`` is the negative control: it must miss somewhere. ``paper`` and ``tolerance`` stand in
    claims.yml unless given here; other parameters as for `verify`.

    :raises ControlPassed: if the negative control also lies within the tolerance
    :raises ValueError: for a value that is not finite, and for another number of values than of seeds; names the check
        and the cell
    """
    found, where = _Texts.of(claim, check, words, texts), f"{claim}: check {check!r}"
    if missing := _missing(needs):
        return skip(claim, missing, check)
    paper, tolerance = (found.entry.get(name) if value is None else value
                        for name, value in (("paper", paper), ("tolerance", tolerance)))
    if paper is None or tolerance is None:
        raise LedgerError(f"{claim}: check {check!r} compares, so it needs `paper` and `tolerance`, here or in "
                          f"{claims_file.CLAIMS.name}")
    seeds, measured = _value(seeds), measure(**_value(given))
    ours, spread = _summary(measured, seeds, where)
    control_ours, _ = _summary(measure(**_value(broken)), seeds, f"{where}, its control")
    if _within(control_ours, paper, tolerance):
        raise ControlPassed(f"{claim}: the check also passes when its hypothesis is broken ({found.control})")
    by_cell = isinstance(measured, Mapping)
    if by_cell and not isinstance(paper, Mapping) and np.ndim(paper):
        paper = dict(zip(measured, paper, strict=True))
    named = lambda values: dict(zip(measured, values, strict=True)) if by_cell and values is not None else values
    return _shown(Check(
        claim, check, holds=_within(ours, paper, tolerance), paper=_plain(paper), ours=_plain(named(ours)),
        tolerance=float(tolerance), control_ours=_plain(named(control_ours)), spread=_plain(named(spread)),
        **_intervals(interval),
        seeds=_by_cell([seeds[: len(cell)] for cell in measured.values()] if by_cell and seeds else seeds),
        runs=_runs(needs), **found.filled()))


def require(says: str, test: Callable[..., Any], *, given: Mapping[str, Any], broken: Mapping[str, Any],
            control: str) -> None:
    """Demand something of our own implementation or record; where it fails the build stops, and no claim deviates.

    :param says: what must hold, in one sentence
    :param control: what ``broken`` breaks, in words
    :raises OurFault: if ``test(**given)`` is false
    :raises ControlPassed: if ``test(**broken)`` is true
    """
    if not _truth(test(**given), says):
        raise OurFault(f"{says}: it does not")
    if _truth(test(**broken), says):
        raise ControlPassed(f"{says}: so does the control ({control})")


def skip(claim: str, reason: str, check: str = "") -> Skip:
    """Say that this execution does not run a check (settings for which the paper has no value, no GPU, ...).

    :param check: its name in claims.yml; without it, the reason holds for all checks of the claim
    """
    _entry(claim, check)
    return _shown(Skip(claim, check, reason))


@dataclasses.dataclass(frozen=True)
class _Texts:
    """The entry of a check in claims.yml, and what the call says beside it."""

    entry: Mapping[str, Any]
    claim: Mapping[str, Any]
    words: Mapping[str, Any]
    more: Mapping[str, Any]

    @classmethod
    def of(cls, claim: str, check: str, words: Mapping[str, Any] | None, texts: Mapping[str, Any]) -> _Texts:
        if unknown := sorted(set(texts) - {"says", "scope", "control"}):
            raise TypeError(f"{claim}: no text {unknown[0]!r}; a call may give says, scope and control")
        return cls(_entry(claim, check), known_claims()[claim], words or {}, texts)

    @property
    def control(self) -> str:
        return self._text("control")

    def filled(self) -> dict[str, Any]:
        entry = self.entry
        return {"kind": entry.get("kind", self.claim["evidence"]), "breaks": entry.get("breaks", ""),
                "covers": entry.get("covers", "cases"), "unit": entry.get("unit", ""),
                **{name: self._text(name) for name in ("says", "scope", "control")}}

    def _text(self, name: str) -> str:
        text = self.more.get(name)
        if text is not None:
            return str(_value(text))
        return self.entry.get(name, "").format(**self.words) if self.words else self.entry.get(name, "")


def _entry(claim: str, check: str) -> Mapping[str, Any]:
    known = known_claims()
    if claim not in known:
        raise LedgerError(f"no claim {claim!r} in {claims_file.CLAIMS}")
    checks = known[claim].get("checks", {})
    if check and check not in checks:
        raise LedgerError(f"{claim} has no check {check!r} in {claims_file.CLAIMS}; it has "
                          f"{', '.join(checks) or 'none'}")
    return checks.get(check, {})


def _missing(needs: Any) -> str:
    """Why a check cannot run: the recorded results it lacks; nothing if all are there."""
    found = dict(needs) if isinstance(needs, Mapping) and not isinstance(needs, Result) else {}
    lacking = [str(name) for name, run in found.items() if run is None]
    if lacking:
        return f"no recorded run: {', '.join(lacking)}"
    if needs is None or any(run is None for run in _each(needs)):
        return "a recorded run that it reads is not here"
    return "" if needs == () or _each(needs) else "no recorded run that it could read is here"


def _each(needs: Any) -> list[Any]:
    if isinstance(needs, Result):
        return [needs]
    return list(needs.values() if isinstance(needs, Mapping) else needs)


def _runs(needs: Any) -> tuple[dict[str, Any], ...]:
    return tuple(run_read(run) for run in _each(needs))


def run_read(result: Result) -> dict[str, Any]:
    """What the ledger keeps of a recorded result that a check read."""
    made = result["provenance"]
    return {"file": _place(result.path), "profile": result["parameters"].get("profile", ""),
            **{key: made.get(key) for key in ("checksum", "commit", "device", "seconds", "started")},
            "registered": made.get("registered", {})}


def _place(path: Path | None) -> str:
    """Where a result is recorded, or will be once this build's results are: below the repository."""
    if path is None:
        return ""
    path = Path(path).resolve()
    for folder in (results_folder(), RECORDED):
        if path.is_relative_to(folder.resolve()):
            return f"{RECORDED.name}/{path.relative_to(folder.resolve())}"
    return path.name


def _value(lazy: Lazy) -> Any:
    return lazy() if callable(lazy) else lazy


def _intervals(interval: Lazy) -> dict[str, Any]:
    """An interval as it is told, and Student's t interval where it is a bootstrap of seeds."""
    told = _value(interval)
    student: Any = None
    if isinstance(told, Mapping):
        student = {name: each.t for name, each in told.items() if isinstance(each, report.Interval)} or None
    elif isinstance(told, report.Interval):
        student = told.t
    return {"interval": _plain(told), "t_interval": _plain(student)}


def _by_student(test: Callable[..., Any], given: Lazy, claim: str) -> bool | None:
    """What a test says with Student's t intervals in place of the bootstrap's; None if it asks for neither."""
    with report.student_intervals() as asked:
        holds = _truth(test(**_value(given)), claim)
    return holds if asked else None


def _summary(values: Any, seeds: Sequence[int], where: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean and sample standard deviation over seeds, cell by cell where values have names.

    :param where: claim, check and cell, for the message of what is refused
    """
    if isinstance(values, Mapping):
        cells = [_summary(cell, seeds[: len(cell)] if seeds else (), f"{where}, {name}")
                 for name, cell in values.items()]
        spreads = [spread for _, spread in cells if spread is not None]
        return np.array([mean for mean, _ in cells]), np.array(spreads) if len(spreads) == len(cells) else None
    array = np.asarray(values, dtype=float)
    if not np.isfinite(array).all():
        raise ValueError(f"{where}: a measured value is not finite: {array}")
    if not seeds:
        return array, None
    if len(array) != len(seeds):
        raise ValueError(f"{where}: {len(array)} measured values for {len(seeds)} seeds")
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
    printed = np.asarray(list(paper.values()) if isinstance(paper, Mapping) else paper, dtype=float)
    return bool((np.abs(ours - printed) <= tolerance * (1 + 1e-9)).all())


def _truth(value: Any, claim: str) -> bool:
    if isinstance(value, (bool, np.bool_)) or type(value).__name__ in {"BooleanTrue", "BooleanFalse"}:
        return bool(value)
    raise TypeError(f"{claim}: a test returns True or False, not {type(value).__name__}")


def _plain(value: Any) -> Any:
    """A value as JSON holds it."""
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return np.asarray(value).tolist()


def _shown(shown: Shown) -> Shown:
    from IPython.display import display

    display(shown)
    return shown


def checks_in(cells: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number of the cell and record of each check or skip that the cells of an executed notebook hold."""
    for number, cell in enumerate(cells):
        for output in cell.get("outputs", []):
            record = output.get("metadata", {}).get(METADATA_KEY)
            if record:
                yield number, record


def checks_of(notebook: Path) -> list[dict[str, Any]]:
    """The checks and skips that an executed notebook holds, each with its chapter and the number of its cell."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [{**record, "chapter": notebook.stem, "cell": number} for number, record in checks_in(cells)]
