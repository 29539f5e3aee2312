"""The autoregressive side: two models of Zhu et al. (2024) in which training on A -> B leaves B -> A alone.

*Bilinear*: p(y | x) = softmax over y of u_x^T Theta u_y, with fixed token embeddings u. *Causal*: one layer in
effective weights, logits W sum_l alpha_l e_{x_l} over the tokens seen so far (Sec. 3 with a causal mask); it is
trained by `storage.descend` on the masses of `next_tokens`.

The steps of the proofs are decided in symbols, at the end. Each function is true as the proofs state it; what it takes
breaks one hypothesis or one factor.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import sympy as sp
from jaxtyping import Float, Int

from lib.theory import symbolic
from lib.theory.storage import StorageModel, descend, prompt_losses, storage_model

Losses = dict[str, Float[np.ndarray, "times pairs"]]  # by the order that is asked

# Bilinear -----------------------------------------------------------------------------------------------------


def random_embeddings(vocabulary: int, dim: int, seed: int) -> Float[np.ndarray, "vocab dim"]:
    """Normal embeddings with variance 1 / dim: lengths near 1, overlaps of order 1 / sqrt(dim)."""
    return np.random.default_rng(seed).normal(size=(vocabulary, dim)) / dim**0.5


def bilinear_losses(
    embeddings: Float[np.ndarray, "vocab dim"], theta: Float[np.ndarray, "dim dim"], pairs: Int[np.ndarray, "pairs 2"]
) -> Float[np.ndarray, " pairs"]:
    """-log p(y | x) of each pair (x, y), in nats."""
    return prompt_losses(embeddings @ theta.T, embeddings[pairs[:, 0]], pairs[:, 1])


def train_bilinear(
    embeddings: Float[np.ndarray, "vocab dim"], pairs: Int[np.ndarray, "pairs 2"], eta: float, steps: int
) -> Float[np.ndarray, "times dim dim"]:
    """Gradient descent on Theta from zero on the summed loss of all pairs; Theta at the start and after each step.

    The logits of x are U Theta^T u_x, so this is descent on Theta^T with the embeddings U as fixed unembedding.
    """
    start = np.zeros((embeddings.shape[1],) * 2)
    path = descend(start, embeddings[pairs[:, 0]], pairs[:, 1], eta, steps, unembedding=embeddings)
    return path.swapaxes(1, 2)


def fact_pairs(facts: int) -> Int[np.ndarray, "facts 2"]:
    """Pairs (A_i, B_i) over 2 N tokens: A_i is token i, B_i is token N + i."""
    return np.stack([np.arange(facts), facts + np.arange(facts)], 1)


def bilinear_losses_along(
    embeddings: Float[np.ndarray, "vocab dim"], pairs: Int[np.ndarray, "pairs 2"], steps: int, *,
    both_orders: bool = False,
) -> Losses:
    """Losses of each pair, asked forward and in reverse, at the start and after each step (step size 1).

    :param both_orders: train the pairs in reverse too
    """
    orders = {"forward": pairs, "reverse": pairs[:, ::-1]}
    trained = np.concatenate(list(orders.values())) if both_orders else pairs
    path = train_bilinear(embeddings, trained, 1.0, steps)
    return {way: np.stack([bilinear_losses(embeddings, theta, order) for theta in path])
            for way, order in orders.items()}


def masked_losses_along(pairs: Int[np.ndarray, "pairs 2"], steps: int) -> Losses:
    """Losses of these facts in the masked model of Sec. 3, trained on forward prompts "M R B" alone (step size 1).

    The target is A. The reverse prompt "B R M" attends less to B, and more to the relation and the mask.
    """
    vocabulary = 2 * len(pairs)
    masses = np.zeros((2, len(pairs), vocabulary + 2))  # forward and reverse; the last two columns: R and the mask
    masses[:, np.arange(len(pairs)), pairs[:, 1]] = np.array([[0.5], [0.3]])
    masses[:, :, -2:] = np.array([0.25, 0.35])[:, None, None]
    path = descend(np.zeros((vocabulary, vocabulary + 2)), masses[0], pairs[:, 0], 1.0, steps)
    return {way: np.stack([prompt_losses(weights, prompts, pairs[:, 0]) for weights in path])
            for way, prompts in zip(("forward", "reverse"), masses, strict=True)}


def chain_probabilities(chains: int, steps: int, *, closed: bool = False) -> dict[str, Float[np.ndarray, " times"]]:
    """Mean probability of C given A along training on A -> B and B -> C, orthonormal embeddings.

    :param closed: train A -> C too
    :return: ``direct``: C asked for at once; ``written``: B first, then C given B
    """
    first, middle, last = np.arange(3 * chains).reshape(3, chains)
    links = {"AB": np.stack([first, middle], 1), "BC": np.stack([middle, last], 1), "AC": np.stack([first, last], 1)}
    eye = np.eye(3 * chains)
    path = train_bilinear(eye, np.concatenate([links[name] for name in ("AB", "BC", "AC")[: 2 + closed]]), 1.0, steps)
    chance = {name: np.exp(-np.stack([bilinear_losses(eye, theta, link) for theta in path]))
              for name, link in links.items()}
    return {"direct": chance["AC"].mean(1), "written": (chance["AB"] * chance["BC"]).mean(1)}


# Causal -------------------------------------------------------------------------------------------------------


def causal_masses(tokens: Sequence[int], vocabulary: int) -> Float[np.ndarray, "length vocab"]:
    """Attention mass on each token at each position, uniform over itself and what is left of it.

    :raises ValueError: for a token outside the vocabulary
    """
    if not all(0 <= token < vocabulary for token in tokens):
        raise ValueError(f"tokens must lie between 0 and {vocabulary - 1}, not {list(tokens)}")
    weights = np.tri(len(tokens)) / np.arange(1, len(tokens) + 1)[:, None]
    return weights @ np.eye(vocabulary)[list(tokens)]


def next_tokens(
    sequences: Sequence[Sequence[int]], vocabulary: int
) -> tuple[Float[np.ndarray, "rows vocab"], Int[np.ndarray, " rows"]]:
    """Masses and targets of next-token training: every position but the last predicts its successor."""
    masses = [causal_masses(tokens, vocabulary)[:-1] for tokens in sequences]
    targets = [token for tokens in sequences for token in tokens[1:]]
    return np.concatenate(masses), np.array(targets)


def causal_losses_along(
    facts: int, reversed_facts: int, steps: int, every: int = 10
) -> dict[str, Float[np.ndarray, " times"]]:
    """Mean losses of the causal layer on "A -> B" for all facts and "B <- A" for some, every few steps (step size 0.5).

    The queries show the first token and the arrow: forward, reverse of the first half, reverse of the second half.

    :param reversed_facts: how many facts are trained in reverse too
    """
    half, vocabulary = facts // 2, 2 * facts + 3
    forward_arrow, back_arrow, stop = range(2 * facts, vocabulary)
    sequences = [(i, forward_arrow, facts + i, stop) for i in range(facts)]
    sequences += [(facts + i, back_arrow, i, stop) for i in range(reversed_facts)]
    path = descend(np.zeros((vocabulary,) * 2), *next_tokens(sequences, vocabulary), 0.5, steps)[::every]
    queries = {"forward": (range(facts), forward_arrow, np.arange(facts) + facts),
               "reverse, trained too": (range(facts, facts + half), back_arrow, np.arange(half)),
               "reverse, held out": (range(facts + half, 2 * facts), back_arrow, np.arange(half, facts))}
    losses = {}
    for name, (shown, arrow, answers) in queries.items():
        masses = np.stack([causal_masses((token, arrow), vocabulary)[-1] for token in shown])
        losses[name] = np.array([prompt_losses(weights, masses, answers).mean() for weights in path])
    return losses


# Statements about training runs -------------------------------------------------------------------------------


def reverse_stays_at_chance(facts: int, steps: int, *, both_orders: bool = False) -> bool:
    """Whether, with orthonormal embeddings, forward losses end below 0.05 and reverse ones are ln V to 1e-12 always."""
    losses = bilinear_losses_along(np.eye(2 * facts), fact_pairs(facts), steps, both_orders=both_orders)
    gap = np.abs(losses["reverse"] - np.log(2 * facts)).max()
    return bool((losses["forward"][-1] < 0.05).all() and gap < 1e-12)


def reverse_ends_near_chance(dim: int, facts: int, steps: int, seed: int) -> bool:
    """Whether, with random embeddings, the mean forward loss ends below 0.05 and the reverse within 2 % of ln V."""
    losses = bilinear_losses_along(random_embeddings(2 * facts, dim, seed), fact_pairs(facts), steps)
    forward, reverse = (losses[way][-1].mean() for way in ("forward", "reverse"))
    return bool(forward < 0.05 and abs(reverse / np.log(2 * facts) - 1) < 0.02)


def chain_stays_open(chains: int, steps: int, *, closed: bool = False) -> bool:
    """Whether C asked for directly falls at every step while the two steps end above 0.95."""
    found = chain_probabilities(chains, steps, closed=closed)
    return bool((np.diff(found["direct"]) < 0).all() and found["written"][-1] > 0.95)


def held_out_never_improves(facts: int, reversed_facts: int) -> bool:
    """Whether the forward loss ends below 0.5 while the reverse loss of the second half is at least ln V; 200 steps."""
    losses = causal_losses_along(facts, reversed_facts, 200)
    return bool(losses["forward"][-1] < 0.5 and losses["reverse, held out"].min() > np.log(2 * facts + 3) - 1e-9)


# Steps of the proofs, in symbols: bilinear --------------------------------------------------------------------


def _bilinear(embeddings: Sequence[sp.Matrix]) -> tuple[sp.Matrix, list[sp.Expr]]:
    """Gradient in Theta of -log p(token 1 | token 0), taken by sympy, and the error p - e_1; two dimensions."""
    theta = sp.Matrix(2, 2, sp.symbols("t_0:4", real=True))
    logits = [(embeddings[0].T * theta * other)[0] for other in embeddings]
    error = [p - int(v == 1) for v, p in enumerate(symbolic.softmax(logits))]
    return sp.Matrix(sp.diff(symbolic.cross_entropy(logits, 1), theta)), error


def logit_change_is(trained_input: int = 0) -> bool:
    """Whether a step on A -> B moves l(y|x) by -eta <u_x, u_A> sum_v error_v <u_v, u_y>, for three tokens x and y.

    :param trained_input: the token in the place of A, which is token 0
    """
    u = [sp.Matrix(sp.symbols(f"u{token}_0:2", real=True)) for token in range(3)]
    gradient, error = _bilinear(u)
    claimed = lambda x, y: u[x].dot(u[trained_input]) * sum(e * v.dot(y) for e, v in zip(error, u, strict=True))
    return all(symbolic.vanishes((u[x].T * gradient * y)[0] - claimed(x, y)) for x in range(3) for y in u)


def reverse_logits_do_not_move(overlap: sp.Expr | int = 0) -> bool:
    """Whether a step on A -> B leaves l(.|B) alone and raises l(B|A), for two tokens with <u_A, u_B> = ``overlap``."""
    a, b = sp.Matrix([1, 0]), sp.Matrix([overlap, 1])
    gradient, _ = _bilinear([a, b])
    still = all(symbolic.vanishes((b.T * gradient * y)[0]) for y in (a, b))
    return still and symbolic.sign(-(a.T * gradient * b)[0]) == 1


# Orthonormal embeddings, any number of tokens: in their basis Theta has the entries l(y | x), and V is their number
_TRAINED, _TARGET, _TOKEN, _APART = sp.symbols("A B v k", integer=True, positive=True)
_THETA = sp.IndexedBase("Theta")


def _probability(token: sp.Expr) -> sp.Expr:
    """p(token | A)."""
    every, vocabulary = sp.symbols("w V", integer=True, positive=True)
    return sp.exp(_THETA[_TRAINED, token]) / sp.Sum(sp.exp(_THETA[_TRAINED, every]), (every, 1, vocabulary))


def _slope(shown: sp.Expr, token: sp.Expr, target: sp.Expr = _TARGET) -> sp.Expr:
    """Derivative of -log p(target | A) in the logit l(token | shown), by indexed sums."""
    x, y = sp.symbols("x y", integer=True)
    derivative = sp.diff(-sp.log(_probability(target)), _THETA[x, y])
    every = next(part.variables[0] for part in derivative.atoms(sp.Sum))
    return symbolic.collapse_deltas(derivative, every).subs({x: shown, y: token})


def other_inputs_stay(*, trained_too: bool = False) -> bool:
    """Whether a step on A -> B leaves l(v | x) alone for every v and every x other than A, any number of tokens.

    :param trained_too: the x that is asked is the input of the pair
    """
    return symbolic.vanishes(_slope(_TRAINED if trained_too else _TRAINED + _APART, _TOKEN))


def forward_margins_rise(*, both_terms: bool = True) -> bool:
    """Whether a step on A -> B raises l(B|A) - l(v|A) by 1 - p(B|A) + p(v|A) a unit of step size, for every v but B.

    :param both_terms: else by 1 - p(B|A) alone
    """
    wrong = _TARGET + _APART
    claimed = 1 - _probability(_TARGET) + int(both_terms) * _probability(wrong)
    return symbolic.vanishes(_slope(_TRAINED, wrong) - _slope(_TRAINED, _TARGET) - claimed)


def direct_link_falls(*, closed: bool = False) -> bool:
    """Whether a step on A -> B lowers l(C|A) by p(C|A) a unit of step size, for every C but B, any number of tokens.

    :param closed: A -> C is trained in the same step
    """
    last = _TARGET + _APART
    slope = _slope(_TRAINED, last) + int(closed) * _slope(_TRAINED, last, last)
    return symbolic.vanishes(slope - _probability(last))


# Steps of the proofs, in symbols: one causal layer ------------------------------------------------------------

A, R, B, END, _MASK = range(5)  # the sequence <R> A R B END over four clean tokens
_MASKED = (R, _MASK, R, B)  # what the masked model sees while it predicts A


def causal_views(last: int = END) -> list[StorageModel]:
    """Every position of <R> A R B ``last`` that predicts, with the tokens that it sees."""
    order = (R, A, R, B, last)
    return [storage_model(order[: i + 1], 4, order[i + 1]) for i in range(len(order) - 1)]


def _column_inner_product(forward: StorageModel) -> sp.Expr:
    """<grad of its loss in W_{:,B}, that of the reverse prompt "B R M">, as attention masses times errors."""
    reverse = storage_model((B, R, _MASK), 4, A)
    pairs = zip(forward.gradient(B), reverse.gradient(B), strict=True)
    return sp.Add(*(sp.factor(one) * sp.factor(other) for one, other in pairs))


def inner_product_is_zero(full_attention: bool = False) -> bool:
    """Whether the inner product vanishes at every position left of B; control: the masked view, which sees B."""
    views = [storage_model(_MASKED, 4, A)] if full_attention else causal_views()[:2]
    return all(_column_inner_product(view) == 0 for view in views)


def inner_product_is_positive(causal: bool = False) -> bool:
    """Whether the masked model's inner product is positive; ``causal``: of the causal view of the same target."""
    return bool(_column_inner_product(causal_views()[0] if causal else storage_model(_MASKED, 4, A)).is_positive)


def weights_are_asymmetric(last: int = END) -> bool:
    """Whether the loss of predicting B has dl/dW_{B,A} < 0, while no loss of the sequence has dl/dW_{A,B} < 0."""
    views = causal_views(last)
    rises = symbolic.sign(views[2].gradient(A)[B]) == -1  # the third position predicts B
    return rises and all(symbolic.sign(view.gradient(B)[A]) in (0, 1) for view in views)


def column_speaks_against(target: int) -> bool:
    """Whether column B keeps its sum, and its entry at a token that never follows B never rises."""
    columns = [view.gradient(B) for view in causal_views()]
    return all(symbolic.vanishes(sum(column)) and symbolic.sign(column[target]) in (0, 1) for column in columns)
