"""Storage times routing (Sec. 3, App. A.1): the one-layer model of the paper with a symbol for every entry.

A visible token x_j adds alpha_ij W_{:,x_j} to the logits of a masked position i, with W = U W_V W_E. `Decomposition`
holds a concrete sequence; `share_of_any_row` and `weight_rises_with_score` hold for a row of any length. Each function
that decides a statement takes what breaks it: a nonlinearity behind attention, or a position vector added to the
embeddings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import sympy as sp

from lib.theory import symbolic

#: sequences over the clean tokens 0 and 1 and the mask 2, with several masks and with repeated evidence
SEQUENCES = ((2, 0), (1, 2, 0, 1), (0, 2, 2, 1, 0))
_CLEAN = 2  # clean tokens of those sequences; also the sizes D, d and d_v


def softmax_is_positive_and_whole(scores: Sequence[sp.Expr]) -> bool:
    """Whether attention weights of these scores are positive and sum to one."""
    weights = symbolic.softmax(scores)
    return all(weight.is_positive for weight in weights) and sp.simplify(sum(weights)) == 1


def share_of_any_row(*, alone: bool = False) -> bool:
    """Whether 0 < x / (x + S) < 1 and the rest of the row is S / (x + S): one softmax weight among any number.

    x = exp(s) is the weight's own exponential, for a finite score s, and S > 0 the sum of all others.

    :param alone: there is no other position or token, S = 0
    """
    own = sp.exp(sp.Symbol("s", real=True))
    others = sp.Integer(0) if alone else sp.Symbol("S", positive=True)
    share = own / (own + others)
    whole = symbolic.vanishes(share + others / (own + others) - 1)
    return whole and symbolic.sign(share) == symbolic.sign(1 - share) == 1


# A concrete sequence ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Decomposition:
    """The model of Sec. 3 on a concrete sequence over two clean tokens; every matrix entry is a symbol.

    The attention weights are symbols too: the identities hold for any weights.

    :param absolute: add a position vector p_j to the embedding of position j
    :param nonlinear: square what attention retrieved before it is unembedded
    """

    tokens: tuple[int, ...]
    absolute: bool = False
    nonlinear: bool = False

    embedding = sp.Matrix(_CLEAN, _CLEAN + 1, sp.symbols("E:6", real=True))  # W_E
    query, key, value = (sp.Matrix(2, 2, sp.symbols(f"{name}:4", real=True)) for name in "QKV")  # W_Q, W_K, W_V
    unembedding = sp.Matrix(_CLEAN, 2, sp.symbols("U:4", real=True))  # U

    @property
    def attention(self) -> tuple[sp.Symbol, ...]:
        """alpha_ij, one a position."""
        return sp.symbols(f"alpha:{len(self.tokens)}", positive=True)

    @property
    def storage(self) -> sp.Matrix:
        """W = U W_V W_E, shape (2, 3)."""
        return self.unembedding * self.value * self.embedding

    def embedded(self, j: int) -> sp.Matrix:
        """What stands at position j before queries, keys and values are formed, shape (2, 1)."""
        position = sp.Matrix(2, 1, sp.symbols(f"p{j}_:2", real=True))
        return self.embedding[:, self.tokens[j]] + int(self.absolute) * position

    def logits(self) -> sp.Matrix:
        """z = U sum_j alpha_j W_V (what stands at j), shape (2, 1)."""
        mixed = sum((alpha * self.value * self.embedded(j) for j, alpha in enumerate(self.attention)), sp.zeros(2, 1))
        return self.unembedding * (mixed.applyfunc(lambda x: x**2) if self.nonlinear else mixed)

    def contribution(self, j: int, target: int) -> sp.Expr:
        """What position j adds to the logit of the target: the terms that carry its weight alpha_j."""
        return sp.diff(sp.expand(self.logits()[target]), self.attention[j]) * self.attention[j]

    def stored_evidence(self, evidence: int, target: int) -> sp.Expr:
        """The factor beside the attention weight of the evidence, in the logit of the target."""
        place = self.tokens.index(evidence)
        return sp.expand(self.contribution(place, target) / self.attention[place])


def three_matrices_suffice(tokens: tuple[int, ...], *, nonlinear: bool = False) -> bool:
    """Whether queries, keys and logits are functions of W_Q W_E, W_K W_E and W = U W_V W_E (App. A.1)."""
    model = Decomposition(tokens, nonlinear=nonlinear)
    routed = sum((a * model.storage[:, t] for a, t in zip(model.attention, tokens, strict=True)), sp.zeros(2, 1))
    return _same(model.logits(), routed) and all(
        _same(matrix * model.embedded(j), (matrix * model.embedding)[:, token])
        for matrix in (model.query, model.key) for j, token in enumerate(tokens))


def each_token_adds_weight_times_storage(tokens: tuple[int, ...], *, absolute: bool = False) -> bool:
    """Whether every position j adds alpha_j W_{A,x_j} to the logit of either target A."""
    model = Decomposition(tokens, absolute)
    return all(sp.expand(model.contribution(j, target) - model.attention[j] * model.storage[target, token]) == 0
               for j, token in enumerate(tokens) for target in range(_CLEAN))


def value_stays_as_token_moves(*, absolute: bool) -> bool:
    """Whether evidence 0 brings the same value vector at position 0 as at position 2."""
    there, here = Decomposition((0, 2, 1), absolute), Decomposition((1, 2, 0), absolute)
    return _same(there.value * there.embedded(0), here.value * here.embedded(2))


def stored_evidence_moves(*, absolute: bool) -> bool:
    """Whether what evidence 0 stores about target 1 changes as it moves from position 0 to position 2."""
    return len({Decomposition(tokens, absolute).stored_evidence(0, 1) for tokens in ((0, 2, 1), (1, 2, 0))}) > 1


def weight_depends_on_offset(slope: sp.Expr) -> bool:
    """Whether ALiBi of this slope weighs evidence at offset 1 otherwise than at offset 2, beside one mask."""
    content, own = sp.symbols("c c_M", real=True)
    near, far = (symbolic.softmax([content - slope * offset, own])[0] for offset in (1, 2))
    return sp.simplify(near - far) != 0


def weight_rises_with_score(slope: sp.Expr) -> bool:
    """Whether exp(s) / (exp(s) + S) rises with s, and falls with the offset delta under ALiBi, s = c - mu delta.

    For every finite content score c, every delta > 0 and any sum S > 0 of the other positions' exponentials.

    :param slope: mu; 0 ignores the offset
    """
    score, content = sp.symbols("s c", real=True)
    others, offset = sp.symbols("S delta", positive=True)
    weight = sp.exp(score) / (sp.exp(score) + others)
    along = sp.diff(weight.subs(score, content - slope * offset), offset)
    return symbolic.sign(sp.diff(weight, score)) == 1 and symbolic.sign(along) == -1


def _same(left: sp.Matrix, right: sp.Matrix) -> bool:
    return bool((left - right).applyfunc(sp.expand).is_zero_matrix)


# Every size ---------------------------------------------------------------------------------------------------


def contribution_is_storage(*, absolute: bool = False, nonlinear: bool = False) -> bool:
    """Whether position p adds alpha_p W_{A,x_p} to the logit of A, for any L, D, d_v, sequence and A.

    The logit U(W_V(sum_j alpha_j (what stands at j))) is built as nested indexed sums. It is W sum_j alpha_j e_{x_j} if
    and only if its derivative in each alpha_p is W_{A,x_p}, what p adds for each unit of attention.
    """
    length, width, inner = sp.symbols("L D d_v", integer=True, positive=True)
    target, j, p, m, r = sp.symbols("A j p m r", integer=True)
    embedding, value, unembedding, position, alpha, x = map(sp.IndexedBase, ("E", "V", "U", "P", "alpha", "x"))

    def unembedded(vector: sp.Expr) -> sp.Expr:
        valued = sp.Sum(value[r, m] * vector, (m, 1, width))
        return sp.Sum(unembedding[target, r] * valued, (r, 1, inner))

    embedded = embedding[m, x[j]] + int(absolute) * position[m, j]
    mixed = sp.Sum(alpha[j] * embedded, (j, 1, length))
    logit = unembedded(mixed**2 if nonlinear else mixed)
    added = symbolic.collapse_deltas(sp.diff(logit, alpha[p]), j)
    return bool(sp.expand(added - unembedded(embedding[m, x[p]])) == 0)


def value_is_free_of_position(*, absolute: bool = False) -> bool:
    """Whether a token's value W_V (what stands there) is the same at positions j and p, for any D and coordinate r.

    The sum over the D coordinates of the embedding is indexed; both positions show the token x.
    """
    width = sp.Symbol("D", integer=True, positive=True)
    j, p, m, r, x = sp.symbols("j p m r x", integer=True)
    embedding, value, position = map(sp.IndexedBase, ("E", "V", "P"))
    at = lambda place: sp.Sum(value[r, m] * (embedding[m, x] + int(absolute) * position[m, place]), (m, 1, width))
    return symbolic.vanishes_as_sum(at(j) - at(p), m)


# Left and right -----------------------------------------------------------------------------------------------


def scores_are_mirrored(*, even: bool) -> bool:
    """Whether phi(q_i, k_j, i - j) is the score of the mirrored places L + 1 - i, L + 1 - j, for any L, i, j and phi.

    :param even: phi takes the offset by its square alone; else by itself
    """
    length, i, j, query, key = sp.symbols("L i j q_i k_j")
    score = lambda here, there: sp.Function("phi")(query, key, sp.expand((here - there) ** (2 if even else 1)))
    return score(i, j) == score(length + 1 - i, length + 1 - j)


def _logit(sequence: str, even: bool, answer: str = "") -> sp.Expr:
    """Logit of an answer at the mask M; biases by distance if ``even``, else by offset."""
    offsets = [place - sequence.index("M") for place in range(len(sequence))]
    name = lambda offset: str(abs(offset) if even else offset).replace("-", "m")
    scores = [sp.Symbol(f"c_{token}", real=True) + sp.Symbol(f"b_{name(offset)}", real=True)
              for token, offset in zip(sequence, offsets, strict=True)]
    return sum(weight * sp.Symbol(f"W_{answer}{token}", real=True)
               for weight, token in zip(symbolic.softmax(scores), sequence, strict=True))


def mirror_images_alike(*, even: bool) -> bool:
    """Whether (M, B, 0, 0) and its mirror image give the mask the same logit.

    :param even: the score's bias depends on the distance alone; else each offset has a symbol of its own
    """
    return sp.simplify(_logit("MB00", even) - _logit("00BM", even)) == 0


def side_is_a_coin_flip(*, even: bool) -> bool:
    """Whether right answers to "left or right?" at (M, B, 0, 0) and its mirror image have a total probability of 1.

    There are two answers, left and right, each with a storage of its own; a guess has a total of 1.

    :param even: as in `mirror_images_alike`
    """
    lead = {sequence: _logit(sequence, even, "right") - _logit(sequence, even, "left") for sequence in ("MB00", "00BM")}
    return sp.simplify(lead["MB00"] - lead["00BM"]) == 0  # p(right | M B) + p(left | B M) = 1 just then


def direction_changes_the_weight(penalty: sp.Expr) -> bool:
    """Whether evidence gets more attention on the right than as far away on the left, whatever stands beside it.

    :param penalty: k >= 0; scores on the left are lower by log(1 + k), as under direction-aware ALiBi
    """
    own, others = sp.symbols("x S", positive=True)
    right, left = own / (own + others), own / (1 + penalty) / (own / (1 + penalty) + others)
    return symbolic.sign(sp.together(right - left)) == 1
