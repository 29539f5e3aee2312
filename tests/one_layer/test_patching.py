"""Grafts: the whole of the forward computation gives the forward answer, nothing gives the query's own."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies
from small_one_layer import random_model

from lib.encodings import ENCODINGS
from lib.one_layer import patching, task
from lib.one_layer.patching import record_activations
from lib.one_layer.task import LETTERS, paired_queries

torch.set_num_threads(1)
FORWARD, REVERSE = paired_queries(5)


def model(seed=0, **settings):
    return random_model(0.7, seed, **{"length": 5, **settings})


def put(made, source, *points):
    """Logits of the reverse queries with ``source`` put in."""
    return patching.logits_from(made, patching.patch(record_activations(made, REVERSE), source, REVERSE, points))


def by_hooks(made, source, *points):
    """The same by intervening in a run of the whole model: an independent way."""
    attention, rows = made.layers[0].attention, torch.arange(len(REVERSE))

    def row(module, inputs, weights):
        weights = weights.clone()
        weights[rows, :, REVERSE.position] = source.row
        return weights

    def score(module, inputs, scores):
        scores = scores.clone()
        scores[rows, :, REVERSE.position, REVERSE.evidence] = source.score[rows, :, REVERSE.evidence]
        return scores

    def residual(module, inputs, added):
        added = added.clone()  # the block adds this to its own embedding
        added[rows, REVERSE.position] += source.residual - made.embed(REVERSE.tokens)[rows, REVERSE.position]
        return added

    places = {"score": (attention.scores, score), "row": (attention.weights, row), "residual": (attention, residual),
              "values": (attention.values, lambda module, inputs, own: source.values)}
    handles = [places[point][0].register_forward_hook(places[point][1]) for point in points]
    logits = plain(made, REVERSE)
    for handle in handles:
        handle.remove()
    return logits


def plain(made, asked):
    return made(asked.tokens).logits[torch.arange(len(asked)), asked.position]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("heads", [1, 2])
def test_everything_together_is_the_forward_answer(encoding, heads):
    made = model(encoding=encoding, heads=heads)
    theirs = patching.mirror(record_activations(made, FORWARD))
    whole = put(made, theirs, "row", "values", "residual")
    assert torch.allclose(whole, plain(made, FORWARD), atol=1e-9)
    mirror = encoding in ("alibi", "none")  # these answer mirror images alike
    assert torch.allclose(whole, plain(made, REVERSE), atol=1e-3) == mirror


@pytest.mark.parametrize("encoding", ["rope", "t5", "alibi_directional"])
def test_under_a_relative_encoding_the_row_is_all_there_is(encoding):
    made = model(encoding=encoding)
    theirs = patching.mirror(record_activations(made, FORWARD))
    assert torch.allclose(put(made, theirs, "row"), plain(made, FORWARD), atol=1e-9)
    for point in ("values", "residual"):
        assert torch.allclose(put(made, theirs, point), plain(made, REVERSE), atol=1e-9)


@pytest.mark.parametrize("encoding", ["learned", "sinusoidal"])
def test_under_an_absolute_encoding_every_point_matters(encoding):
    made = model(encoding=encoding)
    theirs = patching.mirror(record_activations(made, FORWARD))
    for point in patching.SITES:
        changed = put(made, theirs, point)
        assert not torch.allclose(changed, plain(made, REVERSE), atol=1e-3)
        assert not torch.allclose(changed, plain(made, FORWARD), atol=1e-3)


@pytest.mark.parametrize("points", [(), ("score",), ("row", "values"), patching.SITES])
def test_a_query_grafted_onto_itself_is_unchanged(points):
    made = model(encoding="learned")
    assert torch.allclose(put(made, record_activations(made, REVERSE), *points), plain(made, REVERSE))
    assert not any(module._forward_hooks for module in made.modules())


@pytest.mark.parametrize("points", [("score",), ("row",), ("values",), ("residual",), ("score", "values"),
                                    ("row", "values", "residual")])
@pytest.mark.parametrize("settings", [{}, {"encoding": "learned", "heads": 2}, {"encoding": "t5", "norm": False},
                                      {"encoding": "sinusoidal", "mlp": False}], ids=str)
def test_grafts_are_what_hooks_in_the_whole_model_do(settings, points):
    made = model(**settings)
    theirs = patching.mirror(record_activations(made, FORWARD))
    assert torch.allclose(put(made, theirs, *points), by_hooks(made, theirs, *points), atol=1e-9)


def test_the_score_graft_is_the_softmax_with_one_score_exchanged():
    made, row = model(), torch.arange(len(REVERSE))
    own, theirs = record_activations(made, REVERSE), patching.mirror(record_activations(made, FORWARD))
    scores = own.score.clone()
    scores[row, :, REVERSE.evidence] = theirs.score[row, :, REVERSE.evidence]
    expected = put(made, own._replace(row=scores.softmax(-1)), "row")
    assert torch.allclose(put(made, theirs, "score"), expected, atol=1e-9)
    # mirrored: the forward score stands where the reverse evidence is
    forward = record_activations(made, FORWARD)
    assert torch.equal(theirs.score[row, :, REVERSE.evidence], forward.score[row, :, FORWARD.evidence])


def test_another_fact_is_another_letter_at_the_same_positions():
    made = model(encoding="learned")
    heard = record_activations(made, FORWARD)
    other, shift = patching.of_another_fact(heard), len(FORWARD) // LETTERS
    assert torch.equal(FORWARD.position.roll(shift), FORWARD.position)
    assert not bool((FORWARD.letter.roll(shift) == FORWARD.letter).any())
    assert torch.equal(other.score[shift:], heard.score[:-shift])


@settings(max_examples=10, deadline=None)
@given(strategies.floats(0, 1), strategies.booleans())
def test_a_row_with_given_evidence_is_a_distribution(mass, at_random):
    made = model(heads=2)
    own, rows = record_activations(made, REVERSE), torch.arange(len(REVERSE))
    wanted = torch.full(own.row.shape[:2], mass, dtype=own.row.dtype)
    draw = torch.Generator().manual_seed(1) if at_random else None
    row = patching.with_evidence(own, REVERSE, wanted, draw).row
    assert torch.allclose(row.sum(-1), torch.ones_like(wanted)) and bool((row >= 0).all())
    assert torch.allclose(row[rows, :, REVERSE.evidence], wanted)


def test_its_own_mass_leaves_the_answer_and_doses_follow_the_evidence():
    made = model()
    own = record_activations(made, REVERSE)
    same = patching.with_evidence(own, REVERSE, patching.evidence_weight(own, REVERSE))
    assert torch.allclose(put(made, same, "row"), plain(made, REVERSE), atol=1e-9)
    accuracies = patching.accuracy_by_attention(made.float(), REVERSE)
    assert len(accuracies) == len(patching.ATTENTION_SHARES) and all(0 <= value <= 100 for value in accuracies)


def test_shares_are_the_spread_of_the_masks_attention_on_the_evidence():
    made = model()
    rows = record_activations(made, REVERSE).row
    each = [float(row[:, at].mean()) for row, at in zip(rows, REVERSE.evidence, strict=True)]
    expected = np.quantile(each, patching.QUANTILES).tolist()
    assert patching.attention_quantiles(made, REVERSE) == pytest.approx(expected, abs=1e-9)


def test_outcomes_report_every_trial_and_the_controls_come_out_as_they_must():
    made = model().float()
    found = patching.patch_accuracies(made, FORWARD, REVERSE)
    accuracy = lambda queries: float((plain(made, queries).argmax(1) == queries.target).float().mean() * 100)
    assert found["graft_itself_accuracy"] == pytest.approx(accuracy(REVERSE))
    assert found["graft_everything_forward_accuracy"] == pytest.approx(accuracy(FORWARD))
    assert found["graft_row_forward_accuracy"] == pytest.approx(accuracy(FORWARD))
    assert len(found) == 2 * (1 + 3 * len(patching.SITES) + 4 + 2) + 4


def test_where_weights_decide_alone_the_forward_query_fails_with_the_reverse_one():
    """Placeholders and mask made alike: under rope the evidence's weight is then all that the answer depends on."""
    made = model(seed=3)
    with torch.no_grad():
        made.embedding[patching.PLACEHOLDER] = made.embedding[53]
    draw = torch.Generator().manual_seed(0)
    for _ in range(400):  # some unembedding under which the two sides are answered differently
        with torch.no_grad():
            made.head.weight.normal_(generator=draw)
        right = [(plain(made, asked).argmax(1) == asked.target) for asked in (FORWARD, REVERSE)]
        if float((right[0] != right[1]).double().mean()) > 0.02:
            break
    assert float((right[0] != right[1]).double().mean()) > 0.02
    found = patching.forward_with_reverse_weight(made, FORWARD, REVERSE)
    assert found["broken_agreement"] == 100.0
    assert found["broken_accuracy"] == pytest.approx(float(right[1].double().mean() * 100))
    heard = record_activations(made, REVERSE)  # another weight changes the agreement
    other = 1 - patching.evidence_weight(heard, REVERSE)
    wrong = patching.with_evidence(record_activations(made, FORWARD), FORWARD, other)
    said = patching.logits_from(made, wrong).argmax(1) == FORWARD.target
    assert not torch.equal(said, right[1])


def test_unknown_points_and_deep_or_causal_models_are_refused():
    made = model()
    with pytest.raises(ValueError, match="unknown site 'keys'; one of score, row, values, residual"):
        put(made, record_activations(made, REVERSE), "keys")
    with pytest.raises(ValueError, match="masked models of depth 1"):
        record_activations(model(depth=2), REVERSE)


# What each trial takes, and from where -----------------------------------------------------------------------


def test_every_trial_takes_from_its_source():
    made = model()
    own, heard = record_activations(made, REVERSE), record_activations(made, FORWARD)
    theirs, tried = patching.mirror(heard), patching.patched_logits(made, FORWARD, REVERSE, seed=3)
    shift = lambda row: row.roll(len(FORWARD) // LETTERS, 0)
    for name, row in (("forward", theirs.row), ("other", shift(theirs.row)), ("reverse", shift(own.row))):
        assert torch.allclose(tried[f"row_{name}"], patching.logits_from(made, own._replace(row=row)), atol=1e-6), name
    for name, source, asked in (("forward", heard, FORWARD), ("reverse", own, REVERSE)):
        mass, draw = patching.evidence_weight(source, asked), torch.Generator().manual_seed(3)
        expected = patching.with_evidence(own, REVERSE, mass, draw)
        assert torch.allclose(tried[f"mass_{name}"], patching.logits_from(made, expected), atol=1e-6), name


def test_shares_are_of_the_errors(monkeypatch):
    logits = torch.zeros(len(REVERSE), task.CLEAN)
    logits[:, task.PLACEHOLDER] = 1
    logits[torch.arange(60), REVERSE.target[:60]] = 2
    monkeypatch.setattr(patching, "patched_logits", lambda *each: {"itself": logits})
    assert patching.patch_accuracies(model(), FORWARD, REVERSE)["graft_itself_placeholder_share"] == 100


def test_doses_are_in_their_order():
    made = model().float()
    own = record_activations(made, REVERSE)
    by_share = zip(patching.ATTENTION_SHARES, patching.accuracy_by_attention(made, REVERSE), strict=True)
    for dose, found in [*by_share][::6]:
        share = torch.full(own.row.shape[:2], dose)
        said = patching.logits_from(made, patching.with_evidence(own, REVERSE, share)).argmax(1)
        assert found == pytest.approx(100 * float((said == REVERSE.target).float().mean())), dose


def test_the_broken_control_takes_another_facts_weight(monkeypatch):
    masses, real = [], patching.with_evidence
    spy = lambda own, asked, mass: masses.append(mass) or real(own, asked, mass)
    monkeypatch.setattr(patching, "with_evidence", spy)
    patching.forward_with_reverse_weight(model(), FORWARD, REVERSE)
    assert torch.equal(masses[1], masses[0].roll(len(FORWARD) // LETTERS, 0)) and not torch.equal(*masses)
