"""Two figures to play with: one query of a trained model taken apart, and two queries along its training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lib.one_layer import task
from lib.one_layer.kept_models import accuracies_along_training, centred_pairs, read_queries
from lib.one_layer.model import Transformer
from lib.one_layer.token_account import NORM_EPSILON, token_account
from lib.record.figures import LINES
from lib.record.interactive import Interactive, Slider, Value, interactive_figure, with_decimals

FACT = 3  # d, the letter that figures begin with
NUMBERS = 3000  # scores that a page carries, and weights along training: fewer letters or distances at greater lengths
_ALONG = {"weight": "attention weight on the capital", "letter": "probability of the letter",
          "placeholder": "probability of the placeholder"}
_ACCOUNT = ("scores", "own", "readout", "gram", "bias")
_HERE = Path(__file__).parent
_BLOCK = ["score of each token", "attention weight of each token", "contribution of each token to the logit difference",
          "probability of letter, placeholder and all else"]


def storage_routing(model: Transformer) -> Interactive:
    """Score, weight, contribution and answer of any query of one trained model; see `token_account`.

    :raises ValueError: for a model whose logits are not sums over tokens
    """
    length = model.settings.length
    account = token_account(model, max(FACT + 1, min(task.LETTERS, NUMBERS // length**2 - 1)))
    mask = (length - 1) // 2
    pairs = [f"{task.ALPHABET[letter]}, {task.ALPHABET[letter + task.LETTERS]}" for letter in range(account.letters)]
    sliders = [Slider("letter", "fact: letter, capital", range(account.letters), FACT, pairs),
               Slider("mask", "position of the mask", range(length), mask),
               Slider("place", "position of the capital", range(length - 1), length - 2)]
    values = [Value("score", "score of the capital", 2), Value("weight", "its attention weight"),
              Value("contribution", "its contribution", 2), Value("margin", "logit difference", 2),
              Value("letter", "probability of the letter"), Value("placeholder", "of the placeholder"),
              Value("answer", "answer")]
    given = {name: with_decimals(getattr(account, name).tolist(), 8) for name in _ACCOUNT}
    return interactive_figure(
        "storage-routing", "Storage and routing in a trained model", _HERE / "storage_routing.js", sliders=sliders,
        values=values, panels=_BLOCK, height=9, still=_still_query(model, mask),
        given=given | {"epsilon": NORM_EPSILON, "placeholder": task.PLACEHOLDER, "alphabet": task.ALPHABET},
        alt="Scores, attention weights and contributions to the logit difference of letter and placeholder, token by "
            "token, for a forward and a reverse query of one trained model.",
        caption="One layer, one head, no MLP, so that the contributions add up to the logit difference of the letter "
                "and the placeholder. <i>rest</i> is the mask's own embedding and the bias.")


def _still_query(model: Transformer, mask: int) -> Figure:
    figure, panels = plt.subplots(2, 3, figsize=(7.2, 4.2), sharey="col")
    labels = {"scores": "score", "weights": "attention weight", "contributions": "contribution (nats)"}
    length, account = model.settings.length, token_account(model, FACT + 1)
    for row, way, evidence in zip(panels, task.DIRECTIONS, (length - 1, 0), strict=True):
        found = account.answer(FACT, mask, evidence)
        for axes, (name, label) in zip(row, labels.items(), strict=True):
            tokens, heights = ["0"] * length, [*getattr(found, name)]
            if name == "contributions":
                tokens, heights = [*tokens, "rest"], [*heights, found.rest]
            bars = axes.bar(range(len(tokens)), heights, color="#999999")
            bars[evidence].set_color(LINES[way]["color"])
            tokens[mask], tokens[evidence] = "_", task.ALPHABET[FACT + task.LETTERS]
            axes.set_xticks(range(len(tokens)), tokens)
            axes.set_title(f"{way}, {name}", fontsize=9)
            axes.set_ylabel(label, fontsize=8)
    return figure


def training_scrubber(models: Mapping[int, Transformer]) -> Interactive:
    """Attention distribution and predictions of a forward and a reverse query at kept steps of one training run.

    :param models: by training step, in rising order; see `kept_models.models_along_training`
    :raises ValueError: for no models
    """
    if not models:
        raise ValueError("models: none was kept; `models_along_training` keeps some")
    steps, length, graded = [*models], next(iter(models.values())).settings.length, accuracies_along_training(models)
    count = max(1, NUMBERS // (2 * len(steps) * length))
    distances = sorted({round(float(d)) for d in np.linspace(1, length - 1, min(count, length - 1))})
    sliders = [Slider("step", "training step", steps, steps[int(np.argmax(graded["reverse"]))]),
               Slider("distance", "distance of the capital", distances, distances[len(distances) // 2])]
    values = [Value(f"{way}_{name}", f"{way}: {label}")
              for way in task.DIRECTIONS for name, label in _ALONG.items()]
    given = _readings(models, distances, graded)
    given |= {"steps": steps, "distances": distances, "letter": task.ALPHABET[FACT]}
    return interactive_figure(
        "along-training", "Two queries along training", _HERE / "along_training.js", sliders=sliders, values=values,
        panels=["attention weights of the forward query", "attention weights of the reverse query", "predictions",
                "forward and reverse accuracy along training"],
        height=9, still=_still_training(steps, graded), given=given,
        alt="Forward and reverse accuracy of one model along training, in percent, against the training step.",
        caption="The same model at kept steps. Its reverse queries are mirror images of its forward queries. Accuracy: "
                "forward a line, reverse dashed.")


def _readings(
    models: Mapping[int, Transformer], distances: list[int], graded: Mapping[str, list[float]]
) -> dict[str, Any]:
    """By direction: queries, position of the capital, weights and probabilities by step and distance, accuracy."""
    length, found = next(iter(models.values())).settings.length, dict[str, Any]()
    for way, asked in zip(task.DIRECTIONS, centred_pairs(length, FACT, distances), strict=True):
        readings = [read_queries(model, asked) for model in models.values()]
        found[way] = {"queries": [task.spell(row) for row in asked.tokens], "evidence": asked.evidence.tolist(),
                      "accuracy": with_decimals(graded[way], 4)}
        for name in ("weights", "letter", "placeholder"):
            found[way][name] = with_decimals([getattr(reading, name).tolist() for reading in readings], 7)
    return found


def _still_training(steps: list[int], graded: Mapping[str, list[float]]) -> Figure:
    figure, axes = plt.subplots()
    for way, values in graded.items():
        axes.plot([step + 1 for step in steps], values, **LINES[way], label=way)
    axes.set(xscale="log", xlabel="training step plus 1", ylabel="accuracy, percent")
    axes.legend()
    return figure
