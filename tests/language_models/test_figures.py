"""Figures and tables hold the numbers they are given, where a reader looks for them."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from lib.language_models import (
    fact_signatures,
    figures,
    first_layer_scores,
    queries,
    random_checkpoints,
    synthetic_facts,
    table_7,
    tables,
    traced_run,
)
from lib.language_models.facts import DATASETS
from lib.language_models.miniature_results import RecordedCells
from lib.record import provenance

torch.set_num_threads(1)
WORLD = synthetic_facts.world(3).p2c
BOTH = {"forward": np.array([90.0, 100.0]), "reverse": np.array([10.0, 20.0])}
NONE = {"forward": np.zeros(0), "reverse": np.zeros(0)}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def probed(tmp_path_factory):
    base = tmp_path_factory.mktemp("probed")
    return {name: fact_signatures.probe(random_checkpoints.tiny(base / name, name, width=32, heads=4, layers=3), WORLD)
            for name in ("llada", "llama")}


def drawn(axes, color):
    """Data of the lines of one colour."""
    return [np.asarray(line.get_ydata()).tolist() for line in axes.get_lines() if line.get_color() == color]


def test_signatures_layer_by_layer(probed):
    assert not probed["llada"].causal and probed["llama"].causal
    found = figures.score_correlation_by_layer(probed).axes
    mean = np.nanmean(probed["llada"].found.correlation(), 1)
    assert mean.tolist() in drawn(found[0], figures.LINES["rope"]["color"])
    other = np.nanmean(probed["llada"].found.correlation(False), 1)
    assert other.tolist() in drawn(found[0], figures.LINES["control"]["color"]) and not np.allclose(mean, other)
    cosines = figures.gradient_cosine_by_layer(probed).axes[1]
    by_layer = probed["llama"].found.cosines_by_layer(True)
    assert drawn(cosines, figures.LINES["rope"]["color"])[0] == pytest.approx([by_layer[n].mean() for n in range(3)])
    assert fact_signatures.mean_cosines(probed)["llama"] == probed["llama"].found.cosines().mean()
    assert fact_signatures.mean_correlations(probed)["llada"] == pytest.approx(mean.mean())


def test_mismatched_scores_are_those_of_the_next_fact(probed):
    found = probed["llada"].found
    gaps = len(fact_signatures.GAPS)
    head = np.corrcoef(found.scores_forward[:, 1, 2], np.roll(found.scores_reverse[:, 1, 2], -gaps))[0, 1]
    assert found.correlation(False)[1, 2] == pytest.approx(head)
    assert found.correlation(True)[1, 2] == pytest.approx(
        np.corrcoef(found.scores_forward[:, 1, 2], found.scores_reverse[:, 1, 2])[0, 1])


def test_the_first_layer_beside_its_prediction(probed):
    model, tokenizer, _ = probed["llada"]
    found = first_layer_scores.first_layer(model, tokenizer.mask_token_id, (1, 5), evidence=50)
    assert found.shape == (2, 2, 4)
    (points, _), = [figures.first_layer_correlations({"LLaDA": found}).axes[0].get_lines()]
    assert points.get_ydata().tolist() == found[:, 0].ravel().tolist()
    assert points.get_xdata().tolist() == found[:, 1].ravel().tolist()
    exact = np.repeat(found[:, 1:], 2, 1)
    assert first_layer_scores.first_layer_agrees(exact)
    assert not first_layer_scores.first_layer_agrees(exact - 0.3, turning=False)
    assert not first_layer_scores.first_layer_agrees(np.stack([exact[:, 0] + 0.2, exact[:, 1]], 1))


def test_traced_runs():
    runs = {name: provenance.load(provenance.RECORDED / "traced_runs" / f"{name}.json") for name in ("llada", "llama")}
    panel = figures.traced_probabilities(runs).axes[0]
    medians = np.median(runs["llada"]["curves"]["probability_reverse"], 0).tolist()
    assert medians in drawn(panel, figures.LINES["reverse"]["color"])
    figure = figures.cosine_by_matrix(runs["llada"])
    first = figure.axes[1].get_lines()[0].get_xdata().tolist()
    assert first == runs["llada"]["metrics"]["cosine_adapters_matched"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()][:2] == ["together", "query"]
    means = traced_run.cosines_over_seeds(runs["llada"])
    assert means["weights, matched"].tolist() == runs["llada"]["metrics"]["cosine_weights_matched"]
    assert means["weights, routing"] == pytest.approx(np.mean(runs["llada"]["curves"]["weights_matched"], 1, where=[
        True, True, *[False] * 5]))


def test_accuracies_stand_where_they_belong():
    figure = figures.accuracies_by_architecture({"LLaDA": BOTH, "Llama": NONE}, masked=1)
    assert drawn(figure.axes[0], figures.LINES["forward"]["color"]) == [[90, 100]]
    assert "not\nrecorded" in [text.get_text() for text in figure.axes[0].texts]
    rows = {"standard": BOTH, "changed": NONE}
    figure = figures.changed_conditions({"LLaDA": rows}, {name: [np.array([0.5]), np.zeros(0)] for name in "abc"})
    assert figure.axes[0].get_lines()[1].get_xdata().tolist() == [10, 20]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(rows)
    assert len(figures.accuracies_by_dataset({"a": {"p2c": BOTH}, "b": {"p2c": BOTH}}).axes) == 2
    assert figures.accuracies_by_start({1000: rows, 100: rows}).axes[0].get_title() == "1,000 masked steps"
    losses = figures.losses_by_stage({"pretraining": [3.0, 2.0], "finetuning": [1.0]})
    assert drawn(losses.axes[0], figures.LINES["forward"]["color"]) == [[3.0, 2.0]]
    front = figures.what_carries_reverse_recall({"one": rows, "two": rows}).axes
    assert front[0].get_lines()[0].get_xdata().tolist() == [10, 20] and front[1].get_title() == "two"
    ours = np.full((len(DATASETS), len(table_7.MODELS), 2), np.nan)
    ours[:, 0] = 50.0
    panels = figures.table_7_accuracies(ours).axes
    assert [panel.get_xlabel() for panel in panels] == ["", *["ours: not run here"] * 4]


def test_tables(probed):
    first = tables.query_table(WORLD, 2).splitlines()[2]
    assert first.startswith(f"| {WORLD.facts[0].left} | {queries.LEAD} [M]")
    evidence = tables.evidence_table(probed, WORLD).splitlines()
    assert evidence[3].startswith("| llama | 0.000 | ") and " | 0 | " in evidence[3] and " | 0 | " not in evidence[2]
    costs = list(provenance.results("scale", provenance.RECORDED))
    assert "not run here" in tables.cost_table(costs) and "3,268,549,632" in tables.cost_table(costs)
    assert "| rank | 16 |" in tables.finetuning_protocol_table()
    sizes = tables.miniature_sizes()
    assert sizes["llada"] == sizes["llama"] and "LLaDA 467,584" in tables.standard_cell_table(sizes)


def test_tables_of_recorded_cells():
    cells = RecordedCells(provenance.RECORDED)
    reverse = cells.metric("reverse_accuracy").mean()
    assert f"| all weights, replay | {reverse:.0f} (" in tables.masking_table(cells)
    assert f"/ {reverse:.0f} (5) |" in tables.kinds_table(cells).splitlines()[2]
    cells.results.clear()
    assert tables.kinds_table(cells).count("not recorded") == 25


@pytest.mark.parametrize(("model", "direction", "value", "collapse"), [
    (0, 0, 0.0, True), (2, 0, 40.0, False), (3, 1, 30.0, False)])
def test_the_collapse_of_causal_models_and_a_whole_sweep(model, direction, value, collapse):
    ours = np.broadcast_to([90.0, 5.0], (len(DATASETS), len(table_7.MODELS), 2)).copy()
    ours[1, model, direction] = value
    assert table_7.causal_models_collapse(ours) == collapse
    three = [provenance.Result({}, Path("run.json"))] * 3
    there = {(dataset, name): three for dataset in DATASETS for name in table_7.MODELS}
    assert table_7.complete(there)
    there.popitem()
    assert not table_7.complete(there)
