"""Training on changed questions, each change with its matched control: what of the loss blocks reverse recall.

`make_batch` is that of `lib.one_layer.objectives` with one thing changed; `INTERVENTIONS` says what. Masks, sequences
and models stay the same to the last random number; what is dropped stays in the batch at weight zero. A *placeholder
question* is a mask whose clean token is the placeholder.

In forward-only data a mask to the right of a visible capital always hides a placeholder: ``drop_right_of_capital``
drops those questions and no others. Its controls:

* ``drop_left_of_capital`` reflects the positions: placeholder questions to the left of a visible capital, about twice
  as many, since the capital is the second letter of its pair;
* ``drop_left_of_letter`` reflects positions and roles: placeholder questions to the left of a visible lowercase
  letter, where the data leave nothing but placeholders either; by symmetry equally many on average;
* ``drop_random`` drops, from every batch, exactly as many placeholder questions as ``drop_right_of_capital`` would,
  of exactly the same weights, chosen at random among all placeholder questions of those weights;
* ``drop_random_elsewhere`` chooses them among the other placeholder questions alone, so that nothing of what
  ``drop_right_of_capital`` drops is dropped (where there are too few of a weight, all of them go).

``drop_right_letter_hidden`` and ``drop_right_letter_shown`` drop the two parts of ``drop_right_of_capital``: those
where the lowercase letter is masked, as in a reverse query, and those where it is in sight. The loss that
``drop_right_of_capital`` drops can also be weighed (`weigh_right_of_capital`).

``letters_only`` masks one or both letters of the pair and nothing else, so that a placeholder is never asked for.

``one_mask`` asks for one token a sequence and shows all others; ``one_question``, its control, asks as few questions
of the same total weight, with the masks as they are. ``strangers`` is a control of reversed data: in sequences that
stand in the other order the lowercase letter is replaced by a random other one, so that they show a letter on the
wrong side of a capital but never the right letter.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Int

from lib.one_layer import objectives, task
from lib.one_layer.objectives import MaskedBatch, Rng, TokenArray, Uniforms

#: what each intervention does to a batch of questions
INTERVENTIONS = {
    "none": "the questions as they are",
    "drop_right_of_capital": "no loss on placeholders to the right of a visible capital",
    "drop_left_of_capital": "no loss on placeholders to the left of a visible capital",
    "drop_left_of_letter": "no loss on placeholders to the left of a visible lowercase letter",
    "drop_right_letter_hidden": "no loss on placeholders right of a visible capital, the letter hidden",
    "drop_right_letter_shown": "no loss on placeholders right of a visible capital, the letter in sight",
    "drop_random": "no loss on as many placeholders of the same weights, chosen at random",
    "drop_random_elsewhere": "the same, chosen among placeholders that are not right of a visible capital",
    "letters_only": "only the two letters are ever masked",
    "one_mask": "one mask a sequence",
    "one_question": "one of the masks of each sequence is asked about",
    "strangers": "reversed sequences pair a capital with a wrong letter",
}
#: those that draw at random among the questions of a whole batch, so that every batch must be drawn alone
DRAWN_PER_BATCH = ("drop_random", "drop_random_elsewhere", "one_question")


def check_intervention(intervention: str, objective: str = "masked_diffusion", right_weight: float = 1) -> None:
    """Refuse an unknown intervention, and any on a causal model; likewise a weight.

    :raises ValueError: for an unknown intervention, naming the valid ones, or settings that do not go together
    """
    if intervention not in INTERVENTIONS:
        raise ValueError(f"unknown intervention {intervention!r}; one of {', '.join(INTERVENTIONS)}")
    if intervention != "none" and objective == "autoregressive":
        raise ValueError(f"intervention {intervention!r} changes masked questions; objective {objective!r} has none")
    if right_weight != 1 and (intervention != "none" or objective == "autoregressive"):
        raise ValueError(f"right_weight {right_weight} goes with intervention 'none' and a masked objective, not with "
                         f"{intervention!r} and {objective!r}")


def make_intervened_batch(
    intervention: str, objective: str, tokens: TokenArray, rng: Rng, uniforms: Uniforms,
    masking_sampler: str = "stratified",
) -> MaskedBatch:
    """One batch of questions under an intervention; arguments as in `objectives.make_batch`."""
    check_intervention(intervention, objective)
    if intervention == "one_mask":
        return one_mask(tokens, rng)
    if intervention == "letters_only":
        return letters_only(tokens, uniforms)
    asked = objectives.make_batch(objective, tokens, rng, uniforms, masking_sampler)
    if intervention == "none":
        return asked
    if intervention == "one_question":
        return one_question(asked, rng)
    if intervention == "strangers":
        return wrong_partner(asked, tokens, rng)
    return dataclasses.replace(asked, weights=np.where(dropped(intervention, asked, rng), 0.0, asked.weights))


def dropped(intervention: str, asked: MaskedBatch, rng: Rng) -> Bool[np.ndarray, " rows"]:
    """Which of the asked rows one of the ``drop_`` interventions drops."""
    right = right_of_capital(asked)
    if intervention == "drop_random":
        return _shuffled(right, asked, rng, placeholders(asked))
    if intervention == "drop_random_elsewhere":
        return _shuffled(right, asked, rng, placeholders(asked) & ~right)
    if intervention.startswith("drop_right_letter"):
        shown = np.any(asked.tokens < task.LETTERS, axis=1)[asked.rows // asked.tokens.shape[1]]
        return right & (shown == (intervention == "drop_right_letter_shown"))
    if intervention == "drop_left_of_capital":
        return placeholders(asked) & _visible_case_on_side(asked, case=1, right=False)
    if intervention == "drop_left_of_letter":
        return placeholders(asked) & _visible_case_on_side(asked, case=0, right=False)
    return right


def weigh_right_of_capital(asked: MaskedBatch, weight: float) -> MaskedBatch:
    """The batch with the loss on placeholders to the right of a visible capital times ``weight``; 0 drops it."""
    if weight == 1:
        return asked
    return dataclasses.replace(asked, weights=asked.weights * np.where(right_of_capital(asked), weight, 1.0))


def right_of_capital(asked: MaskedBatch) -> Bool[np.ndarray, " rows"]:
    """Placeholder questions to the right of a visible capital."""
    return placeholders(asked) & _visible_case_on_side(asked, case=1, right=True)


def placeholders(asked: MaskedBatch) -> Bool[np.ndarray, " rows"]:
    """Questions whose right answer is the placeholder."""
    return asked.targets == task.PLACEHOLDER


def _visible_case_on_side(asked: MaskedBatch, case: int, right: bool) -> Bool[np.ndarray, " rows"]:
    """Whether a visible letter (case 0: lowercase, 1: capital) stands on the other side of each asked row."""
    seen = asked.tokens // task.LETTERS == case
    found = seen.cumsum(1) if right else seen[:, ::-1].cumsum(1)[:, ::-1]
    return found.reshape(-1)[asked.rows] > 0


def _shuffled(
    chosen: Bool[np.ndarray, " rows"], asked: MaskedBatch, rng: Rng, among: Bool[np.ndarray, " rows"]
) -> Bool[np.ndarray, " rows"]:
    """As many questions of each weight as are chosen, or all there are, but at random among others."""
    at_random = np.zeros_like(chosen)
    for weight in np.unique(asked.weights[chosen]):
        alike = asked.weights == weight
        at_random[rng.permutation(np.flatnonzero(among & alike))[: np.count_nonzero(chosen & alike)]] = True
    return at_random


def one_mask(tokens: TokenArray, rng: Rng) -> MaskedBatch:
    """One mask a sequence, anywhere; weight L, so that a sequence weighs what it weighs under `stratified`."""
    length = tokens.shape[1]
    masked = objectives.random_subsets(np.ones(len(tokens), dtype=np.int64), length, rng)
    return objectives.mask_tokens(tokens, masked, np.full(len(tokens), float(length)))


def letters_only(tokens: TokenArray, uniforms: Uniforms) -> MaskedBatch:
    """One or both letters of each pair masked, as often; weight 2/k for k masks, the objective of the pair alone.

    :param uniforms: one a sequence, which set how many are masked
    """
    # the four quarters of the uniforms: the letter, the capital, and twice both
    quarter = np.minimum((uniforms * 4).astype(int), 3)[:, None]
    letter, capital = tokens < task.LETTERS, tokens // task.LETTERS == 1
    masked = (letter & (quarter != 1)) | (capital & (quarter != 0))
    return objectives.mask_tokens(tokens, masked, 2.0 / masked.sum(1))


def one_question(asked: MaskedBatch, rng: Rng) -> MaskedBatch:
    """One asked row of every sequence, at the weight of all of them together."""
    sequence = asked.rows // asked.tokens.shape[1]
    order = rng.permutation(len(sequence))
    _, first = np.unique(sequence[order], return_index=True)
    kept = np.sort(order[first])
    total: np.ndarray = np.bincount(sequence, asked.weights)[sequence[kept]]
    return MaskedBatch(asked.tokens, asked.rows[kept], asked.targets[kept], total)


def wrong_partner(asked: MaskedBatch, tokens: TokenArray, rng: Rng) -> MaskedBatch:
    """Another lowercase letter wherever the capital stands first; ``tokens`` are the clean sequences."""
    small = tokens < task.LETTERS
    capital = tokens // task.LETTERS == 1
    wrong_order = small & (capital.argmax(1) < small.argmax(1))[:, None]
    other = (tokens + 1 + rng.integers(task.LETTERS - 1, size=(len(tokens), 1))) % task.LETTERS
    clean: Int[np.ndarray, "batch length"] = np.where(wrong_order, other, tokens)
    shown = np.where(asked.tokens == task.MASK, task.MASK, clean)
    return dataclasses.replace(asked, tokens=shown, targets=clean.reshape(-1)[asked.rows])
