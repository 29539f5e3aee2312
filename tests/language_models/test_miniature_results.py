"""Checks of recorded cells: each is true of cells made to satisfy it, and false once a single seed does not."""

from pathlib import Path

import numpy as np
import pytest

from lib.language_models import miniature_results as results
from lib.language_models.facts import DATASETS
from lib.language_models.miniature_cell import MiniatureConfig, parameters_of
from lib.language_models.miniature_results import RecordedCells
from lib.record.provenance import Result

GOOD = {"forward_accuracy": 100.0, "reverse_accuracy": 60.0, "kept_accuracy": 90.0, "cosine_matched": 0.8,
        "cosine_mismatched": 0.0, "cosine_right": 0.01}
LOST = {**GOOD, "reverse_accuracy": 100 / 30}  # one fact of thirty


def cell(seed=0, values=GOOD, **changed):
    config = MiniatureConfig(seed=seed, **changed)
    return Result({"parameters": parameters_of(config), "seeds": [seed],
                   "metrics": {name: [value] for name, value in values.items()}}, Path("cell.json"))


def cells_of(*cells):
    found = RecordedCells.__new__(RecordedCells)
    found.results = list(cells)
    return found


def test_a_metric_has_one_value_a_seed_in_their_order():
    cells = cells_of(cell(1, {**GOOD, "reverse_accuracy": 20.0}), cell(0), cell(2, masking="response"))
    assert list(cells.find()) == [0, 1] and cells.metric("reverse_accuracy").tolist() == [60, 20]
    assert cells.metric("gap").tolist() == [40, 80]
    assert cells.accuracies(masking="response")["forward"].tolist() == [100]
    assert cells.together("reverse_accuracy", ["llada", "dream"]).tolist() == [60, 20]
    with pytest.raises(ValueError, match="no 'size'"):
        cells.metric("reverse_accuracy", size=3)


def test_what_a_check_needs_names_the_condition_that_is_missing():
    cells = cells_of(cell(0), cell(1))
    assert cells.needed({}) == {f"the standard cell, seed {seed}": cells.results[seed] for seed in (0, 1)}
    assert cells.needed({"masking": "response"}) == {"masking response": None}


def test_evidence_holds_results_means_intervals_and_seeds():
    cells = cells_of(*(cell(seed, {**GOOD, "reverse_accuracy": 50.0 + seed}) for seed in range(5)))
    shown = cells.evidence({"a": ("reverse_accuracy", {}), "b": ("reverse_accuracy", {"masking": "response"})},
                           {"tuning": "lora"})
    assert len(shown["needs"]) == 7
    assert [name for name, run in shown["needs"].items() if run is None] == ["masking response", "tuning lora"]
    assert shown["ours"]() == {"a": 52.0} and shown["seeds"] == [(0, 1, 2, 3, 4)]
    low, high = shown["interval"]()["a"]
    assert 50 <= low < 52 < high <= 54


@pytest.mark.parametrize(("values", "words"), [
    ([], "not recorded"), ([50.0, 83.4], "67 (50 to 83)"), ([-0.4, 0.2], "0 (0 to 0)")])
def test_mean_and_range(values, words):
    assert results.mean_and_range(np.array(values)) == words


def test_masked_models_above_causal_ones():
    masked = [cell(seed, architecture=name) for name in ("llada", "dream") for seed in (0, 1)]
    causal = [cell(0, LOST, architecture=name) for name in ("llama", "qwen2", "qwen3_5")]
    assert results.masked_above_causal(cells_of(*masked, *causal))
    assert not results.masked_above_causal(cells_of(*masked, *causal), direction="forward")
    assert not results.masked_above_causal(cells_of(*masked, cell(2, LOST), *causal))
    two_facts = {**LOST, "reverse_accuracy": 200 / 30}
    assert not results.masked_above_causal(cells_of(*masked, *causal, cell(1, two_facts, architecture="llama")))


def test_learning_forward_alone_holds_in_every_seed():
    cells = cells_of(cell(0, LOST), cell(1, {**LOST, "forward_accuracy": 70.0}))
    assert results.learns_forward_alone(cells, [{}], 70.0) and not results.learns_forward_alone(cells, [{}])
    assert not results.learns_forward_alone(cells_of(cell(0, LOST), cell(1)), [{}])


def test_masking_decides_in_every_way_of_fine_tuning():
    made = [cell(0, LOST if masking == "response" else GOOD, **{**way, "masking": masking})
            for way in results.WAYS.values() for masking in ("any", "response")]
    assert results.masking_decides(cells_of(*made), "response", "any")
    assert not results.masking_decides(cells_of(*made), "any", "any")
    assert not results.masking_decides(cells_of(*made), "response", "response")


def test_comparisons_with_the_standard_cell_are_over_shared_seeds():
    alone = {**GOOD, "reverse_accuracy": 10.0, "kept_accuracy": 30.0}
    adapted = cell(0, {**GOOD, "reverse_accuracy": 50.0}, **results.CONDITIONS["adapters"])
    cells = cells_of(cell(0), cell(1, alone), cell(0, alone, replay=0.0), adapted)
    assert results.beside_standard(cells, "kept_accuracy", {"replay": 0.0}) == (30, 90)
    assert np.isnan(results.beside_standard(cells, "kept_accuracy", {"masking": "response"})).all()
    assert results.forgets(cells, {"replay": 0.0}) and not results.forgets(cells, {})
    assert results.needs_replay(cells, {"replay": 0.0}) and not results.needs_replay(cells, {})


def test_alignment_and_kinds():
    causal = {**LOST, "cosine_matched": 0.2}
    cells = cells_of(*(cell(0, dataset=dataset) for dataset in DATASETS),
                     *(cell(0, causal, architecture="llama", dataset=dataset) for dataset in DATASETS))
    assert results.aligns_for_one_target(cells, "llada") and not results.aligns_for_one_target(cells, "llama")
    assert results.recalls_every_kind(cells, "llada") and not results.recalls_every_kind(cells, "llama")


def test_the_gap_of_an_autoregressive_start():
    others = {results.ALONE: 40.0, results.LONGER: 20.0}
    begun = dict.fromkeys(results.STARTS, 45.0) | {results.FIRST_STEPS: 80.0}
    gaps = {steps: {results.BEGUN: gap, **others} for steps, gap in begun.items()}
    cells = cells_of(*(cell(seed, {**GOOD, "reverse_accuracy": 100 - gap + seed}, **results.start(steps, name))
                       for steps, starts in gaps.items() for name, gap in starts.items() for seed in (0, 1)))
    assert results.start_leaves_gap(cells, results.FIRST_STEPS)
    assert results.gap_worn_off(cells, results.LATER_STEPS) and not results.gap_worn_off(cells, [results.FIRST_STEPS])
    assert results.start_effects(cells, results.ALONE).startswith("+40 (p = 0.33), +5")
