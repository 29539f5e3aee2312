"""The steps of the proofs on what forward-only training converges to, each as a decision.

By computer algebra for every number of facts and every attention, or by descent, the flow or the convex solver where a
statement is about a limit. Every function is true as the chapter states it; what it takes beyond its data breaks one
hypothesis or changes the formula. Symbols as in `late_training`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import sympy as sp
import torch
from jaxtyping import Float

from lib.theory import symbolic
from lib.theory.late_training import (
    Separator,
    Task,
    fact_features,
    flow_speed,
    reverse_limit_with_placeholder,
    solve_flow,
)
from lib.theory.separators import logit_margins, separator
from lib.theory.storage import descend, prediction
from lib.theory.validation import Number

_LOW, _DELTA, _FACTS = sp.symbols("m delta k", positive=True)
_SPARE = sp.Symbol("s", nonnegative=True)
_HALF = sp.Rational(1, 2)
_SHARE, _ALPHA_R = sp.symbols("sigma a_r", positive=True)

# The separator in closed form ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class SymbolicTask:
    """A `Task` with symbols: the smaller attention is m / (m + delta + s), the gap delta / (m + delta + s), N = k + 2.

    ``s`` may be 0, where the larger attention is 1; ``k`` is positive, and `_positive` decides signs at 0, too.
    """

    placeholder_above: bool = False
    facts: Any = _FACTS + 2
    forward_share: Any = _SHARE

    @property
    def alpha_plus(self) -> sp.Expr:
        return (_LOW if self.placeholder_above else _LOW + _DELTA) / (_LOW + _DELTA + _SPARE)

    @property
    def alpha_minus(self) -> sp.Expr:
        return (_LOW + _DELTA if self.placeholder_above else _LOW) / (_LOW + _DELTA + _SPARE)

    @property
    def gap(self) -> sp.Expr:
        return self.alpha_plus - self.alpha_minus

    @property
    def midpoint(self) -> sp.Expr:
        return (self.alpha_plus + self.alpha_minus) / 2


def _zero(*expressions: Any) -> bool:
    return all(symbolic.vanishes(sp.sympify(expression)) for expression in expressions)


def _positive(*expressions: Any) -> bool:
    """Whether the symbols' signs show that each is above 0, for N > 2 and for N = 2."""
    return all(symbolic.sign(sp.together(part)) == 1 for expression in expressions
               for part in (expression, sp.sympify(expression).subs(_FACTS, 0)))


def closed_form(task: SymbolicTask, letters_bind: bool) -> tuple[Any, ...]:
    """u, x, y and the multipliers p, q, r as the theorem gives them."""
    x, y = 2 * (1 - task.midpoint) / task.gap, -2 * task.midpoint / task.gap
    u, size = 1 / task.alpha_plus if letters_bind else x / 2, task.facts + 1
    g = task.facts * x - (task.facts - 1) * u
    p = ((1 - task.alpha_minus) * g - task.alpha_minus * y) / (size * task.gap)
    r = ((1 - task.alpha_plus) * g - task.alpha_plus * y) / (size * task.gap)
    return u, x, y, p, (2 * u - x) / (size * task.alpha_plus), r


def is_stationary(task: SymbolicTask, letters_bind: bool) -> bool:
    """Whether W is the sum of the constraints' gradients, each times its multiplier: all five different entries.

    Columns of W sum to 0 by the same sums, so u, x and y fix W.
    """
    u, x, y, p, q, r = closed_form(task, letters_bind)
    plus, minus, count = task.alpha_plus, task.alpha_minus, task.facts
    own = plus * (p + (count - 1) * q) - minus * r  # W[A_i, B_i]
    other, zero = -plus * q, -plus * p + minus * r  # W[A_j, B_i], W[0, B_i]
    rest = (1 - plus) * p - (1 - minus) * r  # W[A_i, rest]: what other facts push cancels in q
    return _zero(own - other - u, own - zero - x, (count + 1) * rest - y, own + (count - 1) * other + zero)


def separator_is_optimal(letters_bind: bool, placeholder_above: bool = False, competing_letters: bool = True) -> bool:
    """Whether the closed form meets the Karush-Kuhn-Tucker conditions, for every N >= 2 and all attention in (0, 1].

    The problem is strictly convex, so they prove it optimal. Which case holds is decided by the sign of
    alpha_plus midpoint - alpha_minus for alpha_plus > alpha_minus; otherwise the letters' constraint binds.

    :param competing_letters: the letters' constraint is kept; without it the second case's formulas stand everywhere
    """
    task, bind = SymbolicTask(placeholder_above), letters_bind and competing_letters
    u, x, y, p, q, r = closed_form(task, bind)
    plus, minus = task.alpha_plus, task.alpha_minus
    lead = lambda alpha: alpha * x + (1 - alpha) * y
    tight = [lead(plus) - 1, -lead(minus) - 1] + [plus * u - 1] * letters_bind
    excess = (plus * task.midpoint - minus) / task.gap  # >= 0 where the letters' constraint binds
    if placeholder_above:
        letters = _positive(q)
    elif letters_bind:
        letters = _zero(q - 2 * excess / ((task.facts + 1) * plus**2))
    else:
        letters = _zero(q, plus * u - 1 + excess)
    over_others = -lead(minus) + minus * u - 1  # placeholder over another letter, on a placeholder prompt
    u_positive = _positive(u) if letters_bind else _positive(x / 2)
    return (_zero(*tight, over_others - minus * u) and letters and u_positive and _positive(p, r)
            and is_stationary(task, bind))


def letters_lead(letters_bind: bool, placeholder_above: bool = False, competing_letters: bool = True) -> bool:
    """Whether the separator puts the right letter ahead of another at every attention above 0.

    :param competing_letters: the letters' constraint is kept; without it u is x / 2 everywhere
    """
    return _positive(closed_form(SymbolicTask(placeholder_above), letters_bind and competing_letters)[0])


def threshold_is(weight: Any = _HALF) -> bool:
    """Whether the separator's lead over the placeholder is 0 at ``weight alpha_plus + (1 - weight) alpha_minus``.

    And whether the lead at any attention is 2 (a - midpoint) / (alpha_plus - alpha_minus).
    """
    task = SymbolicTask()
    _, x, y, *_ = closed_form(task, False)
    lead = lambda alpha: alpha * x + (1 - alpha) * y
    return _zero(lead(weight * task.alpha_plus + (1 - weight) * task.alpha_minus),
                 lead(_ALPHA_R) - 2 * (_ALPHA_R - task.midpoint) / task.gap)


def freed_is_optimal(competing_letters: bool = True) -> bool:
    """Whether the closed form without placeholder prompts is optimal, with a positive lead at all attention above 0.

    :param competing_letters: the letters' constraint is kept
    """
    plus, count = 1 / (1 + _SPARE), _FACTS + 2  # attention 1 / (1 + s)
    push = 1 / (plus**2 + count * (1 - plus) ** 2)
    u = 1 / plus if competing_letters else push * plus / (count + 1)
    x, y = ((count - 1) * u + push * plus) / count, push * (1 - plus)
    stationary = [count * x - (count - 1) * u - push * plus, y - push * (1 - plus)]  # in x, in y
    pulled = (count - 1) * (2 * u - x)  # in u: alpha_plus times the multiplier of the letters' constraint
    return _zero(*stationary, plus * x + (1 - plus) * y - 1, plus * u - 1) and _positive(pulled, push, x, u)


# Equal attention, the start and the rates ----------------------------------------------------------------------


def equal_attention_ties(same: bool = True) -> bool:
    """Whether kappa y - N x + (N - 1) u is conserved by the flow, with kappa = alpha / (1 - alpha).

    And whether then, where ``alpha x + (1 - alpha) y`` stays bounded, x grows as a positive multiple of u, so that the
    lead at attention a grows with the sign of a - alpha.

    :param same: placeholder prompts have the forward prompts' attention
    """
    u, x, y = sp.symbols("u x y", real=True)
    alpha, other = sp.symbols("alpha alpha_2", positive=True)
    count, kappa = _FACTS + 2, alpha / (1 - alpha)
    task = _Plain(alpha, alpha if same else other, count, _SHARE)
    u_speed, x_speed, y_speed = flow_speed(task, u, x, y, sp.exp)
    late = sp.solve([alpha * x + (1 - alpha) * y, kappa * y - count * x + (count - 1) * u], [x, y])
    slope = late[x] / u * (count + kappa**2) / (count - 1)
    lead = _ALPHA_R * late[x] + (1 - _ALPHA_R) * late[y]
    return _zero(kappa * y_speed - count * x_speed + (count - 1) * u_speed, slope - 1,
                 lead - late[x] * (_ALPHA_R - alpha) / (1 - alpha))


@dataclasses.dataclass(frozen=True)
class _Plain:
    """The attributes of a `Task`, unchecked, so that they may be symbols."""

    alpha_plus: Any
    alpha_minus: Any
    facts: Any
    forward_share: Any


def start_speed(shared: bool = True) -> bool:
    """Whether at W = 0 the reverse probability moves as stated, and that among letters rises, for every N.

    ``(N + 1)^2 dp_r/dt = s (N a_r alpha_plus + (1 - a_r)(1 - alpha_plus))
    - (1 - s)(a_r alpha_minus + N (1 - a_r)(1 - alpha_minus))``

    :param shared: what the prompts share is counted; without it only attention on the evidence is
    """
    plus, minus = sp.symbols("alpha_plus alpha_minus", positive=True)
    u, x, y = sp.symbols("u x y", real=True)
    count, start = _FACTS + 2, {u: 0, x: 0, y: 0}
    probability = 1 / (1 + sp.exp(-(_ALPHA_R * x + (1 - _ALPHA_R) * y)) + (count - 1) * sp.exp(-_ALPHA_R * u))
    speeds = flow_speed(_Plain(plus, minus, count, _SHARE), u, x, y, sp.exp)
    moved = sum(sp.diff(probability, one) * speed for one, speed in zip((u, x, y), speeds, strict=True)).subs(start)
    rest = lambda alpha: int(shared) * (1 - _ALPHA_R) * (1 - alpha)
    stated = (_SHARE * (count * _ALPHA_R * plus + rest(plus))
              - (1 - _SHARE) * (_ALPHA_R * minus + count * rest(minus)))
    return _zero((count + 1) ** 2 * moved - stated, speeds[0].subs(start) - _SHARE * plus)


def multipliers_are_rates(letters_bind: bool, placeholder_above: bool = False, offset: int = 0) -> bool:
    """Whether the Gram matrix of the binding margins turns the multipliers into ones: their late growth rates are 1.

    By symmetry over facts one of each kind is enough. Also whether the threshold leaves the midpoint by
    ``delta (F_- - F_+) / (2 (F_+ + F_-))``.

    :param offset: added to the number of facts in the Gram matrix
    """
    task = SymbolicTask(placeholder_above)
    _, _, _, p, q, r = closed_form(task, letters_bind)
    n, kinds = task.facts + offset, ("forward", "letters", "placeholder")
    rates = [sum(_overlap(one, other, task, n) * weight for other, weight in zip(kinds, (p, q, r), strict=True))
             for one in kinds]
    f_plus, f_minus = sp.symbols("F_plus F_minus", positive=True)
    zero = (f_plus * task.alpha_minus + f_minus * task.alpha_plus) / (f_plus + f_minus)
    claimed = task.midpoint + task.gap * (f_minus - f_plus) / (2 * (f_plus + f_minus))
    binding = [0, 2] + [1] * letters_bind
    return _zero(zero - claimed, *(rates[kind] - 1 for kind in binding))


def _overlap(one: str, other: str, task: SymbolicTask, n: Any) -> Any:
    """Inner product of the gradient of one constraint of kind ``one`` with the sum over all of kind ``other``.

    A gradient is a difference of two classes times the prompt's features; features of two facts overlap in the rest.
    """
    alpha = {"forward": task.alpha_plus, "letters": task.alpha_plus, "placeholder": task.alpha_minus}
    rest = (1 - alpha[one]) * (1 - alpha[other])
    own = alpha[one] * alpha[other] + rest
    signs = {"forward": 1, "placeholder": -1}  # of letter minus placeholder
    if one == other == "letters":  # (A_i - A_j) with (A_i - A_k) on fact i, and with those of other facts
        return n * (own - rest)
    if "letters" not in (one, other):  # both letter against placeholder; other facts share the placeholder
        return signs[one] * signs[other] * (2 * own + (n - 1) * rest)
    sign = signs.get(one, signs.get(other, 0))
    if other == "letters":  # letter i against 0, with all (A_i - A_j) on i, and all (A_j - A_i) of the facts j
        return sign * ((n - 1) * own - (n - 1) * rest)
    return sign * (own - rest)  # (A_i - A_j) with i's letter against 0, and with j's


# By the convex solver and by descent ----------------------------------------------------------------------------


def random_tasks(count: int, most_facts: int, seed: int, least_gap: float = 0.1) -> list[Task]:
    """Tasks with 2 to ``most_facts`` facts, attention from .05 to 1 and a share from .2 to .8."""
    rng, tasks = np.random.default_rng(seed), list[Task]()
    while len(tasks) < count:
        plus, minus = rng.uniform(0.05, 1, 2)
        if abs(plus - minus) > least_gap:
            tasks.append(Task(plus, minus, int(rng.integers(2, most_facts + 1)), rng.uniform(0.2, 0.8)))
    return tasks


def solver_agrees(tasks: Iterable[Task], placeholder_at: float = 1.0) -> bool:
    """Whether the convex solver's W is the closed form, to a millionth of its largest entry.

    :param placeholder_at: factor on the placeholder prompts' attention in what is solved
    """
    for task in tasks:
        solved = dataclasses.replace(task, alpha_minus=task.alpha_minus * placeholder_at)
        features, targets, weights = (torch.from_numpy(part) for part in solved.prompts())
        found = separator(features, targets, task.facts + 1, weights=weights).numpy()
        wanted = Separator(task).storage
        if np.abs(found - wanted).max() > 1e-6 * np.abs(wanted).max():
            return False
    return True


def descended(
    task: Task, steps: int, seed: int, *, scale: float = 1.0, with_placeholder: bool = True
) -> Float[np.ndarray, "classes tokens"]:
    """W after gradient descent from a normal start, with the step 1 / beta of the convergence proof."""
    features, targets, weights = task.prompts()
    kept = slice(None) if with_placeholder else slice(task.facts)
    storage = scale * np.random.default_rng(seed).standard_normal((task.facts + 1,) * 2)
    eta = 2 / float(weights[kept] @ np.square(features[kept]).sum(1))
    for _ in range(steps // 1000):  # in parts: a path is kept whole
        storage = descend(storage, features[kept], targets[kept], eta, 1000, weights=weights[kept])[-1]
    return storage


def answers(storage: Float[np.ndarray, "classes tokens"], alpha: Number) -> Float[np.ndarray, " facts"]:
    """Probability of its letter for each fact, asked with this attention on its evidence."""
    count = len(storage) - 1
    features = fact_features(alpha, count)
    return np.array([prediction(storage, row)[fact] for fact, row in enumerate(features)])


def descent_reaches_the_limit(
    tasks: Iterable[Task], reverse: Sequence[float], steps: int, seed: int, *, midpoint: bool = True
) -> bool:
    """Whether descent from random starts takes every fact's reverse probability within .1 of its limit.

    And the forward one above .9.

    :param reverse: places of the reverse attention: 0 is the threshold, 1 is alpha_plus, -1 is alpha_minus
    :param midpoint: the threshold is the midpoint; else it is alpha_minus
    """
    for task in tasks:
        storage = descended(task, steps, seed)
        at = [min(1.0, max(1e-3, task.midpoint + place * task.gap / 2)) for place in reverse]
        limits = [float((alpha - (task.midpoint if midpoint else task.alpha_minus)) * task.gap > 0) for alpha in at]
        if answers(storage, task.alpha_plus).min() < 0.9 or any(
                np.abs(answers(storage, alpha) - limit).max() > 0.1 for alpha, limit in zip(at, limits, strict=True)):
            return False
    return True


def equal_attention_limit(alpha: float, share: float, facts: int, steps: int, seed: int, gap: float = 0) -> bool:
    """Whether descent takes the forward question to its share, and reverse questions above and below it to 1 and 0.

    Facts alike: the start is 0. Reverse attention is half of alpha, and half-way from alpha to 1.

    :param gap: taken from the placeholder prompts' attention
    """
    storage = descended(Task(alpha, alpha - gap, facts, share), steps, seed, scale=0)
    high, same, low = (answers(storage, at) for at in ((1 + alpha) / 2, alpha, alpha / 2))
    return bool(np.abs(same - share).max() < 0.02 and high.min() > 0.9 and low.max() < 0.1)


def answered_without_placeholder(task: Task, reverse: float, steps: int, seed: int, freed: bool = True) -> bool:
    """Whether descent answers every fact's reverse query, with probability above .9."""
    storage = descended(task, steps, seed, with_placeholder=not freed)
    return bool(answers(storage, reverse).min() > 0.9)


def letters_are_told_apart(task: Task, reverse: float, steps: int, seed: int, among_letters: bool = True) -> bool:
    """Whether each fact's letter has more than .9 of the reverse probability of all letters.

    :param among_letters: the placeholder is left out; else it counts
    """
    storage = descended(task, steps, seed)
    outputs = storage[:-1] if among_letters else storage
    rows = fact_features(reverse, task.facts)
    return all(prediction(outputs, row)[fact] > 0.9 for fact, row in enumerate(rows))


def rises_and_falls(task: Task, reverse: float, log_t_max: Number = 40.0) -> bool:
    """Whether the reverse probability first exceeds three times chance, and ends below a tenth of its largest value."""
    path = solve_flow(task, log_t_max).probability(reverse)
    return bool(path.max() > 3 / (task.facts + 1) and path[-1] < path.max() / 10)


def falls_throughout(task: Task, reverse: float, log_t_max: Number = 40.0) -> bool:
    """Whether the reverse probability falls from each of 2,000 times, evenly spaced in log time, to the next."""
    return bool((np.diff(np.log(solve_flow(task, log_t_max, 2000).probability(reverse))) < 0).all())


def threshold_follows(task: Task, log_t_max: Number = 600.0, factor: float = 1.0) -> bool:
    """Whether the threshold's distance from the midpoint is ``delta kappa / (4 log t)``, to two percent.

    And the probability at the midpoint has the stated limit, to six digits.

    :param factor: of kappa
    """
    flow, lag = solve_flow(task, log_t_max), factor * Separator(task).lag
    distance = (flow.threshold[-1] - task.midpoint) * flow.log_time[-1]
    limit = reverse_limit_with_placeholder(
        task.alpha_plus, task.alpha_minus, task.midpoint, task.facts, forward_share=task.forward_share)[0]
    return bool(abs(distance - task.gap * lag / 4) < 0.02 * abs(task.gap * lag / 4)
                and abs(flow.probability(task.midpoint)[-1] - limit) < 1e-6)


# Any prompts ----------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Kind:
    """Prompts of one kind, one a fact. ``letter``: share with the letter as target; ``masks``: attention on masks."""

    alpha: float
    letter: float
    weight: float = 1.0
    masks: float = 0.0


def solved_lead(
    kinds: Sequence[Kind], facts: int, alphas: Sequence[float], masks: float = 0.0, penalty: float = 1e-8
) -> list[float]:
    """The letter's lead over the placeholder in the limit, by `separator`, at each attention on the evidence.

    :param masks: attention of the query on visible masks, a feature of its own
    """
    rows = [(kind_features(kind.alpha, kind.masks, facts), target, kind.weight * share)
            for kind in kinds for target, share in ((0, kind.letter), (1, 1 - kind.letter)) if share > 0]
    letters, none = torch.arange(facts), torch.full((facts,), facts)
    storage = separator(torch.cat([features for features, _, _ in rows]),
                        torch.cat([none if target else letters for _, target, _ in rows]), facts + 1,
                        weights=torch.cat([torch.full((facts,), weight) for _, _, weight in rows]), penalty=penalty)
    return [float(logit_margins(storage, kind_features(alpha, masks, facts)[0], 0, facts)) for alpha in alphas]


def solved_threshold(kinds: Sequence[Kind], facts: int, penalty: float = 1e-8) -> float:
    """Attention at which that lead is 0."""
    low, high = solved_lead(kinds, facts, (0, 1), penalty=penalty)
    return low / (low - high)


def kind_features(alpha: float, masks: float, facts: int) -> Float[torch.Tensor, "facts features"]:
    """Features of one prompt a fact: evidence tokens, visible masks, the rest."""
    row = torch.tensor([masks, 1 - alpha - masks], dtype=torch.float64)
    return torch.cat([alpha * torch.eye(facts, dtype=torch.float64), row.expand(facts, 2)], 1)


def threshold_in_the_gap(kinds: Sequence[Kind], facts: int, *, nearest: bool = True) -> bool:
    """Whether the threshold is the middle of the gap between the nearest forward and placeholder prompts.

    :param nearest: else the middle between the two kinds' means
    """
    letter, none = ([kind.alpha for kind in kinds if kind.letter == share] for share in (1, 0))
    if nearest:
        above = min(letter) > max(none)
        middle = (min(letter) + max(none)) / 2 if above else (max(letter) + min(none)) / 2
    else:
        middle = (float(np.mean(letter)) + float(np.mean(none))) / 2
    return abs(solved_threshold(kinds, facts) - middle) < 1e-6


def threshold_is_at(kinds: Sequence[Kind], facts: int, at: float, within: float = 1e-3) -> bool:
    """Whether the threshold of these prompts, at a penalty of 1e-12, lies at the given attention."""
    return abs(solved_threshold(kinds, facts, penalty=1e-12) - at) < within


def interpolated_zero(low: Kind, high: Kind) -> float:
    """Attention at which the line through two kinds' log odds of the letter is 0."""
    odds = [float(np.log(kind.letter / (1 - kind.letter))) for kind in (low, high)]
    return float((low.alpha * odds[1] - high.alpha * odds[0]) / (odds[1] - odds[0]))


def descent_aligns(count: int, dim: int, classes: int, steps: int, seed: int, permuted: bool = False) -> bool:
    """Whether descent on random separable prompts from a random start reaches cosine .98 with the separator.

    :param permuted: the separator is that of the targets in reverse order
    """
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(count, dim, generator=rng, dtype=torch.float64)
    targets = torch.arange(count) % classes
    start = torch.randn(classes, dim, generator=rng, dtype=torch.float64).numpy()
    storage = start
    for _ in range(steps // 1000):
        storage = descend(storage, features.numpy(), targets.numpy(), 2 / float(features.square().sum()), 1000)[-1]
    storage = storage - storage.mean(0)
    wanted = separator(features, targets.flip(0) if permuted else targets, classes).numpy()
    cosine = float((storage * wanted).sum() / np.linalg.norm(storage) / np.linalg.norm(wanted))
    return cosine > 0.98


def second_feature_decides(facts: int, masks_minus: float, alpha: float = 0.35) -> bool:
    """Whether the letter leads in a reverse query with the placeholder prompts' attention and the forward ones' masks.

    Forward prompts: attention .4 on the evidence, .1 on visible masks. Placeholder prompts and the query: ``alpha``.
    """
    kinds = (Kind(0.4, 1, masks=0.1), Kind(alpha, 0, masks=masks_minus))
    return solved_lead(kinds, facts, [alpha], masks=0.1)[0] > 1e-3

