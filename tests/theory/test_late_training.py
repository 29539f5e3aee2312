"""What forward-only training converges to: the closed form against a solver, descent and the flow."""

import itertools

import numpy as np
import pytest
import torch
from least_norm import least_norm

from lib.theory import late_training, late_training_proofs, separators
from lib.theory.late_training import Separator, Task, reverse_limit_with_placeholder, solve_flow
from lib.theory.storage import descend

# The closed form ----------------------------------------------------------------------------------------------

TASKS = [Task(0.5, 0.3, 2), Task(0.5, 0.1, 5), Task(0.3, 0.5, 4), Task(1.0, 0.4, 3), Task(0.2, 1.0, 6),
         Task(0.9, 0.8, 5)]


@pytest.mark.parametrize("task", [*TASKS, *late_training_proofs.random_tasks(6, 6, 11, least_gap=0.03)], ids=str)
def test_closed_form_is_the_least_norm(task):
    features, targets, _ = task.prompts()
    wanted = least_norm(features, targets, task.facts + 1)
    assert np.abs(Separator(task).storage - wanted).max() < 1e-7 * np.abs(wanted).max()


@pytest.mark.parametrize("task", TASKS, ids=str)
def test_multipliers_build_the_separator(task):
    """W as the sum of every constraint's gradient times its multiplier, written out for all facts."""
    found, count = Separator(task), task.facts
    p, q, r = found.multipliers
    assert min(p, r) > 0 and q >= 0
    storage, (features, _, _) = np.zeros((count + 1, count + 1)), task.prompts()
    unit = np.eye(count + 1)
    for fact in range(count):
        forward, placeholder = features[fact], features[count + fact]
        storage += p * np.outer(unit[fact] - unit[-1], forward) + r * np.outer(unit[-1] - unit[fact], placeholder)
        storage += sum(q * np.outer(unit[fact] - unit[j], forward) for j in range(count) if j != fact)
    assert np.allclose(storage, found.storage, rtol=1e-12, atol=1e-12)


def test_inner_products_of_constraints_are_those_written_out():
    """`late_training_proofs._overlap` at three facts, against the constraints' gradients themselves."""
    task = late_training_proofs.SymbolicTask()
    at = {late_training_proofs._LOW: 3, late_training_proofs._DELTA: 2, late_training_proofs._SPARE: 5,
          late_training_proofs._FACTS: 1}
    plus, minus, count = float(task.alpha_plus.subs(at)), float(task.alpha_minus.subs(at)), 3
    unit, gradients = np.eye(count + 1), {"forward": [], "letters": [], "placeholder": []}
    for fact in range(count):
        forward, placeholder = (alpha * unit[fact] + (1 - alpha) * unit[-1] for alpha in (plus, minus))
        gradients["forward"].append(np.outer(unit[fact] - unit[-1], forward))
        gradients["placeholder"].append(np.outer(unit[-1] - unit[fact], placeholder))
        gradients["letters"] += [np.outer(unit[fact] - unit[j], forward) for j in range(count) if j != fact]
    for one, other in itertools.product(gradients, repeat=2):
        wanted = (gradients[one][0] * sum(gradients[other])).sum()
        assert float(late_training_proofs._overlap(one, other, task, count).subs(at)) == pytest.approx(wanted)


@pytest.mark.parametrize("letters_bind, placeholder_above", [(False, False), (True, False), (True, True)])
def test_symbolic_and_numeric_closed_form_agree(letters_bind, placeholder_above):
    low, delta, spare = (0.3, 0.1, 0.6) if not letters_bind else (0.2, 0.5, 0.3)
    task = late_training_proofs.SymbolicTask(placeholder_above)
    at = {late_training_proofs._LOW: low, late_training_proofs._DELTA: delta, late_training_proofs._SPARE: spare,
          late_training_proofs._FACTS: 2}
    found = Separator(Task(float(task.alpha_plus.subs(at)), float(task.alpha_minus.subs(at)), 4))
    symbolic = [float(part.subs(at)) for part in late_training_proofs.closed_form(task, letters_bind)]
    assert symbolic == pytest.approx([found.u, found.x, found.y, *found.multipliers], abs=1e-12)


# Limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "limit", "threshold"), [
    ((0.5, 0.3, 0.45, 26), 1, 0.4), ((0.5, 0.3, 0.35, 26), 0, 0.4), ((0.3, 0.5, 0.45, 26), 0, 0.4),
    ((0.3, 0.5, 0.35, 26), 1, 0.4), ((1.0, 0.5, 0.8, 2), 1, 0.75), ((0.4, 0.4, 0.4, 5), 0.5, 0.4),
    ((0.4, 0.4, 0.5, 5), 1, 0.4), ((0.4, 0.4, 0.3, 5), 0, 0.4), ((0.5, None, 0.01, 2), 1, np.nan),
    ((1, 1, 0.5, 5), 0.5, np.nan),
])
def test_limits(arguments, limit, threshold):
    assert reverse_limit_with_placeholder(*arguments) == pytest.approx((limit, threshold), nan_ok=True)


def test_limits_that_depend_on_the_share():
    assert reverse_limit_with_placeholder(0.4, 0.4, 0.4, 5, forward_share=0.7)[0] == 0.7
    assert reverse_limit_with_placeholder(1, 1, 1, 5, forward_share=0.7)[0] == pytest.approx(0.7)
    middle = [reverse_limit_with_placeholder(0.5, 0.3, 0.4, 26, forward_share=share)[0] for share in (0.2, 0.5, 0.8)]
    assert 0 < middle[0] < middle[1] < middle[2] < 1


@pytest.mark.parametrize("task", [Task(0.5, 0.3, 26), Task(0.3, 0.5, 7, 0.2), Task(0.7, 0.2, 5, 0.6),
                                  Task(1.0, 0.5, 3)], ids=str)
def test_midpoint_limit_and_rate_against_the_flow(task):
    flow = solve_flow(task, 600.0)
    limit, threshold = reverse_limit_with_placeholder(
        task.alpha_plus, task.alpha_minus, task.midpoint, task.facts, forward_share=task.forward_share)
    assert threshold == task.midpoint
    assert flow.probability(task.midpoint)[-1] == pytest.approx(limit, abs=1e-6)
    distance = (flow.threshold[-1] - task.midpoint) * flow.log_time[-1]
    assert distance == pytest.approx(task.gap * Separator(task).lag / 4, rel=0.02)


@pytest.mark.parametrize("task", [Task(0.5, 0.3, 4, 0.3), Task(0.3, 0.6, 3), Task(0.4, 0.4, 3, 0.7)], ids=str)
def test_flow_against_small_steps(task):
    """The three equations against descent on the whole of W."""
    features, targets, weights = task.prompts()
    flow = solve_flow(task, 3.0, 31)
    for place in (10, 20):
        time = np.expm1(flow.log_time[place])
        steps = round(time / 2e-3)
        storage = descend(np.zeros((task.facts + 1,) * 2), features, targets, time / steps, steps, weights=weights)[-1]
        found = [storage[0, 0] - storage[1, 0], storage[0, 0] - storage[-1, 0], storage[0, -1] - storage[-1, -1]]
        assert found == pytest.approx([flow.u[place], flow.x[place], flow.y[place]], rel=2e-3, abs=2e-3)


def test_midpoint_limit_from_a_random_start_by_descent():
    """The limit on the midpoint is the same for every fact and start."""
    task = Task(1.0, 0.5, 2, 0.3)
    limit, _ = reverse_limit_with_placeholder(1.0, 0.5, 0.75, 2, forward_share=0.3)
    found = late_training_proofs.answers(late_training_proofs.descended(task, 10_000, 0), 0.75)
    assert found == pytest.approx([limit, limit], abs=0.03)


@pytest.mark.parametrize(("change", "named"), [
    ({"alpha_plus": 0}, "alpha_plus"), ({"alpha_plus": 1.2}, "alpha_plus"), ({"alpha_minus": -0.1}, "alpha_minus"),
    ({"alpha_minus": float("nan")}, "alpha_minus"), ({"alpha_reverse": 0}, "alpha_reverse"), ({"facts": 1}, "facts"),
    ({"facts": 2.5}, "facts"), ({"forward_share": 0}, "forward_share"), ({"forward_share": 1}, "forward_share"),
])
def test_bad_arguments_are_refused_by_name(change, named):
    arguments = {"alpha_plus": 0.5, "alpha_minus": 0.3, "alpha_reverse": 0.4, "facts": 3} | change
    with pytest.raises(ValueError, match=named):
        reverse_limit_with_placeholder(**arguments)


def test_bad_arguments_are_refused_without_placeholder_prompts_too():
    for bad in ((0, None, 0.5, 3), (0.5, None, 0, 3), (0.5, None, 0.5, 1)):
        with pytest.raises(ValueError):
            reverse_limit_with_placeholder(*bad)
    with pytest.raises(ValueError, match="must differ"):
        Separator(Task(0.5, 0.5, 3))


# Steps of the proofs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("letters_bind", "placeholder_above"), [(False, False), (True, False), (True, True)])
def test_optimality_conditions(letters_bind, placeholder_above):
    assert late_training_proofs.separator_is_optimal(letters_bind, placeholder_above)
    assert late_training_proofs.multipliers_are_rates(letters_bind, placeholder_above)
    if letters_bind:
        assert not late_training_proofs.separator_is_optimal(letters_bind, placeholder_above, competing_letters=False)


def test_the_other_identities():
    assert late_training_proofs.freed_is_optimal() and not late_training_proofs.freed_is_optimal(False)
    assert late_training_proofs.start_speed() and not late_training_proofs.start_speed(False)
    assert late_training_proofs.equal_attention_ties() and not late_training_proofs.equal_attention_ties(False)


def test_without_placeholder_prompts_the_solver_finds_the_stated_form():
    alpha, count = 0.6, 4
    features = torch.from_numpy(late_training.fact_features(alpha, count))
    found = separators.separator(features, torch.arange(count), count + 1).numpy()
    push = 1 / (alpha**2 + count * (1 - alpha) ** 2)
    stated = [1 / alpha, ((count - 1) / alpha + push * alpha) / count, push * (1 - alpha)]
    got = [found[0, 0] - found[1, 0], found[0, 0] - found[-1, 0], found[0, -1] - found[-1, -1]]
    assert got == pytest.approx(stated, abs=1e-6)


def test_the_solved_lead_is_one_on_either_side_of_the_threshold():
    kinds = [late_training_proofs.Kind(0.7, 1.0), late_training_proofs.Kind(0.3, 0.0)]
    leads = late_training_proofs.solved_lead(kinds, 4, (0.7, 0.3, 0.0, 1.0))
    assert leads == pytest.approx([1, -1, -2.5, 2.5], abs=1e-6)


def test_a_line_through_two_log_odds_crosses_zero_where_it_should():
    """From log odds -log 3 at attention .2 to 2 log 3 at .5."""
    low, high = late_training_proofs.Kind(0.2, 1 / 4), late_training_proofs.Kind(0.5, 9 / 10)
    assert late_training_proofs.interpolated_zero(low, high) == pytest.approx(0.3)


def test_random_tasks_have_a_gap():
    tasks = late_training_proofs.random_tasks(60, 5, 0, least_gap=0.3)
    assert len(tasks) == 60 and {task.facts for task in tasks} == {2, 3, 4, 5}
    assert all(abs(task.alpha_plus - task.alpha_minus) > 0.3 for task in tasks)


def test_descent_takes_as_many_steps_as_it_is_told():
    task = Task(0.7, 0.3, 3)
    features, targets, weights = task.prompts()
    eta = 2 / float(weights @ (features**2).sum(1))
    path = descend(np.zeros((4, 4)), features, targets, eta, 2000, weights=weights)
    assert late_training_proofs.descended(task, 2000, 0, scale=0.0) == pytest.approx(path[-1], rel=1e-9)
    assert path[-1] != pytest.approx(path[-2], rel=1e-6)
