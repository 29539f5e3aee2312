"""When training stops, and how near a reading comes to a column."""

import numpy as np
import pytest

from lib.one_layer import stopping
from lib.one_layer.evaluation import PROTOCOLS
from lib.one_layer.stopping import NEAREST, STOPS
from lib.one_layer.task import DIRECTIONS

CURVES = {
    "steps": [0, 1000, 3000],
    "standard_forward": [[0, 97, 100], [0, 50, 96]],
    "standard_reverse": [[0, 60, 20], [0, 30, 40]],
    "raw_forward": [[1, 2, 3], [4, 5, 6]], "raw_reverse": [[1, 2, 3], [4, 5, 6]],
    "loss": [[9, 3, 4], [9, 4, 3]],
}


def test_stopping_rules():
    at = lambda rule: stopping.accuracies_where_stopped(CURVES, rule).tolist()
    assert at("end") == [[100, 20], [96, 40]]
    assert at("step_1000") == [[97, 60], [50, 30]]
    assert at("forward_96") == [[97, 60], [96, 40]]
    assert at("least_loss") == [[97, 60], [96, 40]]
    assert at("best_reverse") == [[97, 60], [96, 40]]
    assert stopping.accuracies_where_stopped(CURVES, "end", "raw").tolist() == [[3, 3], [6, 6]]
    # the best point is the protocol's own: the raw weights' is the last, the standard one's is not
    assert stopping.accuracies_where_stopped(CURVES, "best_reverse", "raw").tolist() == [[3, 3], [6, 6]]
    short = CURVES | {"steps": [0, 1000, 1700]}
    assert stopping.accuracies_where_stopped(short, "step_1800") is None
    never = CURVES | {"standard_forward": [[0, 97, 100], [0, 50, 95]]}
    assert stopping.accuracies_where_stopped(never, "forward_96") is None


SEARCHED = {
    "steps": [0, 10, 20, 30],
    "standard_forward": [[0, 92, 99, 100], [0, 90, 95, 97]], "standard_reverse": [[50, 80, 30, 10], [50, 10, 40, 20]],
    "raw_forward": [[0, 99, 99, 99], [0, 10, 20, 89]], "raw_reverse": [[0, 1, 2, 3], [0, 1, 2, 3]],
}


def test_the_nearest_step_is_one_for_all_members_and_has_forward_learned():
    # step 0 would be exact, but forward is not learned there; the mean at step 10 is 45, at step 20 35
    assert stopping.nearest_step(SEARCHED, 50.0).tolist() == [[92, 80], [90, 10]]
    assert stopping.nearest_step(SEARCHED, 50.0, learned=95.0).tolist() == [[99, 30], [95, 40]]
    assert stopping.nearest_step(SEARCHED, 1.0, "raw").tolist() == [[99, 3], [89, 3]]  # means reach 90 once
    assert stopping.nearest_step(SEARCHED, 1.0, learned=100.0) is None


def test_reach_lets_every_member_stop_for_itself():
    assert stopping.reachable_range(SEARCHED) == ((10 + 10) / 2, (80 + 40) / 2)
    assert stopping.reachable_range(SEARCHED, learned=95.0) == ((10 + 20) / 2, (30 + 40) / 2)
    assert stopping.reachable_range(SEARCHED, "raw") == ((1 + 0) / 2, (3 + 3) / 2)  # the second never learns: anywhere


def test_no_rule_comes_nearer_than_the_nearest_step_or_leaves_the_reach():
    draw = np.random.default_rng(0)
    curves = {f"standard_{way}": (100 * draw.random((3, 12))).tolist() for way in DIRECTIONS}
    curves |= {"steps": list(range(12)), "loss": curves["standard_forward"]}
    for wanted in (10.0, 50.0, 90.0):
        found = abs(stopping.nearest_step(curves, wanted, learned=0.0)[:, 1].mean() - wanted)
        every = [abs(np.mean([member[point] for member in curves["standard_reverse"]]) - wanted) for point in range(12)]
        assert found == pytest.approx(min(every))
    low, high = stopping.reachable_range(curves, learned=0.0)
    for rule in stopping.STOPS:
        cell = stopping.accuracies_where_stopped(curves, rule)
        assert cell is None or low <= cell[:, 1].mean() <= high
    assert high == stopping.accuracies_where_stopped(curves, "best_reverse")[:, 1].mean()


def read(seed=0, lengths=(10, 20), members=3, points=6):
    """Curves of every protocol at two lengths; forward is learned from the first point on."""
    draw = np.random.default_rng(seed)
    values = lambda low: (low + (100 - low) * draw.random((members, points))).round(1).tolist()
    low = {"forward": 97, "reverse": 0}
    return {size: {"steps": [0, 500, 1000, 1500, 2000, 2500], "loss": values(0),
                   **{f"{name}_{way}": values(low[way]) for name in PROTOCOLS for way in DIRECTIONS}}
            for size in lengths}


def test_a_miss_is_the_worst_length_and_counts_where_it_stops():
    curves, wanted = read(), {10: 40.0, 20: 60.0}
    found = stopping.distance_to_column(curves, "end", "raw", wanted)
    ends = {size: np.mean([member[-1] for member in curves[size]["raw_reverse"]]) for size in curves}
    assert found == (pytest.approx(max(abs(ends[size] - wanted[size]) for size in wanted)), 2)
    curves[20]["steps"] = [0, 1, 2, 3, 4, 1700]
    assert stopping.distance_to_column(curves, "step_1800", "raw", wanted).lengths == 1
    curves[10]["steps"] = curves[20]["steps"]
    nowhere = stopping.distance_to_column(curves, "step_1800", "raw", wanted)
    assert np.isnan(nowhere.points) and nowhere.lengths == 0
    every = {(name, rule) for name in PROTOCOLS for rule in (*STOPS, NEAREST)}
    assert set(stopping.distances_to_column(curves, wanted)) == every


def test_a_column_that_a_reading_gives_is_found():
    curves = read()
    wanted = {size: float(np.mean([member[-1] for member in each["letters_reverse"]])) for size, each in curves.items()}
    assert not stopping.no_reading_matches(curves, wanted)
    assert stopping.no_reading_matches(curves, dict.fromkeys(wanted, 300.0))
    assert stopping.distance_to_column(curves, "end", "letters", wanted).points == pytest.approx(0)
    assert stopping.shortfall_from_column(curves, wanted)["letters"] == 0
    assert min(stopping.shortfall_from_column(curves, {10: 300.0, 20: 0.0}).values()) > 0
    found = stopping.nearest_reading(curves, wanted)
    assert found.blind == (("letters", "end"), pytest.approx(0)) and found.free[1] == 0
    assert found.told[1] == pytest.approx(0) and found.told[0] == "letters"
    far = stopping.nearest_reading(curves, dict.fromkeys(wanted, 300.0))
    assert min(far.blind[1], far.told[1]) >= far.free[1] > 190


def test_readings_that_stop_somewhere_only_are_not_the_best():
    curves = read()
    curves[20]["steps"] = [0, 1, 2, 3, 4, 5]  # no step near 1,000
    at_1000 = [member[2] for member in curves[10]["standard_reverse"]]
    wanted = {10: float(np.mean(at_1000)), 20: 300.0}
    assert stopping.distance_to_column(curves, "step_1000", "standard", wanted) == (pytest.approx(0), 1)
    assert stopping.nearest_reading(curves, wanted).blind[0][1] != "step_1000"


def test_some_seeds_are_taken_everywhere():
    curves = read()
    some = stopping.select_seeds(curves, slice(1, None, 2))
    assert some[10]["raw_reverse"] == curves[10]["raw_reverse"][1::2] and some[20]["steps"] == curves[20]["steps"]


def test_tables_of_readings():
    curves, wanted = read(), {10: 40.0, 20: 60.0}
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in
            stopping.readings_table(curves, wanted).splitlines()]
    assert rows[0][2] == "reverse, $L=10$ (%; 2,500 steps)" and rows[2] == ["paper", "–", "40.0", "60.0", "–"]
    assert len(rows) == 3 + len(STOPS) + 2 * len(PROTOCOLS) - 1
    ends = np.array([member[-1] for member in curves[10]["standard_reverse"]])
    assert rows[3][0] == "`standard`" and rows[3][2].startswith(f"{ends.mean():.1f} (")
    found = stopping.nearest_reading(curves, wanted)
    last = stopping.nearest_table(curves, wanted).splitlines()[-1]
    assert last.endswith(f"| `{found.free[0]}` | {found.free[1]:.0f} |")
    assert stopping.nearest_table({}, {}) == "" and len(stopping.readings_table({}, {}).splitlines()) == len(rows)


def test_a_column_of_other_seeds_can_be_reached():
    curves = read(members=4)
    half, column = stopping.half_and_column(curves)
    assert [len(each["raw_reverse"]) for each in half.values()] == [2, 2]
    assert column[10] == pytest.approx(np.mean([curves[10]["standard_reverse"][seed][-1] for seed in (1, 3)]))
    assert stopping.no_rule_reaches(curves, {10: 300.0, 20: 0.0}) and not stopping.no_rule_reaches(curves, column)


def test_misses_are_those_of_the_points_with_an_interval_that_holds_them():
    curves, wanted = read(members=6), {10: 300.0, 20: 300.0}
    short = stopping.shortfall_from_column(curves, wanted)
    every = stopping.hindsight_miss(curves, wanted)
    assert every.points == pytest.approx(min(short.values()))
    assert every.interval[0] < every.points < every.interval[1]
    one = stopping.hindsight_miss(curves, wanted, ["raw"])
    assert one.points == pytest.approx(short["raw"]) and one.points >= every.points
    told = stopping.told_distances(curves, wanted)
    assert stopping.one_step_miss(curves, wanted).points == pytest.approx(min(told.values()))
    name = next(iter(told))
    assert stopping.one_step_miss(curves, wanted, [name]).points == pytest.approx(told[name])


def test_a_column_that_can_be_reached_is_missed_by_nothing_and_without_forward_there_is_no_miss():
    curves = read(members=4)
    column = stopping.half_and_column(curves)[1]
    assert stopping.hindsight_miss(curves, column).interval[0] == 0
    assert str(stopping.Miss(1.2, (0.0, 3.6))) == "1 (0 to 4)"
    never = {size: {**each, "raw_forward": [[0.0] * len(each["steps"])] * 4} for size, each in curves.items()}
    assert np.isnan(stopping.one_step_miss(never, column, ["raw"]).points)
    table = stopping.misses_table(never, column).splitlines()
    assert len(table) == 2 + len(PROTOCOLS) and sum("forward not learned" in line for line in table) == 1
    assert set(stopping.ITERATIVE) == {"iterative", "iterative_edge"}
