"""What a check is told of values over seeds: means or differences, and their intervals.

Each function takes the values by name, or a function of no arguments that reads them, and gives functions of no
arguments. `lib.record.claims.verify` calls them only where every recorded result that the check needs is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from lib.record import report
from lib.record.report import Values

Told = dict[str, Callable[[], Any]]  # parameters of `lib.record.claims.verify`
NamedValues = Mapping[str, Values]  # one value a seed, by what they are called
NamedPairs = Mapping[str, tuple[Values, Values]]


def told_means(values: Values | NamedValues | Callable[[], Values | NamedValues]) -> Told:
    """Means over seeds with their bootstrap intervals; a single seed has none.

    :param values: of one measure, or of several by name
    """
    def each(of: Callable[[Values], Any]) -> Any:
        found = _read(values)
        return {name: of(own) for name, own in found.items()} if isinstance(found, Mapping) else of(found)

    return {"ours": lambda: each(lambda own: float(np.mean(own))),
            "interval": lambda: each(lambda own: report.bootstrap_interval(own) if len(own) > 1 else None)}


def told_summary(values: NamedValues | Callable[[], NamedValues]) -> Told:
    """Means over seeds, their standard deviations, and their intervals where every measure has two seeds or more."""
    return {"ours": lambda: {name: float(np.mean(own)) for name, own in _read(values).items()},
            "spread": lambda: {name: report.spread(own) for name, own in _read(values).items()},
            "interval": lambda: report.intervals(_read(values))}


def told_effects(pairs: NamedPairs | Callable[[], NamedPairs]) -> Told:
    """Differences of means, second values less first, with their intervals; and Hedges' g, which has none."""
    def found() -> dict[str, report.EffectSize]:
        return {name: report.effect(*pair) for name, pair in _read(pairs).items()}

    def ours() -> dict[str, float]:
        shown = {name: {name: each.difference, f"{name}, Hedges' g": each.standardised}
                 for name, each in found().items()}
        return {key: value for each in shown.values() for key, value in each.items() if np.isfinite(value)}

    return {"ours": ours, "interval": lambda: {name: each.interval for name, each in found().items()}}


def _read(lazy: Any) -> Any:
    return lazy() if callable(lazy) else lazy
