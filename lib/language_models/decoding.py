"""How each model answers: LLaDA's and Dream's published samplers, greedy decoding for causal models, accuracy.

A masked model starts from a prompt followed by masks. LLaDA fills them block by block; within a block, each step
keeps its most confident predictions and masks the rest again (low-confidence remasking, Nie et al. 2025). Dream
walks a time grid from 1 to `LAST_TIME` and fills, at each step, the share of masks that the grid calls for, by one of
four rules (Ye et al. 2025). With the same seed both draw the same random numbers as the published samplers, in the
same order, so their tokens are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import transformers
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lib.language_models import queries
from lib.language_models.facts import Example, is_right

LAST_TIME = 1e-3  # Dream's last time
REMASKING = ("low_confidence", "random")
ALGORITHMS = ("origin", "maskgit_plus", "topk_margin", "entropy")

Tokens = Int[Tensor, "batch length"]
Longer = Int[Tensor, "batch longer"]  # prompt and answer


# LLaDA -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def llada(
    model: Any, prompt: Tokens, mask: int, *, length: int = 128, steps: int = 128, block: int = 128,
    temperature: float | int = 0.0, guidance: float | int = 0.0, remasking: str = "low_confidence",
    attention_mask: Tokens | None = None,
) -> Longer:
    """Prompt and ``length`` new tokens by semi-autoregressive remasking.

    :param mask: id of the mask token
    :param steps: forward passes in all, shared evenly by the blocks
    :param block: tokens filled at a time, left to right; ``length`` for none of that
    :param guidance: strength of classifier-free guidance against a masked prompt; doubles the work
    :raises ValueError: where blocks or steps do not divide, or for another ``remasking``
    """
    if remasking not in REMASKING:
        raise ValueError(f"remasking must be one of {', '.join(REMASKING)}, not {remasking!r}")
    if length % block:
        raise ValueError(f"length {length} must be a multiple of block {block}")
    blocks = length // block
    if steps % blocks:
        raise ValueError(f"steps {steps} must be a multiple of the {blocks} blocks")
    x, visible = _with_masks(prompt, attention_mask, length, mask)
    given = x != mask
    for start in range(prompt.shape[1], x.shape[1], block):
        quota = _shares((x[:, start : start + block] == mask).sum(1), steps // blocks)
        for n_unmask in quota.T:
            # predict every mask, by a sample at `temperature`
            logits = _guided(model, x, visible, given, mask, guidance)
            guess = _add_gumbel_noise(logits, temperature).argmax(-1)
            # keep the most confident predictions of this block and mask the rest again
            confidence = _confidence(logits, guess, remasking)
            confidence[:, start + block :] = -torch.inf  # later blocks wait
            _fill(x, guess, torch.where(x == mask, confidence, -torch.inf), n_unmask)
    return x


def _with_masks(
    prompt: Tokens, attention_mask: Tokens | None, length: int, mask: int
) -> tuple[Longer, Longer | None]:
    x = nn.functional.pad(prompt, (0, length), value=mask)
    return x, None if attention_mask is None else nn.functional.pad(attention_mask, (0, length), value=1)


def _shares(masks: Int[Tensor, " batch"], steps: int) -> Int[Tensor, "batch step"]:
    """How many masks each row fills at each step: even shares, the first steps taking what is left over."""
    first = torch.arange(steps, device=masks.device)[None] < (masks % steps)[:, None]
    return (masks // steps)[:, None] + first


def _guided(model: Any, x: Tokens, visible: Tokens | None, given: Bool[Tensor, "batch length"], mask: int,
            guidance: float | int) -> Float[Tensor, "batch length vocab"]:
    if not guidance:
        return model(input_ids=x, attention_mask=visible).logits
    both = torch.cat([x, x.masked_fill(given, mask)])
    seen = None if visible is None else torch.cat([visible, visible])
    asked, free = model(input_ids=both, attention_mask=seen).logits.chunk(2)
    return free + (guidance + 1) * (asked - free)


def _add_gumbel_noise(logits: Float[Tensor, "batch length vocab"], temperature: float | int) -> Tensor:
    """Scores whose argmax is a sample at ``temperature`` (Gumbel's trick); in float64, or samples are biased."""
    if not temperature:
        return logits
    logits = logits.double()
    return logits.exp() / (-torch.rand_like(logits).log()) ** temperature


def _confidence(logits: Tensor, guess: Tokens, remasking: str) -> Float[Tensor, "batch length"]:
    if remasking == "random":
        return torch.rand(guess.shape, device=guess.device)
    return logits.softmax(-1).gather(-1, guess[..., None])[..., 0]


def _fill(
    x: Tokens, guess: Tokens, confidence: Float[Tensor, "batch length"], n_unmask: Int[Tensor, " batch"]
) -> None:
    """Write the ``n_unmask`` most confident guesses of each row into ``x``."""
    for row, count in enumerate(n_unmask.tolist()):
        places = confidence[row].topk(count).indices
        x[row, places] = torch.where(confidence[row, places] > -torch.inf, guess[row, places], x[row, places])


# Dream -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def dream(
    model: Any, prompt: Tokens, mask: int, *, length: int = 128, steps: int = 512, algorithm: str = "origin",
    temperature: float | int = 0.0, top_p: float | None = None, top_k: int | None = None,
    order_temperature: float | int = 0.0, attention_mask: Tokens | None = None,
) -> Longer:
    """Prompt and ``length`` new tokens by one of Dream's algorithms.

    :param algorithm: ``origin`` fills masks at random; ``maskgit_plus``, ``topk_margin`` and ``entropy`` fill those
        with the highest probability, the widest lead, the lowest entropy
    :param temperature: of the tokens drawn
    :param order_temperature: of the order in which masks are filled; 0 fills the most confident
    :param attention_mask: 0 at padding on the left, where positions do not count
    :raises ValueError: for another ``algorithm``
    """
    if algorithm not in ALGORITHMS:
        raise ValueError(f"algorithm must be one of {', '.join(ALGORITHMS)}, not {algorithm!r}")
    x, visible = _with_masks(prompt, attention_mask, length, mask)
    settings = _positions(visible)
    times = torch.linspace(1, LAST_TIME, steps + 1)
    for step in range(steps):
        masked, last = x == mask, step == steps - 1
        logits = queries.aligned_logits(model, model(input_ids=x, **settings).logits)[masked]
        # from time t to s, the share 1 - s / t of the masks is filled; at the last step, all of them
        share = torch.tensor(1.0) if last else 1 - times[step + 1] / times[step]
        if algorithm == "origin":
            _fill_at_random(x, masked, logits, float(share), temperature, top_p, top_k)
        else:
            predicted = _predict(logits, temperature, top_p, top_k)
            n_unmask = int(masked.sum() / len(x) * share)
            confidence = _confidence_by(algorithm, predicted)
            _fill_most_confident(x, mask, predicted.tokens, confidence, n_unmask, order_temperature)
    return x


def _positions(visible: Tokens | None) -> dict[str, Tensor]:
    if visible is None or bool(visible.all()):
        return {}
    counted = (visible.cumsum(-1) - 1).masked_fill(visible == 0, 1)
    return {"attention_mask": visible, "position_ids": counted}


class _Predicted(NamedTuple):
    """A token for each mask, and the distribution that it is of."""

    tokens: Int[Tensor, " masks"]
    probability: Float[Tensor, " masks"]  # of each token
    probabilities: Float[Tensor, "masks vocab"]


def _predict(logits: Float[Tensor, "masks vocab"], temperature: float | int, top_p: float | None,
             top_k: int | None) -> _Predicted:
    logits = logits / temperature if temperature > 0 else logits
    if top_p is not None and top_p < 1:
        logits = _nucleus(logits, top_p)
    if top_k is not None:
        lowest = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < lowest, torch.finfo(logits.dtype).min)
    probabilities = logits.softmax(-1)
    if temperature > 0:
        tokens = torch.distributions.Categorical(probs=probabilities).sample()
        return _Predicted(tokens, probabilities.gather(-1, tokens[:, None])[:, 0], probabilities)
    best = probabilities.max(-1)
    return _Predicted(best.indices, best.values, probabilities)


def _nucleus(logits: Float[Tensor, "masks vocab"], top_p: float) -> Float[Tensor, "masks vocab"]:
    """Drop what lies beyond the smallest set of tokens with probability ``top_p``; the first always stays."""
    ordered, places = logits.sort(descending=True)
    beyond = ordered.softmax(-1).cumsum(-1) > top_p
    beyond = torch.cat([torch.zeros_like(beyond[:, :1]), beyond[:, :-1]], -1)
    return logits.masked_fill(torch.zeros_like(beyond).scatter(-1, places, beyond), torch.finfo(logits.dtype).min)


def _confidence_by(algorithm: str, predicted: _Predicted) -> Float[Tensor, " masks"]:
    p = predicted.probabilities
    if algorithm == "topk_margin":
        first, second = p.topk(2).values.unbind(-1)
        return first - second
    if algorithm == "entropy":
        return (p * (p + 1e-10).log()).sum(-1)  # minus the entropy
    return predicted.probability


def _fill_at_random(x: Tokens, masked: Bool[Tensor, "batch length"], logits: Tensor, share: float,
                    temperature: float | int, top_p: float | None, top_k: int | None) -> None:
    chosen = torch.rand(len(logits), device=x.device) < share
    tokens = x[masked]
    if chosen.any():
        tokens[chosen] = _predict(logits[chosen], temperature, top_p, top_k).tokens
    x[masked] = tokens


def _fill_most_confident(x: Tokens, mask: int, tokens: Tensor, confidence: Tensor, n_unmask: int,
                         order_temperature: float | int) -> None:
    """Write ``n_unmask`` tokens a row into ``x``: the most confident, or drawn by confidence at a temperature."""
    if not n_unmask:
        return
    masked = x == mask
    scores = torch.full(x.shape, -torch.inf, dtype=confidence.dtype, device=x.device)
    scores[masked] = confidence
    if order_temperature:
        places = (scores / order_temperature).softmax(-1).multinomial(n_unmask)
    else:
        places = scores.topk(n_unmask).indices
    guess = torch.full_like(x, mask)  # a row with fewer masks than that loses tokens again, as in the published sampler
    guess[masked] = tokens
    x.scatter_(1, places, guess.gather(1, places))


# Causal models, and answers as text --------------------------------------------------------------------------


@torch.no_grad()
def greedy(model: Any, prompt: Tokens, end: int, *, length: int = 128, attention_mask: Tokens | None = None) -> Longer:
    """Prompt and up to ``length`` most likely tokens; after ``end``, only ``end``.

    What a checkpoint's generation_config.json asks for, such as a penalty on repeated tokens, is left aside: for the
    time of the call the model has settings that ask for nothing.
    """
    shown = torch.ones_like(prompt) if attention_mask is None else attention_mask
    settings = transformers.GenerationConfig
    plain = settings(max_new_tokens=length, do_sample=False, eos_token_id=end, pad_token_id=end)
    own, model.generation_config = model.generation_config, settings()  # fills whatever `plain` leaves open
    try:
        return model.generate(input_ids=prompt, attention_mask=shown, generation_config=plain)
    finally:
        model.generation_config = own


def decoder_for(model: Any, tokenizer: Any, length: int) -> Callable[[Tokens, Tokens], Longer]:
    """How a loaded model decodes here: without chance, in as many steps as tokens.

    Causal models and LLaDA then write one token a step. Dream's published time grid does not: its share of what is
    left, rounded down, fills none at the first step, one at most others and two at the last.
    """
    mask, end = tokenizer.mask_token_id, tokenizer.eos_token_id
    if mask is None:
        return lambda ids, shown: greedy(model, ids, end, length=length, attention_mask=shown)
    if queries.logits_shift(model):
        return lambda ids, shown: dream(model, ids, mask, length=length, steps=length, algorithm="entropy",
                                        attention_mask=shown)
    return lambda ids, shown: llada(model, ids, mask, length=length, steps=length, block=length,
                                    attention_mask=shown)


def generate_text(
    model: Any, tokenizer: Any, prompts: Sequence[str], *, length: int = 32, batch: int = 16
) -> list[str]:
    """What the model writes after each prompt, up to its end token. Prompts are padded on the left."""
    decode = decoder_for(model, tokenizer, length)
    answers = []
    for start in range(0, len(prompts), batch):
        rows = [tokenizer(prompt)["input_ids"] for prompt in prompts[start : start + batch]]
        width = max(map(len, rows))
        ids = torch.tensor([[tokenizer.eos_token_id] * (width - len(row)) + row for row in rows]).to(model.device)
        shown = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]).to(model.device)
        for row in decode(ids, shown)[:, width:].tolist():
            cut = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
            answers.append(tokenizer.decode(row[:cut]))
    return answers


def which_right(
    model: Any, tokenizer: Any, examples: Sequence[Example], *, length: int = 32, batch: int = 16
) -> list[bool]:
    """Which examples are answered rightly, each by its own scoring (`lib.language_models.facts.is_right`)."""
    found = generate_text(model, tokenizer, [example.prompt for example in examples], length=length, batch=batch)
    return [is_right(example, answer) for answer, example in zip(found, examples, strict=True)]


def accuracy(model: Any, tokenizer: Any, examples: Sequence[Example], *, length: int = 32, batch: int = 16) -> float:
    """Share of examples answered rightly, in percent (Table 7).

    :raises ValueError: without examples
    """
    if not examples:
        raise ValueError("no examples to answer")
    right = which_right(model, tokenizer, examples, length=length, batch=batch)
    return 100 * sum(right) / len(right)
