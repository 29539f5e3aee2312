"""The steps of the proofs of Sec. 4.3 in computer algebra: each is true as its proof states it.

What a function takes beyond its size breaks one hypothesis or changes the formula; ``same_target`` false gives the two
prompts different targets. Functions that take a size differentiate the losses of that many tokens; those that take
none leave the vocabulary, its tokens and everything that other columns add to the logits as symbols.
"""

from __future__ import annotations

from collections.abc import Sequence

import sympy as sp
from sympy.concrete.delta import deltasummation

from lib.theory import symbolic
from lib.theory.storage import general_storage, gradients_align, storage_model

ALPHA_F, ALPHA_R, ETA = sp.symbols("alpha_f alpha_r eta", positive=True)
#: tokens: the target A, another target A', any token v
TARGET, OTHER, TOKEN = sp.symbols("A A' v", integer=True)
_N, _Y = sp.Symbol("n", integer=True, positive=True), sp.Symbol("y", integer=True)
_HALF = sp.Rational(1, 2)

# A vocabulary of one size -------------------------------------------------------------------------------------


def prompt_loss(letter: str, column: Sequence[sp.Symbol], alpha: sp.Expr, target: int) -> tuple[sp.Expr, list[sp.Expr]]:
    """Loss and prediction of a prompt with attention mass ``alpha`` on B; ``letter`` names the rest of its logits."""
    rest = sp.symbols(f"{letter}_0:{len(column)}", real=True)
    logits = [c + alpha * w for c, w in zip(rest, column, strict=True)]
    return symbolic.cross_entropy(logits, target), symbolic.softmax(logits)


def theorem_4_6_holds(size: int, same_target: bool = True, present: bool = True) -> bool:
    """Whether the gradients in column B have the inner product of Theorem 4.6, positive for all logits and weights.

    :param present: the reverse prompt shows B
    """
    column = sp.symbols(f"w_0:{size}", real=True)
    loss_f, p_f = prompt_loss("f", column, ALPHA_F, 0)
    loss_r, p_r = prompt_loss("r", column, ALPHA_R if present else sp.Integer(0), int(not same_target))
    inner = sum(sp.diff(loss_f, w) * sp.diff(loss_r, w) for w in column)
    others = sum(p_f[v] * p_r[v] for v in range(1, size))
    claimed = ALPHA_F * ALPHA_R * ((1 - p_f[0]) * (1 - p_r[0]) + others)
    return symbolic.vanishes(inner - claimed) and symbolic.sign(claimed) == 1


def step_raises_margins(size: int, same_target: bool = True) -> bool:
    """Whether a forward step raises z_r(0) - z_r(v) by Gamma_v > 0 for every other v."""
    column = sp.symbols(f"w_0:{size}", real=True)
    loss_f, p_f = prompt_loss("f", column, ALPHA_F, int(not same_target))
    rise = [-ALPHA_R * ETA * (sp.diff(loss_f, column[0]) - sp.diff(loss_f, w)) for w in column]
    claimed = [ETA * ALPHA_F * ALPHA_R * (1 - p_f[0] + p) for p in p_f]
    return all(symbolic.vanishes(a - b) and symbolic.sign(b) == 1 for a, b in zip(rise[1:], claimed[1:], strict=True))


def odds_bound_is_equality(size: int) -> bool:
    """Whether the reverse odds shrink by exp(-Gamma) exactly, for all margins and forward predictions."""
    p_f = sp.symbols(f"p_1:{size}", positive=True)  # distractors; the target has the rest
    margins = sp.symbols(f"m_1:{size}", real=True)
    gain = [ETA * ALPHA_F * ALPHA_R * (sum(p_f) + p) for p in p_f]
    after = sum(sp.exp(-m - g) for m, g in zip(margins, gain, strict=True))
    return symbolic.vanishes(after - sp.exp(-gain[0]) * sum(sp.exp(-m) for m in margins))


def smoothness_steps(size: int, minimum_at: sp.Expr = _HALF) -> bool:
    """The parabola's zero at eta* and minimum at ``minimum_at`` eta*, and the proof's two inequalities of norms.

    ``|e|^2 <= 2 (1 - p(A))^2`` and ``(max e - min e)^2 <= 2 |e|^2`` are identities with non-negative terms.
    """
    G, square, weight = sp.symbols("G S alpha", positive=True)  # <e_f, e_r>, |e_f|^2, alpha_f alpha_r
    promise = -ETA * weight * G + ETA**2 * weight**2 * square / 4
    limit = 4 * G / (weight * square)  # eta*
    slope = sp.diff(promise, ETA).subs(ETA, minimum_at * limit)
    parabola = (promise.subs(ETA, limit), slope, promise.subs(ETA, limit / 2) + G**2 / square)
    p = sp.symbols(f"p_1:{size}", positive=True)  # distractors; the error at the target is minus their sum
    norm = sum(p) ** 2 + sum(x**2 for x in p)
    room = sp.Poly(2 * sum(p) ** 2 - norm, *p).coeffs()
    spread = 2 * norm - (sum(p) + p[0]) ** 2  # p[0] is the largest distractor
    squares = (sum(p) - p[0]) ** 2 + 2 * sum(x**2 for x in p[1:])
    return all(map(symbolic.vanishes, (*parabola, spread - squares))) and min(room) >= 0


def storage_alignment_holds(size: int, same_target: bool = True) -> bool:
    """Whether `storage.gradients_align` for two prompts that show every token, all their attention weights free."""
    tokens = range(size + 1)
    return gradients_align(storage_model(tokens, size, 0, "a"), storage_model(tokens, size, int(not same_target), "b"))


# Any vocabulary -----------------------------------------------------------------------------------------------


def sum_over_vocabulary(summand: sp.Expr, index: sp.Symbol = TOKEN) -> sp.Expr:
    """Sum over the n tokens of the vocabulary, Kronecker deltas collapsed; their places are taken to lie in it."""
    terms = sp.Add.make_args(sp.expand(summand))
    return sp.Add(*(deltasummation(term, (index, 1, _N), no_piecewise=True) for term in terms))


def general_gradient(alpha: sp.Expr, target: sp.Symbol) -> tuple[sp.Expr, sp.Expr]:
    """Derivative of a prompt's loss in W[v, B], taken by sympy, and its prediction p(v)."""
    rest, w = sp.IndexedBase("rest"), sp.IndexedBase("w")
    partition = sp.Sum(sp.exp(rest[_Y] + alpha * w[_Y]), (_Y, 1, _N))
    derivative = sp.diff(sp.log(partition) - rest[target] - alpha * w[target], w[TOKEN])
    return symbolic.collapse_deltas(derivative, _Y), sp.exp(rest[TOKEN] + alpha * w[TOKEN]) / partition


def general_inner_product(reverse_target: sp.Symbol) -> sp.Expr:
    """Sum over the vocabulary of the product of the errors p_f - e_A and p_r - e_target."""
    p, r = sp.IndexedBase("p_f"), sp.IndexedBase("p_r")
    errors = p[TOKEN] - sp.KroneckerDelta(TOKEN, TARGET), r[TOKEN] - sp.KroneckerDelta(TOKEN, reverse_target)
    return sum_over_vocabulary(errors[0] * errors[1])


def theorem_4_6_in_general(same_target: bool = True) -> bool:
    """Whether both gradients are alpha (p - e_A), and their inner product is the bracket of Theorem 4.6."""
    reverse_target = TARGET if same_target else OTHER
    for alpha, target in ((ALPHA_F, TARGET), (ALPHA_R, reverse_target)):
        derivative, p = general_gradient(alpha, target)
        if sp.simplify(derivative - alpha * (p - sp.KroneckerDelta(TOKEN, TARGET))) != 0:
            return False
    p, r = sp.IndexedBase("p_f"), sp.IndexedBase("p_r")
    distractors = sp.Sum(p[TOKEN] * r[TOKEN], (TOKEN, 1, _N)) - p[TARGET] * r[TARGET]
    return sp.expand(general_inner_product(reverse_target) - (1 - p[TARGET]) * (1 - r[TARGET]) - distractors) == 0


def storage_alignment_in_general(same_target: bool = True) -> bool:
    """Whether dl/dW_{v,b} is mass(b) (p(v) - 1[v = A]) in every column b, and the errors' product is Theorem 4.6's.

    For any n, length, sequence and tokens. <grad l_f, grad l_r> is then <eps_f, eps_r> <a_f, a_r>.
    """
    model = general_storage()
    return model.derivative_is(model.mass) and theorem_4_6_in_general(same_target)


def first_order_term(same_target: bool = True) -> bool:
    """Whether the derivative of the reverse loss in eta at eta = 0 is minus Theorem 4.6's formula."""
    reverse_target = TARGET if same_target else OTHER
    z, p_f = sp.IndexedBase("z"), sp.IndexedBase("p_f")
    moved = lambda v: z[v] - ETA * ALPHA_F * ALPHA_R * (p_f[v] - sp.KroneckerDelta(v, TARGET))  # z_r after the step
    partition = sp.Sum(sp.exp(z[_Y]), (_Y, 1, _N))
    mean = lambda summand: sum_over_vocabulary(summand * sp.exp(z[_Y]), _Y) / partition  # under p_r
    # of log sum_y exp(z_r(y)) - z_r(target)
    derivative = mean(sp.diff(moved(_Y), ETA)) - sp.diff(moved(reverse_target), ETA)
    p_r = sp.exp(z[TARGET]) / partition
    bracket = (1 - p_f[TARGET]) * (1 - p_r) + mean(p_f[_Y]) - p_f[TARGET] * p_r
    return bool(sp.simplify(sp.expand((derivative + ALPHA_F * ALPHA_R * bracket) * partition)) == 0)


def change_is_mean_of_gains(same_target: bool = True) -> bool:
    """Whether exp(loss) = sum_v exp(z_r(v) - z_r(A)) changes by exp(-Gamma_v) in each term: at v = A, and elsewhere.

    Then the loss changes by log sum_v p_r(v) exp(-Gamma_v). The forward prediction is left free.
    """
    forward_target = TARGET if same_target else OTHER
    z, p_f, rate = sp.IndexedBase("z"), sp.IndexedBase("p_f"), ETA * ALPHA_F * ALPHA_R
    moved = lambda v: z[v] - rate * (p_f[v] - int(v == forward_target))
    gain = lambda v: rate * (1 - p_f[TARGET] + p_f[v]) * int(v != TARGET)  # Gamma_v
    ratios = [sp.exp(moved(v) - moved(TARGET)) / sp.exp(z[v] - z[TARGET] - gain(v)) for v in (TARGET, TOKEN)]
    return all(symbolic.vanishes(ratio - 1) for ratio in ratios)


def step_raises_any_margin(same_target: bool = True) -> bool:
    """Whether a forward step raises z_r(A) - z_r(v) by Gamma_v for any v but A, whatever the size of the vocabulary."""
    derivative, p = general_gradient(ALPHA_F, TARGET if same_target else OTHER)
    rise = ALPHA_R * ETA * (derivative - derivative.subs(TOKEN, TARGET))
    rise = rise.subs({sp.KroneckerDelta(TOKEN, TARGET): 0, sp.KroneckerDelta(OTHER, TARGET): 0})
    claimed = ETA * ALPHA_F * ALPHA_R * (1 - p.subs(TOKEN, TARGET) + p)
    return bool(sp.simplify(rise - claimed) == 0)


def two_facts_oppose(same_target: bool = False) -> bool:
    """Whether the errors of two facts have the inner product sum p_f p_r - p_f(A') - p_r(A), A' not A."""
    p, r = sp.IndexedBase("p_f"), sp.IndexedBase("p_r")
    total = general_inner_product(TARGET if same_target else OTHER).subs(sp.KroneckerDelta(TARGET, OTHER), 0)
    claimed = sp.Sum(p[TOKEN] * r[TOKEN], (TOKEN, 1, _N)) - p[OTHER] - r[TARGET]
    return bool(sp.expand(total - claimed) == 0)


def uniform_errors_product(same_target: bool) -> sp.Expr:
    """<p_f - e_A, p_r - e_A'> at uniform predictions, A' another target or A itself, for any n."""
    uniform = lambda asked: 1 / _N - sp.KroneckerDelta(TOKEN, asked)
    product = uniform(TARGET) * uniform(TARGET if same_target else OTHER)
    return sp.expand(sum_over_vocabulary(product).doit().subs(sp.KroneckerDelta(TARGET, OTHER), 0))


def second_answer_pushes_back(against: sp.Expr | int = _N - 1) -> bool:
    """Whether one target's inner product is minus ``against`` times two targets', at uniform predictions, for any n."""
    return symbolic.vanishes(uniform_errors_product(True) + against * uniform_errors_product(False))


def literal_alignment_at_zero(same_target: bool = False, shown: int = 3) -> bool:
    """Whether <grad_W l(B | A), grad_W l(A | B)> is -<a_f, a_r>/n at W = 0, hence negative, for any n and masses.

    Each prompt shows the other's target and ``shown`` tokens that both show, the mask among them.

    :param same_target: both prompts ask for one token
    """
    a_f, a_r = (sp.symbols(f"{name}_0:{shown}", positive=True) for name in ("f", "r"))
    masses = sp.Add(*(f * r for f, r in zip(a_f, a_r, strict=True)))  # <a_f, a_r>: the evidence is not shared
    inner = uniform_errors_product(same_target) * masses
    return symbolic.vanishes(inner + masses / _N) and bool(inner.is_negative)
