"""Tables 1 and 2 of the paper, and the recorded runs beside their cells.

A cell is named by its *key*: a length and the name of a model. A run that ended before its models had learned the
forward direction is shown, but judges nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from lib.one_layer import results as runs
from lib.one_layer.results import RecordedRun
from lib.one_layer.task import DIRECTIONS
from lib.record import report

Key = tuple[int, str]
#: model -> way -> length -> accuracy in percent, as printed
TABLE_1: dict[str, dict[str, dict[int, float]]] = {
    "RoPE": {"forward": {10: 99.31, 20: 97.36, 30: 96.91, 40: 97.27},
             "reverse": {10: 43.10, 20: 55.70, 30: 33.89, 40: 38.37}},
    "autoregressive": {"forward": {10: 99.83, 20: 99.80, 30: 99.93, 40: 99.93},
                       "reverse": {10: 0.0, 20: 0.0, 30: 0.0, 40: 0.0}},
}
TABLE_2: dict[str, dict[str, dict[int, float]]] = {
    "learned absolute": {"forward": {10: 98.3, 20: 97.8}, "reverse": {10: 11.5, 20: 27.8}},
    "RoPE": {"forward": {10: 99.3, 20: 96.8}, "reverse": {10: 43.1, 20: 55.7}},
    "ALiBi": {"forward": {10: 99.7, 20: 99.5}, "reverse": {10: 99.8, 20: 99.5}},
}
LENGTHS, LENGTHS_2 = (10, 20, 30, 40), (10, 20)
CELLS_2 = tuple(itertools.product(LENGTHS_2, TABLE_2))  # encodings in the order of their reverse accuracy
#: what a recorded run of each model was given beside our recipe
KINDS: dict[str, dict[str, Any]] = {
    "RoPE": {"encoding": "rope"}, "ALiBi": {"encoding": "alibi"}, "learned absolute": {"encoding": "learned"},
    "autoregressive": {"encoding": "learned", "objective": "autoregressive"},
    "ALiBi with direction": {"encoding": "alibi_directional"}, "T5 bias": {"encoding": "t5"},
    "sinusoidal": {"encoding": "sinusoidal"}, "no encoding": {"encoding": "none"},
    "RoPE, fixed-rate masking": {"encoding": "rope", "objective": "fixed_rate"},
    "RoPE, two layers": {"encoding": "rope", "depth": 2}, "RoPE, four layers": {"encoding": "rope", "depth": 4},
}
LEARNED = 95.0  # percent forward, mean over seeds


def paper_value(key: Key, way: str) -> str:
    """What the paper prints, from either table; a dash where it prints nothing."""
    size, name = key
    if name in TABLE_1:
        return f"{TABLE_1[name][way][size]:.2f}"
    value = TABLE_2.get(name, {}).get(way, {}).get(size)
    return "–" if value is None else f"{value:.1f}"


def printed(name: str, way: str) -> dict[str, float]:
    """A column of Table 1 as the paper prints it, percent, by length."""
    return {f"L = {size}": value for size, value in TABLE_1[name][way].items()}


def printed_by_encoding(way: str) -> dict[str, float]:
    """A row of Table 2 as the paper prints it, percent, by encoding and length."""
    return {named(key): TABLE_2[key[1]][way][key[0]] for key in CELLS_2}


def printed_gaps(size: int) -> dict[str, float]:
    """Table 2's reverse accuracy of each encoding less that of the one before, points."""
    reverse = {name: ways["reverse"][size] for name, ways in TABLE_2.items()}
    return {f"{low} to {high}": reverse[high] - reverse[low] for low, high in itertools.pairwise(reverse)}


class PaperComparison:
    """The recorded full runs by key, and what they are asked.

    Values over seeds are in percent for accuracies, else as `lib.one_layer.metrics` measures them.

    :param results: of `lib.one_layer.experiment`; the longest of each cell is taken
    """

    def __init__(self, results: Iterable[RecordedRun]) -> None:
        kept = list(results)
        self.full: dict[Key, RecordedRun] = {
            (size, name): found[0] for size in LENGTHS for name, kind in KINDS.items()
            if (found := runs.matching(kept, length=size, profile="full", **kind))}
        self.unlearned = {key: run for key, run in self.full.items()
                          if runs.final(run, "forward_accuracy").mean() < LEARNED}

    # Which runs --------------------------------------------------------------------------------------------------

    def sizes(self, name: str, judged: bool = True) -> list[int]:
        """Lengths at which a model was recorded, and, where that is asked, learned the forward direction."""
        return [size for size in LENGTHS if (size, name) in self.full
                and not (judged and (size, name) in self.unlearned)]

    def needs(self, *names: str, sizes: Collection[int] = LENGTHS) -> dict[str, RecordedRun | None]:
        """The runs of models at lengths, for `claims.verify`; None for one that is missing or may not judge."""
        return {f"{name} at L = {size}": self.full[size, name] if size in self.sizes(name) else None
                for name in names for size in sizes}

    def needs_2(self, sizes: Collection[int] = LENGTHS_2) -> dict[str, RecordedRun | None]:
        """`needs` of the encodings of Table 2, in its order."""
        return {name: run for size in sizes for name, run in self.needs(*TABLE_2, sizes=[size]).items()}

    def seeds(self, name: str, sizes: Collection[int] = LENGTHS) -> list[list[int]]:
        """The seeds of one model's runs, by length."""
        return [self.full[size, name]["seeds"] for size in self.sizes(name) if size in sizes]

    def steps(self, size: int, names: Iterable[str]) -> str:
        """How long each of these models was trained, in words."""
        return ", ".join(f"{name} {runs.last_step(self.full[size, name]):,}" for name in names
                         if (size, name) in self.full)

    # What they measured -------------------------------------------------------------------------------------------

    def final(self, key: Key, metric: str, point: int = -1) -> Float[np.ndarray, " seeds"]:
        """One value a seed, at the end of a run or another measured point."""
        return runs.final(self.full[key], metric, point)

    def at_all(
        self, metric: str, point: int = -1, name: str = "RoPE", sizes: Collection[int] = LENGTHS
    ) -> dict[str, Float[np.ndarray, " seeds"]]:
        """One value a seed at every one of these lengths at which the model is judged."""
        return {f"L = {size}": self.final((size, name), metric, point) for size in self.sizes(name) if size in sizes}

    def accuracies(self, name: str, way: str) -> dict[str, Float[np.ndarray, " seeds"]]:
        """Accuracy at the end by length, as in Table 1."""
        return self.at_all(f"{way}_accuracy", name=name)

    def by_encoding(self, way: str) -> dict[str, Float[np.ndarray, " seeds"]]:
        """Accuracy at the end by encoding and length, as in Table 2."""
        return {named(key): self.final(key, f"{way}_accuracy") for key in CELLS_2 if key in self.full}

    def rise(self, metric: str) -> dict[str, Float[np.ndarray, " seeds"]]:
        """The end of training less its start under RoPE, by length."""
        start = self.at_all(metric, 0)
        return {name: end - start[name] for name, end in self.at_all(metric).items()}

    def highest(self, metric: str) -> dict[str, Float[np.ndarray, " seeds"]]:
        """Each seed's highest measured value along training under RoPE, by length."""
        curves = {size: self.full[size, "RoPE"]["curves"][metric] for size in self.sizes("RoPE")}
        return {f"L = {size}": np.array(curve, dtype=float).max(1) for size, curve in curves.items()}

    def at_common_step(self, size: int, *names: str) -> list[Float[np.ndarray, " seeds"]]:
        """Reverse accuracy of models where all have trained equally long: at the last step that all runs reach."""
        return runs.at_common_step("reverse_accuracy", *(self.full[size, name] for name in names))

    def contrasts(self) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        """Every contrast of the two tables whose two runs are recorded: name, values a seed, values a seed."""
        last = lambda size, name, way="reverse": self.final((size, name), f"{way}_accuracy")
        judged, causal = self.sizes("RoPE"), self.sizes("autoregressive")
        for size in judged:
            yield f"RoPE, $L={size}$: reverse → forward", last(size, "RoPE"), last(size, "RoPE", "forward")
        for size in [size for size in judged if size in causal]:
            yield f"reverse, $L={size}$: autoregressive → RoPE", last(size, "autoregressive"), last(size, "RoPE")
        for size, pair in itertools.product(LENGTHS_2, (("RoPE", "learned absolute"), ("RoPE", "ALiBi"))):
            if all((size, name) in self.full for name in pair):
                low, high = self.at_common_step(size, *pair)
                yield f"reverse, $L={size}$: {' → '.join(pair)}", low, high

    def effects(self) -> dict[str, report.EffectSize]:
        """The effect size of every one of `contrasts`."""
        return {name: report.effect(low, high) for name, low, high in self.contrasts()}

    # What is decided by them --------------------------------------------------------------------------------------

    def ordered(self, size: int, names: Sequence[str]) -> bool:
        """Each model's reverse accuracy lies below the next one's by more than either spread; forward is learned."""
        clear = all(high.mean() - low.mean() > max(report.spread(low) or 0, report.spread(high) or 0)
                    for low, high in (self.at_common_step(size, *pair) for pair in itertools.pairwise(names)))
        return bool(clear and all(self.final((size, name), "forward_accuracy").mean() > LEARNED for name in names))

    def gaps(self, size: int) -> dict[str, Any]:
        """Reverse accuracy of each encoding of Table 2 less that of the one before, at the last step of both: points,
        and their bootstrap intervals over seeds."""
        pairs = {f"{low} to {high}": self.at_common_step(size, low, high) for low, high in itertools.pairwise(TABLE_2)
                 if (size, low) in self.full and (size, high) in self.full}
        return {"ours": {name: float(high.mean() - low.mean()) for name, (low, high) in pairs.items()},
                "interval": {name: report.difference_interval(low, high) for name, (low, high) in pairs.items()}}

    def fails_in_reverse(self, name: str, sizes: Sequence[int]) -> bool:
        """Every seed has learned forward (above 95 percent), and answers less than 1 percent in reverse."""
        return all(bool(self.final((size, name), "forward_accuracy").min() > LEARNED
                        and self.final((size, name), "reverse_accuracy").max() < 1) for size in sizes)

    def correlates(self, name: str, limit: float = 0.5) -> bool:
        """At every length the interval of the mean over seeds lies above a limit."""
        return all(report.bootstrap_interval(each)[0] > limit for each in self.at_all(name).values())

    def both_ways(self, name: str) -> dict[str, tuple[Float[np.ndarray, " seeds"], ...]]:
        """Reverse and forward accuracy of one model, by length, as `lib.record.evidence.told_effects` takes them."""
        return {f"L = {size}": tuple(self.final((size, name), f"{way}_accuracy") for way in reversed(DIRECTIONS))
                for size in self.sizes(name)}

    def below(self, name: str) -> dict[int, report.EffectSize]:
        """Forward over reverse accuracy of one model, at every length at which it is judged."""
        return {size: report.effect(*pair) for size, pair in zip(
            self.sizes(name), self.both_ways(name).values(), strict=True)}

    def attention(self, point: int = -1) -> dict[str, Float[np.ndarray, " seeds"]]:
        """Attention weight on the evidence under RoPE in multiples of 1/L, by length and direction."""
        return {f"L = {size}, {way}": self.final((size, "RoPE"), f"{way}_attention", point) * size
                for size in self.sizes("RoPE") for way in DIRECTIONS}

    def least_attention(self, point: int = -1) -> float:
        """Least attention weight on the evidence of any seed, length and direction under RoPE, in multiples of 1/L."""
        return min(float(each.min()) for each in self.attention(point).values())

    def aligned(self, name: str, sizes: Sequence[int], margin: float) -> bool:
        """In every seed at these lengths the gradient cosine is positive, and this much above that of other facts."""
        return all(bool((self.final((size, name), "gradient_cosine") > np.maximum(
            0, self.final((size, name), "gradient_cosine_mismatched") + margin)).all()) for size in sizes)

    # In tables ----------------------------------------------------------------------------------------------------

    def accuracy_table(self) -> str:
        """A row a cell and way: model, query, the paper's value, ours, steps."""
        return report.markdown(
            ["model", "query", "paper (%)", "ours (%)", "steps"],
            [[titled(key), way, paper_value(key, way), report.cell(runs.final(run, f"{way}_accuracy")),
              f"{runs.last_step(run):,}"] for key, run in self.full.items() for way in DIRECTIONS])

    def error_table(self) -> str:
        """What is wrong in reverse, a row a cell: accuracy among letters of the target's case, placeholder's share."""
        return report.markdown(
            ["model", "right (%)", "right among letters (%)", "errors that are `0` (%)", "steps"],
            [[titled(key), *(report.cell(runs.final(run, f"reverse_accuracy{rest}")) for rest in ("", "_lowercase")),
              _placeholders(run), f"{runs.last_step(run):,}"] for key, run in self.full.items()])

    def effect_table(self) -> str:
        """A row a contrast; a p of .05 or more is in bold: the seeds leave that contrast open."""
        found = self.effects()
        return report.markdown(
            ["contrast, first → second", "seeds", "difference (points; 95 % interval)", "Hedges' g", "second larger",
             "p"],
            [[name, f"{len(low)}, {len(high)}", *_described(found[name])] for name, low, high in self.contrasts()])

    def stopping_table(self) -> str:
        """Reverse accuracy under RoPE, a row a length: the paper's, each seed's highest, and at the end."""
        paper, highest = printed("RoPE", "reverse"), self.highest("reverse_accuracy")
        return report.markdown(
            ["RoPE", "paper (%)", "highest of each seed (%)", "end of the run (%)"],
            [[f"${name}$", f"{paper[name]:.1f}", report.cell(highest[name]), report.cell(last)]
             for name, last in self.accuracies("RoPE", "reverse").items()])

    def route_table(self) -> str:
        """Score correlation and attention on the evidence in reverse under RoPE, before and after training."""
        metrics = ("score_correlation", "reverse_attention")
        found = [self.at_all(metric, point) for metric in metrics for point in (0, -1)]
        return report.markdown(
            ["RoPE", "correlation before", "after", "reverse attention before", "after", "uniform"],
            [[f"${name}$", *(report.cell(column[name], 2) for column in found), f"{1 / size:.3f}"]
             for size, name in zip(self.sizes("RoPE"), found[0], strict=True)])

    def cosine_table(self) -> str:
        """Gradient cosines at the end of training, by length, of the same and of other facts."""
        columns = [self.at_all(f"gradient_cosine{rest}", name=name)
                   for name in ("RoPE", "autoregressive") for rest in ("", "_mismatched")]
        cell = lambda column, name: report.cell(column[name], 3) if name in column else "–"
        return report.markdown(
            ["", "RoPE, same fact", "different facts", "autoregressive, same fact", "different facts"],
            [[f"${name}$", *(cell(column, name) for column in columns)] for name in columns[0]])


def named(key: Key) -> str:
    """A cell in words."""
    return f"{key[1]}, L = {key[0]}"


def titled(key: Key) -> str:
    """A cell in words, its length as mathematics."""
    return f"{key[1]}, $L={key[0]}$"


def _described(found: report.EffectSize) -> list[str]:
    large = "no spread" if np.isinf(found.standardised) else f"{found.standardised:.1f}"
    level = f"{found.p:.2g}" if found.p < 0.05 else f"**{found.p:.2g}**"
    return [report.signed(found, 1), large, f"{100 * found.superiority:.0f} %", level]


def _placeholders(run: RecordedRun) -> str:
    shares = runs.wrong_as_placeholder(run)
    return report.cell(shares) if len(shares) else "no errors"
