"""Reverse accuracy predicted from questions that are no reverse queries.

A reverse query ``0D0_`` never occurs in training, nor do the predictors show one: they are margins (the target's logit
minus the placeholder's) at masks of *masked training sequences*, the lowercase letter left of its capital. For three
positions p < q < r, with ``.`` for placeholders in between:

* ``forward``: ``_ 0 D`` and ``0 _ D``, asked at the mask;
* ``pair``: ``_ _ D``, asked at either mask: what a second mask costs;
* ``right``: ``_ D _``, asked at r: a mask to the right of a visible capital, the letter not shown. In training the
  answer there is always the placeholder;
* ``seen``: ``d D _``, asked at r: the same with the letter shown.

The *additive rule* carries one effect over to the other side: showing a placeholder instead of the second mask changes
the right mask's margin as it changes the left mask's, reverse = right + (forward - pair). It has no parameter, and
neither has its first term alone; the predicted accuracy is the share of questions where the sum is positive. `fit`
tries to do better: a logistic curve from some of the features to reverse accuracy, fitted on some runs and tested on
others. `leave_group_out` tests either against predicting the mean of the other runs; `Comparison` holds a rule against
predicting zero, the mean of all other models, and the mean of the other seeds at the same encoding, length and step,
with intervals over seeds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from lib.one_layer.ensemble import Ensemble
from lib.one_layer.task import LETTERS, MASK, PLACEHOLDER
from lib.record.report import markdown, resampled_interval

CONTEXTS = ("forward", "pair", "right", "seen", "reverse")
SAMPLES = 1500
#: the predictors: everything but the reverse context itself, which is kept to see how far the additive rule is off
FEATURES = ("forward_margin", "pair_margin", "right_margin", "seen_margin", "additive_margin", "additive_share",
            "right_share")
ADDITIVE, RIGHT, STEP = "additive rule, no parameter", "*right* alone, no parameter", "the training step, fitted"
#: rule -> the features that it is fitted on, or the one that is the prediction itself
PREDICTION_RULES: dict[str, str | tuple[str, ...]] = {
    ADDITIVE: "additive_share", RIGHT: "right_share", STEP: ("log_step",),
    "margins of the forward side, fitted": ("forward_margin", "pair_margin"),
    "margins right of the capital, fitted": ("right_margin", "seen_margin"),
    "all four margins, fitted": ("forward_margin", "pair_margin", "right_margin", "seen_margin"),
    "additive margin, fitted": ("additive_margin",),
}
GROUPS = ("length", "encoding", "seed")


# Features -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def features(ensemble: Ensemble, samples: int = SAMPLES) -> dict[str, list[float]]:
    """Mean margin in each of `CONTEXTS`, the additive rule's, and the share of positive margins (percent) of that rule
    and of ``right`` alone.

    One value a member, over random facts and positions; the sample is the same for every model of one length.

    :raises ValueError: for causal models and for lengths below 3, which have no such contexts
    """
    length = ensemble.settings.length
    if ensemble.settings.causal or length < 3:
        raise ValueError(f"features: masked models of length at least 3, not length {length}")
    letter, places = _places(length, samples)
    margin = {name: _margins(ensemble, letter, places, name) for name in CONTEXTS}
    additive = margin["right"] + margin["forward"] - margin["pair"]
    found = {f"{name}_margin": values.mean(1).tolist() for name, values in margin.items()}
    found["additive_margin"] = additive.mean(1).tolist()
    for name, margins in (("additive", additive), ("right", margin["right"])):
        found[f"{name}_share"] = ((margins > 0).double().mean(1) * 100).tolist()
    return found


def _places(length: int, samples: int) -> tuple[Int[Tensor, " samples"], Int[Tensor, "samples 3"]]:
    rng = np.random.default_rng(length)
    places = np.sort(rng.random((samples, length)).argsort(1)[:, :3], axis=1)
    return torch.as_tensor(rng.integers(LETTERS, size=samples)), torch.as_tensor(places)


#: context -> what stands at p, q, r (d, D, _ or 0) and the places that are asked
_SHOWN = {
    "forward": (("_0D", (0,)), ("0_D", (1,))),
    "pair": (("__D", (0,)), ("__D", (1,))),
    "right": (("_D_", (2,)),),
    "seen": (("dD_", (2,)),),
    "reverse": (("0D_", (2,)),),
}


def context(
    letter: Int[Tensor, " samples"], places: Int[Tensor, "samples 3"], shown: str, length: int
) -> Int[Tensor, "samples length"]:
    """Sequences of placeholders with the three symbols of ``shown`` at the three places."""
    tokens = torch.full((len(letter), length), PLACEHOLDER)
    symbols = {"d": letter, "D": letter + LETTERS, "_": torch.full_like(letter, MASK),
               "0": torch.full_like(letter, PLACEHOLDER)}
    for column, symbol in enumerate(shown):
        tokens[torch.arange(len(letter)), places[:, column]] = symbols[symbol]
    return tokens


def _margins(ensemble: Ensemble, letter: Tensor, places: Tensor, name: str) -> Float[Tensor, "members samples"]:
    """Target's logit minus the placeholder's, mean over the places that the context asks."""
    samples, length = len(letter), ensemble.settings.length
    margins = []
    for shown, columns in _SHOWN[name]:
        tokens = context(letter, places, shown, length).expand(len(ensemble), -1, -1)
        for column in columns:
            rows = (torch.arange(samples) * length + places[:, column]).expand(len(ensemble), -1)
            logits = ensemble.logits(tokens, rows)
            margins.append(logits[:, torch.arange(samples), letter] - logits[..., PLACEHOLDER])
    return torch.stack(margins).mean(0)


# The rule -----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Rule:
    """accuracy = 100 / (1 + exp(-(intercept + weights . standardised features)))."""

    names: tuple[str, ...]
    centre: Float[np.ndarray, " features"]
    scale: Float[np.ndarray, " features"]
    intercept: float
    weights: Float[np.ndarray, " features"]

    def predict(self, cells: Sequence[Mapping[str, Any]]) -> Float[np.ndarray, " cells"]:
        """Reverse accuracy in percent."""
        x = (_matrix(cells, self.names) - self.centre) / self.scale
        return np.asarray(100 / (1 + np.exp(-np.clip(self.intercept + x @ self.weights, -30, 30))))


def fit(cells: Sequence[Mapping[str, Any]], names: Sequence[str], ridge: float = 1e-2) -> Rule:
    """Logistic regression of reverse accuracy (as a share) on features, by Newton's method.

    :param cells: each with the features and ``reverse``, in percent
    :param ridge: penalty on squared weights, relative to the number of cells
    :raises ValueError: without cells, or for a feature that they lack
    """
    if not cells:
        raise ValueError("cells: none to fit on")
    x, share = _matrix(cells, names), np.array([cell["reverse"] for cell in cells]) / 100
    centre, scale = x.mean(0), x.std(0) + 1e-9
    design = np.column_stack([np.ones(len(x)), (x - centre) / scale])
    penalty = ridge * len(x) * np.diag([1e-6, *np.ones(len(names))])
    beta = np.zeros(design.shape[1])
    for _ in range(100):
        said = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
        slope = design.T @ (share - said) - penalty @ beta
        curvature = (design * (said * (1 - said))[:, None]).T @ design + penalty
        step = np.linalg.solve(curvature + 1e-9 * np.eye(len(beta)), slope)
        beta += step * min(1.0, 2 / (np.abs(step).max() + 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    return Rule(tuple(names), centre, scale, float(beta[0]), beta[1:])


def _matrix(cells: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Float[np.ndarray, "cells features"]:
    for name in names:
        if name not in cells[0]:
            raise ValueError(f"feature {name!r} is in no cell; a cell has {', '.join(sorted(cells[0]))}")
    return np.array([[cell[name] for name in names] for cell in cells], dtype=float).reshape(len(cells), len(names))


class Error(NamedTuple):
    """Mean absolute error in points, and its interval over seeds."""

    points: float
    interval: tuple[float, float]

    def __str__(self) -> str:
        return f"{self.points:.1f} ({self.interval[0]:.1f} to {self.interval[1]:.1f})"


def error_over_seeds(values: Float[np.ndarray, " cells"], seed: Shaped[np.ndarray, " cells"]) -> Error:
    """Mean over cells, and its interval: resampled seeds bring all their cells."""
    by_seed = np.array([(values[seed == one].sum(), (seed == one).sum()) for one in np.unique(seed)])
    mean = lambda drawn: drawn[:, 0].sum() / drawn[:, 1].sum()
    return Error(float(values.mean()), resampled_interval(mean, by_seed))


@dataclasses.dataclass(frozen=True)
class HeldOutPredictions:
    """Predictions of cells that the rule was not fitted on; all in percent, errors in points."""

    reverse: Float[np.ndarray, " cells"]
    predicted: Float[np.ndarray, " cells"]
    baseline: Float[np.ndarray, " cells"]  # the mean of the cells that the rule was fitted on
    group: tuple[Any, ...]
    seed: tuple[Any, ...]  # of each cell's model, the unit of intervals

    @property
    def scope(self) -> str:
        """How many cells there are, and the values that were left out in turn."""
        return f"{len(self.reverse)} cells; left out in turn: {', '.join(map(str, sorted(set(self.group))))}"

    @property
    def error(self) -> float:
        """Mean absolute error of the rule."""
        return float(np.abs(self.predicted - self.reverse).mean())

    @property
    def baseline_error(self) -> float:
        """Mean absolute error of predicting the mean."""
        return float(np.abs(self.baseline - self.reverse).mean())

    def errors(self) -> dict[str, float]:
        """Errors of the rule and of predicting the mean."""
        return {"rule": self.error, "mean": self.baseline_error}

    def intervals(self, low: float = 0.0, high: float = 100.0) -> dict[str, tuple[float, float]]:
        """Of these errors, or on the cells between two accuracies those of `between`: resampled seeds bring all their
        cells."""
        some = (self.reverse >= low) & (self.reverse <= high)
        constant = self.baseline if some.all() else np.full(len(some), self.reverse[some].mean())
        off = {"rule": self.predicted - self.reverse, "mean": constant - self.reverse}
        return {name: error_over_seeds(np.abs(each[some]), np.array(self.seed)[some]).interval
                for name, each in off.items()}

    def between(self, low: float = 5.0, high: float = 95.0) -> dict[str, float]:
        """Errors of the rule and of these cells' own mean on the cells between two accuracies; nan without any."""
        some = (self.reverse >= low) & (self.reverse <= high)
        if not some.any():
            return {"rule": np.nan, "mean": np.nan}
        reverse = self.reverse[some]
        return {"rule": float(np.abs(self.predicted[some] - reverse).mean()),
                "mean": float(np.abs(reverse.mean() - reverse).mean())}


def leave_group_out(cells: Sequence[Mapping[str, Any]], by: str, names: Sequence[str] | str) -> HeldOutPredictions:
    """Leave out all cells with one value of ``by``, fit on the rest, predict them; for every value in turn.

    :param names: the features to fit on; or the name of one that is the prediction itself, in percent, without a fit
    :raises ValueError: if all cells agree in ``by``: nothing would be left to fit on
    """
    groups = sorted({cell[by] for cell in cells})
    if len(groups) < 2:
        raise ValueError(f"by {by!r}: all cells agree in it ({groups}); leaving one value out needs two")
    tested: list[tuple[float, float, float, Any, Any]] = []
    for group in groups:
        others, left_out = ([cell for cell in cells if (cell[by] == group) is same] for same in (False, True))
        mean = float(np.mean([cell["reverse"] for cell in others]))
        predicted = _matrix(left_out, [names])[:, 0] if isinstance(names, str) else fit(others, names).predict(left_out)
        tested += [(cell["reverse"], value, mean, group, cell.get("seed"))
                   for cell, value in zip(left_out, predicted, strict=True)]
    reverse, said, baseline, group_of, seed = zip(*tested, strict=True)
    return HeldOutPredictions(np.array(reverse), np.array(said), np.array(baseline), tuple(group_of), tuple(seed))


def compare_rules(cells: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], HeldOutPredictions]:
    """Every rule of `PREDICTION_RULES`, tested by leaving out one value of each of `GROUPS`, where there are two.

    Lengths are compared under RoPE alone, the one encoding that is recorded at all of them.
    """
    found: dict[tuple[str, str], HeldOutPredictions] = {}
    for by in GROUPS:
        some = [each for each in cells if each["encoding"] == "rope"] if by == "length" else cells
        if len({each[by] for each in some}) > 1:
            found |= {(by, name): leave_group_out(some, by, names) for name, names in PREDICTION_RULES.items()}
    return found


def learned_cells(results: Sequence[Mapping[str, Any]], learned: float = 90.0) -> list[dict[str, Any]]:
    """One cell a run, member and measured point at which forward accuracy is at least ``learned`` percent.

    :param results: of `lib.one_layer.evaluation`; one that was measured before a feature existed is left out
    """
    found = []
    for result in [each for each in results if set(FEATURES) <= set(each["curves"])]:
        parameters, curves = result["parameters"], result["curves"]
        for member, forward in enumerate(curves["standard_forward"]):
            for point, value in enumerate(forward):
                if value >= learned:
                    cell = {name: curves[name][member][point] for name in (*FEATURES, "reverse_margin")}
                    cell |= {"reverse": curves["standard_reverse"][member][point], "step": curves["steps"][point],
                             "log_step": float(np.log(curves["steps"][point])), "seed": result["seeds"][member],
                             "length": parameters["length"], "encoding": parameters["encoding"], "forward": value,
                             "loss": curves["loss"][member][point]}
                    found.append(cell)
    return found


# Against constants ------------------------------------------------------------------------------------------------

ZERO, MEAN, SEEDS = "predicting zero", "predicting the mean of all other models", "predicting the mean of other seeds"
EXCHANGED = "the additive rule's predictions, exchanged among the cells"  # the control
#: which cells -> lowest and highest reverse accuracy, percent
RANGES = {"all cells": (0.0, 100.0), "between 5 and 95 %": (5.0, 95.0)}


def baselines(cells: Sequence[Mapping[str, Any]]) -> dict[str, Float[np.ndarray, " cells"]]:
    """What predictions without margins say of each cell, percent; none of them sees the model that it predicts.

    `ZERO`; `MEAN`, of all cells of other models; `SEEDS`, of cells of other models at the same encoding, length and
    step, or, where there is none, at the same encoding and length.

    :raises ValueError: for a single model: nothing would be left to take the mean of
    """
    reverse = np.array([cell["reverse"] for cell in cells], dtype=float)
    columns = (np.array([kind_of(cell) for cell in cells]), *(np.array([cell[name] for cell in cells])
                                                              for name in ("seed", "step")))
    kind, seed, step = (column[:, None] == column for column in columns)  # cells x cells: do they agree in it
    if (kind & seed).all():
        raise ValueError("baselines: needs cells of two models, not of 1")
    others = ~(kind & seed)
    mean = lambda *choices: np.array([next(reverse[some].mean() for some in rows if some.any())
                                      for rows in zip(*choices, strict=True)])
    return {ZERO: np.zeros(len(cells)), MEAN: mean(others), SEEDS: mean(others & kind & step, others & kind, others)}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Rules without a parameter beside constants, on the same cells.

    A seed is the unit: all cells of models with one seed are drawn together, whatever their encoding, length and step.
    """

    off: Mapping[str, Float[np.ndarray, " cells"]]  # prediction -> absolute error, points
    reverse: Float[np.ndarray, " cells"]  # percent
    seed: Int[np.ndarray, " cells"]
    kind: Shaped[np.ndarray, " cells"]  # encoding and length, in words

    @classmethod
    def of(cls, cells: Sequence[Mapping[str, Any]]) -> Comparison:
        """The additive rule, *right* alone, `baselines` and, as a control, the rule's predictions of other cells."""
        reverse = np.array([cell["reverse"] for cell in cells], dtype=float)
        said = {name: _matrix(cells, [str(PREDICTION_RULES[name])])[:, 0] for name in (ADDITIVE, RIGHT)}
        said[EXCHANGED] = np.random.default_rng(0).permutation(said[ADDITIVE])
        return cls({name: np.abs(values - reverse) for name, values in (said | baselines(cells)).items()}, reverse,
                   np.array([cell["seed"] for cell in cells]), np.array([kind_of(cell) for cell in cells]))

    def where(self, some: Bool[np.ndarray, " cells"]) -> Comparison:
        """Some of the cells; what was predicted of them stays."""
        return Comparison({name: each[some] for name, each in self.off.items()}, self.reverse[some], self.seed[some],
                          self.kind[some])

    def inside(self, limits: tuple[float, float]) -> Comparison:
        """The cells whose reverse accuracy lies between two limits, both included."""
        return self.where((self.reverse >= limits[0]) & (self.reverse <= limits[1]))

    def by_kind(self) -> dict[str, Comparison]:
        """The cells of each encoding and length."""
        return {str(kind): self.where(self.kind == kind) for kind in np.unique(self.kind)}

    def not_beaten(self, name: str = ADDITIVE, over: Sequence[str] = (ZERO, MEAN, SEEDS)) -> list[str]:
        """Encodings and lengths, each with a constant, where the rule's advantage has an interval that reaches zero."""
        return [f"{kind}, {other}" for kind, part in self.by_kind().items() for other in over
                if part.advantage(name, other).interval[0] <= 0]

    def error(self, name: str) -> Error:
        """Mean absolute error of a prediction."""
        return error_over_seeds(self.off[name], self.seed)

    def advantage(self, name: str, over: str) -> Error:
        """By how much a prediction errs less than another, on the same cells; negative where it errs more."""
        return error_over_seeds(self.off[over] - self.off[name], self.seed)

    def told(self, name: str, over: str) -> dict[str, dict[str, Any]]:
        """What `claims.verify` is told: both errors and the difference, each with its interval."""
        found = {name: self.error(name), over: self.error(over), "errs less by": self.advantage(name, over)}
        return {"ours": {words: each.points for words, each in found.items()},
                "interval": {words: each.interval for words, each in found.items()}}


def comparison_table(found: Comparison) -> str:
    """Mean absolute error of every prediction, and by how much the additive rule errs less, in each range."""
    parts = {words: found.inside(limits) for words, limits in RANGES.items()}
    ahead = lambda part, name: "–" if name == ADDITIVE else str(part.advantage(ADDITIVE, name))
    heads = [words for name, part in parts.items() for words in (
        f"{name} ({len(part.reverse)}): error", "additive rule errs less by")]
    return markdown(["mean absolute error (points)", *heads],
                    [[name, *(text for part in parts.values() for text in (str(part.error(name)), ahead(part, name)))]
                     for name in found.off])


def comparison_by_kind_table(found: Comparison) -> str:
    """The additive rule's error and by how much it errs less than each constant, a row an encoding and length."""
    return markdown(["encoding and length", "cells", "additive rule: error", *(f"less than {name} by" for name in (
                        ZERO, MEAN, SEEDS))],
                    [[kind, str(len(part.reverse)), str(part.error(ADDITIVE)),
                      *(str(part.advantage(ADDITIVE, name)) for name in (ZERO, MEAN, SEEDS))]
                     for kind, part in found.by_kind().items()])


def kind_of(cell: Mapping[str, Any]) -> str:
    """Encoding and length of a cell, in words."""
    return f"{cell['encoding'].replace('_', ' ')}, L = {cell['length']}"


# In tables --------------------------------------------------------------------------------------------------------


def error_table(tested: Mapping[tuple[str, str], HeldOutPredictions]) -> str:
    """Mean absolute error of every rule, a column a kind of group left out; the last is between 5 and 95 percent."""
    groups = [by for by in GROUPS if (by, ADDITIVE) in tested]
    errors = {name: {by: tested[by, name].errors() for by in groups} for name in PREDICTION_RULES}
    between = {name: tested["seed", name].between() for name in PREDICTION_RULES if "seed" in groups}
    row = lambda name, which: [*(f"{found[which]:.1f}" for found in errors[name].values()),
                               *(f"{found[which]:.1f}" for rule, found in between.items() if rule == name)]
    return markdown(["mean absolute error (points)", *(f"left out: one {by}" for by in groups),
                     *(["between 5 and 95 %, one seed left out"] if between else [])],
                    [["predict the mean", *row(ADDITIVE, "mean")], *([name, *row(name, "rule")] for name in errors)])


def cell_table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Where cells come from, and the additive rule's mean error with its sign, a row an encoding and length."""
    kinds = sorted({(cell["encoding"], cell["length"]) for cell in cells})
    return markdown(["encoding and length", "models", "cells", "between 5 and 95 %",
                     "margin, predicted − measured (nats)", "accuracy, predicted − measured (points)"],
                    [_kind_row(cells, *kind) for kind in kinds])


def _kind_row(cells: Sequence[Mapping[str, Any]], encoding: str, length: int) -> list[str]:
    mine = [cell for cell in cells if (cell["encoding"], cell["length"]) == (encoding, length)]
    off = lambda name, measured: float(np.mean([cell[name] - cell[measured] for cell in mine]))
    return [kind_of(mine[0]), str(len({cell["seed"] for cell in mine})), str(len(mine)),
            str(sum(5 <= cell["reverse"] <= 95 for cell in mine)), f"{off('additive_margin', 'reverse_margin'):+.1f}",
            f"{off('additive_share', 'reverse'):+.1f}"]
