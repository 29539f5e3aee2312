"""The mutation test as a reader sees it: the score by module, and each survivor with the reason why no test sees it.

`pipeline.mutants` puts small errors into `lib.theory`, one at a time, and records which of them the tests notice.
"""

from __future__ import annotations

import html
import operator
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lib.record import claims_file, provenance, verdicts, yaml_files

RECORDED_TEST = Path("mutants") / "theory.json"  # below the folder of results
SECOND_PASS = RECORDED_TEST.with_name("survivors.json")  # the survivors of that run again, after tests were added
#: why survivors survive, in words
EXPLANATIONS = claims_file.CLAIMS.with_name("survivors.yml")
#: how a mutant can end: a test failed, the tests took too long, or all of them passed
FATES = ("killed", "timeout", "survived")
Counts = Mapping[str, Mapping[str, int]]
_REASON: dict[str, type] = {"module": str, "why": str, "mutants": list}
_MUTANT = ("function", "line before", "line after")


def recorded_test() -> provenance.Result:
    """The recorded run.

    :raises FileNotFoundError: if there is none
    """
    return provenance.load(provenance.RECORDED / RECORDED_TEST)


def reasons(path: Path = EXPLANATIONS) -> dict[tuple[str, ...], str]:
    """(module, function, line before, line after) -> why no test sees the mutation, as the file says.

    :raises ValueError: for a malformed file; names it, the entry and the field
    """
    entries = yaml_files.read_yaml(path) or []
    if not isinstance(entries, list):
        raise ValueError(f"{path}: a list is expected, each entry with {', '.join(_REASON)}, not {entries!r}")
    for number, entry in enumerate(entries, 1):
        claims_file.check_fields(f"{path}: entry {number}", entry, _REASON, _REASON)
        for mutant in entry["mutants"]:
            if not isinstance(mutant, list) or len(mutant) != len(_MUTANT) or not all(map(_is_text, mutant)):
                raise ValueError(f"{path}: entry {number} ({entry['module']}): mutants: expected a list of "
                                 f"{', '.join(_MUTANT)}, not {mutant!r}")
    return {(entry["module"], *mutant): entry["why"] for entry in entries for mutant in entry["mutants"]}


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def explained(left: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Survivors with the reasons that `EXPLANATIONS` gives now, or those that they were recorded with."""
    known, key = reasons(), operator.itemgetter("module", "function", "before", "after")
    return [{**each, "why": known.get(key(each), each["why"])} for each in left]


def both_passes() -> tuple[Counts, list[dict[str, Any]]]:
    """Outcomes by module over the recorded run and the second pass over its survivors, and what survived both.

    Tests that are added cannot spare a mutant that was killed, so what the first pass killed stays killed.

    :raises FileNotFoundError: if there is no recorded run
    :raises ValueError: for a file of the second pass that has modules which the first does not have
    """
    first, path = recorded_test(), provenance.RECORDED / SECOND_PASS
    counts: dict[str, dict[str, int]] = {name: dict(each) for name, each in first["curves"]["modules"].items()}
    if not path.exists():
        return counts, explained(first["curves"]["survivors"])
    second = provenance.load(path)
    if unknown := sorted({*second["curves"]["modules"]} - {*counts}):
        raise ValueError(f"{path}: module {unknown[0]!r} is not in {RECORDED_TEST}, which has {', '.join(counts)}")
    for name, each in second["curves"]["modules"].items():
        again = sum(each[fate] for fate in FATES)
        if not again:
            continue
        counts[name]["survived"] += each["survived"] - again
        for fate in ("killed", "timeout"):
            counts[name][fate] += each[fate]
    return counts, explained(second["curves"]["survivors"])


def totals(counts: Counts) -> dict[str, int]:
    """Sums over the modules."""
    return {name: sum(each[name] for each in counts.values()) for name in ("generated", *FATES)}


def score(counts: Mapping[str, int]) -> float:
    """Percent of the mutants that are killed, those that ran out of time among them.

    :param counts: how many mutants ended in each way
    :raises ValueError: if no mutant was run
    """
    killed, timeout, survived = (counts[fate] for fate in FATES)
    if not killed + timeout + survived:
        raise ValueError("no mutant was run")
    return 100 * (killed + timeout) / (killed + timeout + survived)


def lines(counts: Counts) -> list[str]:
    """The score of each module and of all together, for a terminal."""
    shown = [f"{'module':22}{'generated':>10}{'run':>6}{'killed':>8}{'timeout':>9}{'survived':>10}{'score':>8}"]
    for name, each in [*counts.items(), ("all", totals(counts))]:
        run = sum(each[fate] for fate in FATES)
        if run:
            shown.append(f"{name:22}{each['generated']:10}{run:6}{each['killed']:8}{each['timeout']:9}"
                         f"{each['survived']:10}{score(each):7.1f}%")
    return shown


def told_survivor(survivor: Mapping[str, Any]) -> str:
    """One survivor in a terminal: where it stands, what differs, and why it survives."""
    place = f"{survivor['module']}.{survivor['function']}, line {survivor['line']}"
    return f"{place}\n  - {survivor['before']}\n  + {survivor['after']}\n  {survivor['why'] or 'not explained'}"


def survivors_section(counts: Counts) -> str:
    """The score by module, as an HTML table whose last line has the sums."""
    head = ("Module", "Mutants", "Run", "A test fails", "A test takes too long", "All tests pass", "Killed")
    rows = []
    for name, each in [*counts.items(), ("all", totals(counts))]:
        run = sum(each[fate] for fate in FATES)
        if run:
            numbers = (each["generated"], run, *(each[fate] or "·" for fate in FATES), f"{score(each):.1f} %")
            rows.append(f"<tr><td>{html.escape(name)}</td>{_cells('td', numbers)}</tr>")
    return (f'<div class="ledger-scroll"><table class="ledger-counts"><tr>{_cells("th", head)}</tr>'
            f"{''.join(rows)}</table></div>")


def _cells(tag: str, values: Iterable[Any]) -> str:
    return "".join(f"<{tag}>{html.escape(str(value))}</{tag}>" for value in values)


def explanations(left: Iterable[Mapping[str, Any]]) -> str:
    """The survivors, by the reason why they survive, as HTML: the reason, and each line before and after."""
    reasons: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for survivor in left:
        reasons.setdefault((survivor["module"], survivor["why"]), []).append(survivor)
    return "".join(_reason(module, why, alike) for (module, why), alike in sorted(reasons.items()))


def _reason(module: str, why: str, alike: list[Mapping[str, Any]]) -> str:
    changes = "\n\n".join(f"# {each['function']}\n- {each['before']}\n+ {each['after']}" for each in alike)
    mutants = f"{len(alike)} mutants" if len(alike) > 1 else "1 mutant"
    return (f"<details><summary><code>{html.escape(module)}</code>, {mutants}: {verdicts.code(why or 'not explained')}"
            f"</summary><pre>{html.escape(changes)}</pre></details>")


def origin(result: Mapping[str, Any], path: Path = RECORDED_TEST) -> str:
    """Where a run comes from, as HTML: what was drawn, and the commit and the file that hold it."""
    given, run = result["parameters"], result["provenance"]
    return (f"<p>cosmic-ray {given['cosmic_ray']}, {len(given['operators'])} operators, "
            f"{sum(totals(result['curves']['modules'])[fate] for fate in FATES)} mutants, seed {result['seeds'][0]}. "
            f"Commit <code>{run['commit']}</code>, {run['started'][:10]}, {run['seconds'] / 60:.0f} minutes on "
            f"{run['device']}: <code>results/{path.as_posix()}</code></p>")


def origins() -> str:
    """The `origin` of the recorded run and of the second pass, as HTML."""
    paths = [path for path in (RECORDED_TEST, SECOND_PASS) if (provenance.RECORDED / path).exists()]
    return "".join(origin(provenance.load(provenance.RECORDED / path), path) for path in paths)
