"""The rule on synthetic cells whose law is known, and its contexts against single questions."""

import itertools

import numpy as np
import pytest
import torch

from lib.one_layer import prediction, task
from lib.one_layer.ensemble import Ensemble
from lib.one_layer.model import ModelConfig
from lib.one_layer.task import MASK, PLACEHOLDER

torch.set_num_threads(1)


def synthetic(count=300, noise=0.0, seed=0):
    """Cells in which reverse accuracy is a logistic curve of `a` alone."""
    draw = np.random.default_rng(seed)
    a, b = draw.normal(size=(2, count))
    reverse = 100 / (1 + np.exp(-(0.5 + 2 * a + noise * draw.normal(size=count))))
    lengths = draw.choice([10, 20, 30], size=count)
    return [{"a": x, "b": y, "reverse": r, "length": int(size)}
            for x, y, r, size in zip(a, b, reverse, lengths, strict=True)]


def test_fit_finds_the_law():
    cells = synthetic()
    rule = prediction.fit(cells, ["a", "b"], ridge=1e-9)
    assert rule.intercept - rule.weights @ (rule.centre / rule.scale) == pytest.approx(0.5, abs=1e-3)
    assert (rule.weights / rule.scale).tolist() == pytest.approx([2, 0], abs=1e-3)
    assert rule.predict(cells) == pytest.approx([cell["reverse"] for cell in cells], abs=1e-2)


def test_held_out_beats_the_mean_where_there_is_a_law_and_not_where_there_is_none():
    lawful = prediction.leave_group_out(synthetic(noise=0.3), "length", ["a", "b"])
    assert lawful.error < 0.3 * lawful.baseline_error
    cells = synthetic()
    draw = np.random.default_rng(1)
    shuffled = draw.permutation([cell["reverse"] for cell in cells])
    lawless = prediction.leave_group_out([cell | {"reverse": r} for cell, r in zip(cells, shuffled, strict=True)],
                                  "length", ["a", "b"])
    assert lawless.error > 0.95 * lawless.baseline_error


def test_nothing_of_the_left_out_group_is_seen():
    cells = synthetic()
    spoiled = [cell | {"reverse": 100.0} if cell["length"] == 30 else cell for cell in cells]
    one, two = (prediction.leave_group_out(each, "length", ["a"]) for each in (cells, spoiled))
    left = np.array(one.group) == 30
    assert (one.predicted[left] == two.predicted[left]).all() and (one.baseline[left] == two.baseline[left]).all()
    assert (one.predicted[~left] != two.predicted[~left]).any()


def test_a_prediction_that_needs_no_fit_is_tested_as_it_is():
    cells = [cell | {"additive_share": cell["reverse"] + 3} for cell in synthetic(60)]
    tested = prediction.leave_group_out(cells, "length", "additive_share")
    assert tested.error == pytest.approx(3) and sorted(tested.predicted - 3) == pytest.approx(sorted(tested.reverse))
    fitted = prediction.leave_group_out(cells, "length", ["a"])
    assert tested.baseline_error == fitted.baseline_error > 10


def test_extreme_shares_stay_finite():
    cells = [{"a": float(x), "reverse": 100.0 * (x > 0)} for x in np.linspace(-1, 1, 20)]
    rule = prediction.fit(cells, ["a"])
    assert np.isfinite(rule.weights).all()
    assert rule.predict([{"a": -1.0}])[0] < 10 < 90 < rule.predict([{"a": 1.0}])[0]


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="none to fit on"):
        prediction.fit([], ["a"])
    with pytest.raises(ValueError, match="feature 'c' is in no cell"):
        prediction.fit(synthetic(5), ["c"])
    with pytest.raises(ValueError, match="by 'b0': all cells agree"):
        prediction.leave_group_out([cell | {"b0": 1} for cell in synthetic(5)], "b0", ["a"])
    causal = Ensemble.from_seeds(ModelConfig(length=4, width=8, causal=True), [0])
    with pytest.raises(ValueError, match="masked models"):
        prediction.features(causal)


def test_contexts_are_masked_training_sequences():
    letter, places = torch.tensor([3, 5]), torch.tensor([[0, 2, 3], [1, 2, 4]])
    show = lambda shown: [task.spell(row) for row in prediction.context(letter, places, shown, 5)]
    assert show("_0D") == ["_00D0", "0_00F"] and show("0D_") == ["00D_0", "00F0_"]
    assert show("dD_") == ["d0D_0", "0fF0_"] and show("_D_") == ["_0D_0", "0_F0_"]
    draw = np.random.default_rng(0)
    trained = {task.spell(row) for row in task.sequences(20_000, 5, draw)}

    def fits(masked):
        return any(all(m in ("_", t) for m, t in zip(masked, text, strict=True)) for text in trained)

    for name, asked in prediction._SHOWN.items():
        for shown, _ in asked:
            assert all(fits(text) for text in show(shown)) == (name != "reverse"), name


def test_features_are_margins_of_the_plain_model():
    made = Ensemble.from_seeds(ModelConfig(length=5, width=8), [0, 1])
    made.parameters.add_(0.5 * torch.randn(made.parameters.shape, generator=torch.Generator().manual_seed(0)))
    found = prediction.features(made, samples=40)
    letter, places = prediction._places(5, 40)
    model, margins = made.member(1), {name: [] for name in prediction.CONTEXTS}
    for name, asked in prediction._SHOWN.items():
        for row in range(40):
            each = []
            for shown, columns in asked:
                tokens = prediction.context(letter[row : row + 1], places[row : row + 1], shown, 5)
                for column in columns:
                    place = places[row, column]
                    assert tokens[0, place] == MASK
                    logits = model(tokens).logits[0, place].detach()
                    each.append(float(logits[letter[row]] - logits[PLACEHOLDER]))
            margins[name].append(np.mean(each))
        assert found[f"{name}_margin"][1] == pytest.approx(np.mean(margins[name]), abs=1e-4)
    additive = np.array(margins["right"]) + np.array(margins["forward"]) - np.array(margins["pair"])
    assert found["additive_margin"][1] == pytest.approx(additive.mean(), abs=1e-4)
    assert found["additive_share"][1] == pytest.approx(100 * (additive > 0).mean(), abs=1e-4)
    assert found["right_share"][1] == pytest.approx(100 * (np.array(margins["right"]) > 0).mean(), abs=1e-4)
    assert len({found[name][1] for name in ("additive_share", "right_share")}) == 2


def test_every_rule_is_compared_and_hard_cells_are_judged_apart():
    draw = np.random.default_rng(0)
    features = lambda: {name: float(draw.normal()) for name in (*prediction.FEATURES, "log_step")}
    made = [{"seed": seed, "encoding": kind, "length": size, "reverse": float(100 * draw.random()), **features()}
            for seed, kind, size in itertools.product(range(3), ("rope", "t5"), (10, 20))]
    for each in made:
        each["additive_share"] = each["reverse"] + 2
    found = prediction.compare_rules(made)
    assert set(found) == set(itertools.product(prediction.GROUPS, prediction.PREDICTION_RULES))
    exact = found["seed", prediction.ADDITIVE]
    assert exact.error == pytest.approx(2) and len(exact.reverse) == 12
    assert len(found["length", prediction.ADDITIVE].reverse) == 6  # under RoPE alone
    short = [each for each in made if each["length"] == 10]
    assert {by for by, _ in prediction.compare_rules(short)} == {"encoding", "seed"}
    some = [each["reverse"] for each in made if 30 <= each["reverse"] <= 60]
    rule, constant = exact.between(30.0, 60.0).values()
    assert rule == pytest.approx(2) and constant == pytest.approx(np.abs(np.array(some) - np.mean(some)).mean())
    assert np.isnan(list(exact.between(101.0, 102.0).values())).all()


def test_cells_are_points_where_forward_is_learned():
    curves = {name: [[0.0, 1.0, 2.0]] for name in (*prediction.FEATURES, "reverse_margin", "loss")}
    curves |= {"steps": [1, 50, 100], "standard_forward": [[10, 95, 100]], "standard_reverse": [[0, 7, 8]]}
    result = {"parameters": {"length": 4, "encoding": "rope"}, "seeds": [9], "curves": curves}
    found = prediction.learned_cells([result])
    assert [(cell["step"], cell["reverse"], cell["seed"], cell["seen_margin"]) for cell in found] == [
        (50, 7, 9, 1.0), (100, 8, 9, 2.0)]
    older = result | {"curves": {name: curve for name, curve in curves.items() if name != "right_share"}}
    assert prediction.learned_cells([older, result]) == found


def test_both_masks_left_of_the_capital_are_asked():
    asked = lambda name: sorted((shown, column) for shown, columns in prediction._SHOWN[name] for column in columns)
    assert asked("pair") == [("__D", 0), ("__D", 1)] and asked("forward") == [("0_D", 1), ("_0D", 0)]


def test_right_alone_is_its_own_share():
    cells = [{**dict.fromkeys((*prediction.FEATURES, "log_step"), float(i % 7)), "reverse": float(i), "seed": i % 2,
              "encoding": "rope", "length": 10, "right_share": i + 5.0, "additive_share": i + 2.0} for i in range(20)]
    assert prediction.compare_rules(cells)["seed", prediction.RIGHT].error == pytest.approx(5)


def test_tables_of_rules_and_cells():
    cells = [{**dict.fromkeys((*prediction.FEATURES, "log_step"), float(i % 7)), "reverse": 5.0 * i, "seed": i % 2,
              "encoding": "rope", "length": 10, "additive_share": 5 * i + 2.0, "reverse_margin": i % 7 - 1.0}
             for i in range(21)]
    tested = prediction.compare_rules(cells)
    lines = prediction.error_table(tested).splitlines()
    assert lines[0] == "| mean absolute error (points) | left out: one seed | between 5 and 95 %, one seed left out |"
    assert lines[3] == "| additive rule, no parameter | 2.0 | 2.0 |"
    assert prediction.cell_table(cells).splitlines()[-1] == "| rope, L = 10 | 2 | 21 | 19 | +1.0 | +2.0 |"
    assert len(prediction.error_table({}).splitlines()) == 2 + 1 + len(prediction.PREDICTION_RULES)
    assert tested["seed", prediction.ADDITIVE].scope == "21 cells; left out in turn: 0, 1"


def models_of_two_kinds(seeds=6):
    """Cells whose reverse accuracy is the seed's own; at length 20 it is nothing in every seed."""
    return [{"encoding": "rope", "length": size, "seed": seed, "step": step, "right_share": 0.0,
             "reverse": 16.0 * seed if size == 10 else 0.0, "additive_share": 16.0 * seed + 2 if size == 10 else 1.0}
            for size, seed, step in itertools.product((10, 20), range(seeds), (500, 1000))]


def test_no_constant_sees_the_model_that_it_predicts():
    cells = models_of_two_kinds()
    spoiled = [cell | {"reverse": 100.0} if (cell["length"], cell["seed"]) == (10, 3) else cell for cell in cells]
    one, two = (prediction.baselines(each) for each in (cells, spoiled))
    mine = np.array([(cell["length"], cell["seed"]) == (10, 3) for cell in cells])
    assert all((one[name][mine] == two[name][mine]).all() for name in one)
    assert (one[prediction.MEAN][~mine] != two[prediction.MEAN][~mine]).all() and not one[prediction.ZERO].any()
    others = [16.0 * seed for seed in range(6) if seed != 3]
    assert one[prediction.SEEDS][mine] == pytest.approx(np.mean(others))
    with pytest.raises(ValueError, match="cells of two models, not of 1"):
        prediction.baselines(cells[:2])


def test_other_seeds_are_those_of_the_same_step_where_there_are_any():
    cells = models_of_two_kinds(2)
    cells[0]["step"], cells[3]["reverse"] = 77, 50.0  # (10, seed 0) alone at its step; (10, seed 1) at step 1000
    assert prediction.baselines(cells)[prediction.SEEDS][:2] == pytest.approx([(16 + 50) / 2, 50])


def test_a_rule_is_held_against_constants_with_intervals_over_seeds():
    found = prediction.Comparison.of(models_of_two_kinds())
    assert found.error(prediction.ADDITIVE).points == pytest.approx(1.5)
    assert found.advantage(prediction.ADDITIVE, prediction.ZERO).points == pytest.approx((40 + 0) / 2 - 1.5)
    assert found.advantage(prediction.EXCHANGED, prediction.MEAN).interval[0] < 0
    hard = found.inside((5.0, 95.0))
    assert len(hard.reverse) == 10 and hard.error(prediction.ADDITIVE) == (2, pytest.approx((2, 2)))
    low, high = hard.advantage(prediction.ADDITIVE, prediction.SEEDS).interval
    assert low < hard.advantage(prediction.ADDITIVE, prediction.SEEDS).points < high
    assert found.not_beaten(over=[prediction.ZERO]) == ["rope, L = 20, predicting zero"]
    assert list(found.by_kind()) == ["rope, L = 10", "rope, L = 20"]
    told = hard.told(prediction.ADDITIVE, prediction.ZERO)
    assert told["ours"]["errs less by"] == pytest.approx(told["ours"][prediction.ZERO] - 2)
    assert set(told["interval"]) == set(told["ours"])


def test_all_cells_of_a_seed_are_resampled_together():
    values, seed = np.array([0.0] * 50 + [10.0] * 50), np.repeat([0, 1], 50)
    assert prediction.error_over_seeds(values, seed).interval == (0, 10)  # two units, not a hundred
    assert prediction.error_over_seeds(values, np.arange(100)).interval[0] > 3


def test_errors_of_rules_have_intervals():
    cells = [{**cell, **dict.fromkeys((*prediction.FEATURES, "log_step"), float(place % 7)),
              "additive_share": cell["additive_share"]} for place, cell in enumerate(models_of_two_kinds())]
    tested = prediction.compare_rules(cells)["seed", prediction.ADDITIVE]
    for limits in ((0.0, 100.0), (5.0, 95.0)):
        ours = tested.errors() if limits[0] == 0 else tested.between(*limits)
        assert all(low <= ours[name] <= high for name, (low, high) in tested.intervals(*limits).items())


def test_tables_of_constants():
    found = prediction.Comparison.of(models_of_two_kinds())
    lines = prediction.comparison_table(found).splitlines()
    assert len(lines) == 2 + len(found.off) and "all cells (24): error" in lines[0]
    by_kind = prediction.comparison_by_kind_table(found).splitlines()
    assert by_kind[3].startswith("| rope, L = 20 | 12 | 1.0 (1.0 to 1.0) |")
