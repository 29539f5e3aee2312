"""The ledger: the status of every claim, computed from the checks that executed chapters hold.

A status is as strong as its evidence. `proved` needs a symbolic check that covers the whole claim *and* a labelled
proof on the page; a check of some sizes alone is `checked`, also where a solver decides them for all real values. An
assumption is `assumed`, whatever was measured of it. A claim counts as *established* if it and everything that it
depends on hold.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from lib.record.claims_file import EVIDENCE, LedgerError, order

#: status -> (symbol, meaning); the symbol carries the status where colour is not seen
STATUSES = {
    "proved": ("∎", "proof on the page, and a symbolic check that covers the claim"),
    "certified": ("⊢", "enclosed by ball arithmetic"),
    "checked": ("✓", "holds for all values in the cases that the checks name; no proof of all cases"),
    "reproduced": ("≈", "the number agrees within the stated tolerance"),
    "pattern": ("~", "the qualitative pattern agrees, the numbers need not"),
    "assumed": ("∴", "an assumption: the row says what was measured of it"),
    "deviates": ("≠", "checked, and it came out otherwise"),
    "not run here": ("○", "needs weights, a GPU or other settings than this build's"),
    "open": ("?", "stated, not settled in this book yet"),
}
STATUS_OF = {"symbolic": "proved", "certified": "certified", "solver": "checked", "numeric": "reproduced",
             "pattern": "pattern"}
_HOLDS = ("proved", "certified", "checked", "reproduced", "pattern", "assumed")
_PROOF = re.compile(r"((?:^\(proof-[\w-]+\)=\s*\n)+)\s*:{3,}\{prf:proof\}(.*?)^:{3,}\s*$", re.MULTILINE | re.DOTALL)
_REFERENCE = re.compile(r"\{prf:ref\}`(?:[^`<]*<)?([\w-]+)>?`")
Row = Mapping[str, Any]  # a claim with its status and checks


def compute(
    claims: Mapping[str, Mapping[str, Any]], checks: Sequence[Mapping[str, Any]], proofs: Iterable[str] = (),
    digests: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """One row a claim: its status, the reason for it, whether it is established, its checks, when it was registered.

    :param proofs: claims with a labelled proof on their page, see `proofs_in`
    :param digests: of the claims as they stand, see `claims_file.claim_digest`
    :raises LedgerError: for a check of an unknown claim, and for an orphan: no check and no reason why
    """
    for check in checks:
        if check["claim"] not in claims:
            raise LedgerError(f"chapter {check['chapter']}, cell {check['cell']}: unknown claim {check['claim']!r}")
    proved, rows = set(proofs), {}
    for name, entry in claims.items():
        mine = [dict(check) for check in checks if check["claim"] == name]
        status, reason = _status(entry, mine, name in proved)
        rows[name] = {**entry, "status": status, "reason": reason, "checks": mine, "proof": name in proved,
                      "registered": _registered(mine, (digests or {}).get(name))}
    for name in order(claims):
        row = rows[name]
        row["established"] = row["status"] in _HOLDS and all(rows[other]["established"] for other in row["depends"])
    return list(rows.values())


def _status(entry: Mapping[str, Any], checks: Sequence[Mapping[str, Any]], proof: bool) -> tuple[str, str]:
    done = [check for check in checks if "skipped" not in check]
    if not done:
        return _unchecked(entry, checks)
    failed = [check for check in done if not check["holds"]]
    if failed:
        return "deviates", entry.get("deviation") or f"unexplained: {failed[0]['says']}"
    if entry.get("assumed"):
        return "assumed", ""
    kinds = {check["kind"] for check in done}
    best = max(min(map(EVIDENCE.index, kinds)), EVIDENCE.index(entry["evidence"]))
    if EVIDENCE[best] == "symbolic" and not (proof and any(map(_covers, done))):
        return "checked", "no check covers every case" if proof else "no labelled proof stands on the page"
    owed = "" if entry["evidence"] in kinds else (
        f"{entry['evidence']} evidence is owed; so far {', '.join(sorted(kinds))}")
    waiting = "" if len(done) == len(checks) else f"{len(checks) - len(done)} of {len(checks)} checks not run here"
    return STATUS_OF[EVIDENCE[best]], "; ".join(filter(None, (owed, waiting)))


def _covers(check: Mapping[str, Any]) -> bool:
    return check["kind"] == "symbolic" and check.get("covers") == "claim"


def _unchecked(entry: Mapping[str, Any], checks: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    if checks:
        return "not run here", checks[0]["skipped"]
    if entry.get("needs"):
        return "not run here", f"needs {entry['needs']}"
    if entry.get("open"):
        return "open", entry["open"]
    raise LedgerError(f"claim {entry['id']!r} is an orphan: no chapter checks it, and neither 'needs' nor 'open' "
                      "says why")


def _registered(checks: Sequence[Mapping[str, Any]], digest: str | None) -> str:
    """When a claim was written down, by the digests of it that the recorded runs hold which its checks read.

    ``before`` if every run stored the claim as it stands. ``before new runs`` if each check read at least one that did,
    and all others, which those are compared with, started before the first of them and know of no such claim. Else
    ``afterwards``, and nothing where no check read a run.
    """
    read = [[(run["registered"].get(check["claim"]), run) for run in check["runs"]]
            for check in checks if check.get("runs")]
    new = [run for runs in read for stored, run in runs if stored == digest]
    others = [(stored, run) for runs in read for stored, run in runs if stored != digest]
    if not read or not others:
        return "before" if read else ""
    compared = all(any(stored == digest for stored, _ in runs) for runs in read)
    return "before new runs" if compared and _already_there(others, new) else "afterwards"


def _already_there(others: Iterable[tuple[str | None, Row]], new: Iterable[Row]) -> bool:
    """Whether runs that stored no version of a claim all started before the first that stored it as it stands."""
    first = min(map(_started, new))
    return all(stored is None and _started(run) < first for stored, run in others)


def _started(run: Row) -> datetime:
    return datetime.fromisoformat(run["started"])


def count(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many claims have each status, in the order of `STATUSES`."""
    return {status: sum(row["status"] == status for row in rows) for status in STATUSES}


# Proofs in a chapter's text ----------------------------------------------------------------------------------------


def proofs_in(text: str) -> dict[str, set[str]]:
    """Claim -> the statements that its proof refers to, for every labelled proof of a chapter.

    A proof is labelled by a line ``(proof-CLAIM)=`` above it, one for each claim that it proves.
    """
    found: dict[str, set[str]] = {}
    for labels, body in _PROOF.findall(text):
        for claim in re.findall(r"\(proof-([\w-]+)\)=", labels):
            found[claim] = set(_REFERENCE.findall(body)) - {claim}
    return found


# Two ledgers side by side ------------------------------------------------------------------------------------------


def differences(
    old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], relative: float = 1e-4,
) -> list[str]:
    """What differs between two ledgers, in words: statuses, outcomes and numbers of checks; nothing where they agree.

    :param relative: numbers closer than this are equal: processors round differently
    """
    before, after = ({row["id"]: row for row in rows} for rows in (old, new))
    found = [f"{name}: only in the {'first' if name in before else 'second'} ledger"
             for name in sorted({*before} ^ {*after})]
    for name in [name for name in before if name in after]:
        if before[name]["status"] != after[name]["status"]:
            found.append(f"{name}: {before[name]['status']} -> {after[name]['status']}")
        found += [f"{name}: {words}" for words in _check_differences(before[name], after[name], relative)]
    return found


def _check_differences(before: Mapping[str, Any], after: Mapping[str, Any], relative: float) -> Iterator[str]:
    first, second = ({_key(check): check for check in row["checks"] if "says" in check} for row in (before, after))
    for key in [*first, *(key for key in second if key not in first)]:
        if key not in first or key not in second:
            yield f"check only in the {'first' if key in first else 'second'} ledger: {key}"
            continue
        if first[key]["holds"] != second[key]["holds"]:
            yield f"{key}: {_word(first[key])} -> {_word(second[key])}"
        for field in ("paper", "ours", "spread", "control_ours"):
            one, other = _aligned(first[key].get(field), second[key].get(field))
            if len(one) != len(other) or not all(
                    math.isclose(a, b, rel_tol=relative, abs_tol=1e-9) for a, b in zip(one, other, strict=True)):
                yield f"{key}: {field} {one} -> {other}"


def _aligned(one: Any, other: Any) -> tuple[list[float], list[float]]:
    """The numbers of two values of a check: name by name where both have the same names, else in their order."""
    if isinstance(one, Mapping) and isinstance(other, Mapping) and set(one) == set(other):
        other = {name: other[name] for name in one}
    return list(numbers(one)), list(numbers(other))


def _key(check: Mapping[str, Any]) -> str:
    return re.sub(r"\s+", " ", check["says"]).strip()


def _word(check: Mapping[str, Any]) -> str:
    return "holds" if check["holds"] else "fails"


def numbers(value: Any) -> Iterator[float]:
    """The numbers of a measured value, whatever names stand beside them, in their order."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from numbers(item)
    elif isinstance(value, (int, float)):
        yield float(value)
