"""Measurements against plain loops and against the shared probes."""

import numpy as np
import pytest
import torch
from small_one_layer import random_ensemble

from lib.language_models import signatures
from lib.one_layer import metrics, patching, task
from lib.one_layer.task import Queries

torch.set_num_threads(1)


def ensemble(members=2, seed=0, **settings):
    return random_ensemble(0.3, members, seed, **{"length": 4, **settings})


def test_grading_counts_answers():
    asked = Queries(*(torch.tensor(x) for x in ([[53]] * 4, [0] * 4, [0] * 4, [0, 1, 30, 2], [0, 1, 4, 2])))
    logits = torch.zeros(1, 4, task.CLEAN)
    logits[0, 0, 0] = 5  # right
    logits[0, 1, task.PLACEHOLDER], logits[0, 1, 1] = 5, 3  # the placeholder, but right among lowercase letters
    logits[0, 2, 30], logits[0, 2, 0] = 3, 5  # wrong, but right among capitals
    logits[0, 3, 9] = 5  # wrong either way
    graded = metrics.accuracy_and_probability(logits, asked)
    assert graded["accuracy"] == [25.0] and graded["accuracy_lowercase"] == [75.0]
    expected = [logits[0, row].softmax(0)[target] for row, target in enumerate([0, 1, 30, 2])]
    assert graded["probability"][0] == pytest.approx(float(sum(expected) / 4))
    others = [logits[0, row].softmax(0)[wrong] for row, wrong in enumerate([1, 2, 31, 3])]
    assert graded["probability_other"][0] == pytest.approx(float(sum(others) / 4))
    assert metrics.placeholder_share(logits, asked) == [pytest.approx(100 / 3)]
    assert metrics.placeholder_share(logits[:, :1], asked[torch.arange(1)]) == [None]


@pytest.mark.parametrize("settings", [{}, {"encoding": "learned"}, {"depth": 2}, {"causal": True}], ids=str)
def test_answers_are_the_plain_models(settings):
    made = ensemble(**settings)
    for asked in metrics.queries(made.settings):
        found = metrics.query_logits(made, asked)
        place = asked.position - int(made.settings.causal)
        for index in range(2):
            own = made.member(index)(asked.tokens).logits[torch.arange(len(asked)), place]
            assert torch.allclose(found[index], own, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"encoding": "t5"}, {"depth": 2}, {"causal": True}], ids=str)
def test_gradient_cosines_are_the_probes(settings):
    made = ensemble(1, **settings)
    forward, reverse = metrics.queries(made.settings)
    facts = [(forward[forward.letter == fact].batch(), reverse[reverse.letter == fact].batch()) for fact in range(26)]
    found = metrics.gradient_cosines(made)
    each = [signatures.cosine_by_autograd(made.member(0), *pair).cosine for pair in facts]
    assert signatures.gradient_cosine(made.member(0), *facts[4]).cosine == pytest.approx(each[4], abs=1e-5)
    matched = np.mean(each)
    assert float(found["gradient_cosine"]) == pytest.approx(matched, abs=1e-5)
    pooled = signatures.cosine_by_autograd(made.member(0), forward.batch(), reverse.batch()).cosine
    assert float(found["gradient_cosine_pooled"]) == pytest.approx(pooled, abs=1e-5)
    parts = [float(value) for name, value in found.items() if name.startswith("gradient_part")]
    assert sum(parts) == pytest.approx(matched, abs=1e-5) and len(parts) >= 4


def test_the_mismatched_cosine_pairs_different_facts():
    made = ensemble(1)
    forward, reverse = (metrics.fact_gradients(made, asked)[0] for asked in metrics.queries(made.settings))
    cosines = [torch.cosine_similarity(forward[a], reverse[b], 0) for a in range(26) for b in range(26) if a != b]
    found = metrics.gradient_cosines(made)["gradient_cosine_mismatched"]
    assert float(found) == pytest.approx(float(torch.stack(cosines).mean()), abs=1e-5)


@pytest.mark.parametrize("settings", [{}, {"encoding": "learned", "heads": 2}, {"depth": 2}], ids=str)
def test_score_correlations_average_over_placements(settings):
    made = ensemble(1, **settings)
    model, length = made.member(0), made.settings.length
    scores = {}

    def listen(module, inputs, out):
        scores["last"] = out

    model.layers[-1].attention.scores.register_forward_hook(listen)

    def on_evidence(i, j):  # (heads, 26) scores from a mask at i to each capital at j
        tokens = torch.full((26, length), task.PLACEHOLDER)
        tokens[:, i], tokens[:, j] = task.MASK, torch.arange(26) + 26
        model(tokens)
        return scores["last"][:, :, i, j].T.tolist()

    found = metrics.score_correlations(made)[0]
    for one, two in ((1, 1), (1, 3), (2, 1)):
        by_hand = [signatures.score_correlation(*pair)
                   for i in range(length - one) for k in range(two, length)
                   for pair in zip(on_evidence(i, i + one), on_evidence(k, k - two), strict=True)]
        assert float(found[one - 1, two - 1]) == pytest.approx(np.mean(by_hand), abs=1e-5)


@pytest.mark.parametrize("encoding", ["rope", "learned", "t5"])
def test_scores_and_attention_are_those_of_any_sequence(encoding):
    made = ensemble(encoding=encoding, heads=2)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(task.CLEAN, (5, 4), generator=generator)
    position, evidence = torch.tensor([0, 1, 2, 3, 1]), torch.tensor([3, 0, 1, 2, 2])
    tokens[torch.arange(5), position] = task.MASK
    attention = metrics.attention_on_evidence(made, Queries(tokens, position, evidence, position, position))
    for index in range(2):
        plain, seen = made.member(index), {}
        for name in ("weights", "scores"):
            point = getattr(plain.layers[0].attention, name)
            point.register_forward_hook(lambda module, inputs, out, name=name, seen=seen: seen.update({name: out}))
        table = metrics.score_table(plain)
        plain(tokens)
        for row, i in enumerate(position.tolist()):
            weight = seen["weights"][row, :, i, evidence[row]].mean()
            assert torch.allclose(attention[index, row], weight, atol=1e-6)
            for j, token in enumerate(tokens[row].tolist()):
                assert torch.allclose(table[:, i, token, j], seen["scores"][row, :, i, j], atol=1e-5)


def test_mismatched_and_token_correlations_pair_what_they_say():
    made = ensemble(1)
    table = metrics.score_table(made.member(0))[0]  # (mask, token, evidence)
    for found, over, shift in (
        (metrics.score_correlations(made, 3), slice(26, 52), 3),
        (metrics.token_score_correlations(made), slice(0, 53), 0),
    ):
        forward, reverse = table[:, over], table[:, over].roll(-shift, 1)
        pairs = [(forward[i, :, i + 2], reverse[k, :, k - 1]) for i in (0, 1) for k in (1, 2, 3)]
        by_hand = [signatures.score_correlation(*pair) for pair in pairs]
        assert float(found[0, 1, 0]) == pytest.approx(np.mean(by_hand), abs=1e-5)


def test_alibi_scores_correlate_perfectly_and_rope_scores_do_not():
    alibi, rope = (metrics.score_correlations(ensemble(encoding=name)) for name in ("alibi", "rope"))
    assert torch.allclose(alibi, torch.ones_like(alibi), atol=1e-6)
    assert rope.min() < 0.99


def test_the_bound_of_a_query_is_the_correlation_under_isotropic_keys():
    made = ensemble(1, width=8)
    bound, q = metrics.trained_query_bound(made)[0], made.member(0).mask_query()[0, 0].detach().double()
    keys = torch.randn(50_000, 8, generator=torch.Generator().manual_seed(3)).double()

    def score(offset):  # q^T R(offset) k, planes as complex numbers
        angle = -offset * torch.from_numpy(metrics.rope_frequencies(8))
        turned = torch.view_as_complex(q.view(-1, 2)) * torch.exp(1j * angle)
        return keys @ torch.view_as_real(turned).reshape(-1)

    assert len(bound) == 5  # totals 2 to 6 at length 4
    for one, two in ((1, 1), (1, 2), (3, 3)):
        assert bound[one + two - 2] == pytest.approx(signatures.score_correlation(score(one), score(-two)), abs=0.02)


def test_everything_measured_is_a_number_a_member():
    made = ensemble(2, length=3)
    measured = metrics.evaluate(made)
    assert {"forward_accuracy", "reverse_accuracy", "placeholder_share", "gradient_cosine", "score_correlation",
            "forward_attention", "reverse_attention", "reverse_probability"} <= set(measured)
    assert all(len(values) == 2 for values in measured.values())


def test_a_query_bound_belongs_to_rope():
    with pytest.raises(ValueError, match="query_bound belongs to masked rope models, not to alibi"):
        metrics.trained_query_bound(ensemble(encoding="alibi"))


# All that is measured ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moved():
    """An ensemble away from its start, and what is measured of it."""
    made = ensemble()
    return made, metrics.evaluate(made)


def test_each_way_is_asked_its_own_queries(moved):
    made, found = moved
    for way, asked in zip(task.DIRECTIONS, task.paired_queries(4), strict=True):
        for name, value in metrics.accuracy_and_probability(metrics.query_logits(made, asked), asked).items():
            assert found[f"{way}_{name}"] == pytest.approx(value), name
        own = [patching.record_activations(made.member(index), asked) for index in range(2)]
        mass = [float(patching.evidence_weight(one, asked).mean()) for one in own]
        assert found[f"{way}_attention"] == pytest.approx(mass, abs=1e-5)


def test_the_placeholders_share_is_of_reverse_errors(moved, monkeypatch):
    seen, share = [], metrics.placeholder_share
    watched = lambda said, asked, *kinds: seen.append(asked) or share(said, asked, *kinds)
    monkeypatch.setattr(metrics, "placeholder_share", watched)
    metrics.evaluate(moved[0])
    assert len(seen) == 1 and torch.equal(seen[0].tokens, task.paired_queries(4)[1].tokens)


def test_correlations_stand_beside_their_controls(moved):
    made, found = moved
    mean = lambda each: pytest.approx(each.mean((1, 2)).tolist(), abs=1e-6)
    assert found["score_correlation"] == mean(metrics.score_correlations(made))
    assert found["score_correlation_mismatched"] == mean(metrics.score_correlations(made, 1))
    assert found["score_correlation_tokens"] == mean(metrics.token_score_correlations(made))


def test_the_last_letters_neighbour_is_a_letter():
    asked = Queries(*(torch.tensor(each) for each in ([[53]] * 2, [0] * 2, [0] * 2, [25, 51], [25, 25])))
    logits = torch.randn(1, 2, task.CLEAN, generator=torch.Generator().manual_seed(0))
    others = [float(logits[0, row].softmax(0)[other]) for row, other in enumerate([24, 50])]
    assert metrics.accuracy_and_probability(logits, asked)["probability_other"][0] == pytest.approx(np.mean(others))


def test_storage_is_value_output_and_head(moved):
    own = [torch.arange(columns.start, columns.stop) for name, columns, _ in moved[0].parameter_slices()
           if {"value", "output", "head"} & {*name.split(".")}]
    assert torch.equal(metrics.group_columns(moved[0])["storage"].sort().values, torch.cat(own).sort().values)


# Layer by layer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"heads": 2}, {"encoding": "learned"}], ids=str)
@pytest.mark.parametrize("shift", [0, 1])
def test_one_layer_agrees_with_the_measurement(settings, shift):
    made = ensemble(**settings)
    expected = metrics.score_correlations(made, shift).mean((1, 2))
    assert torch.allclose(metrics.layer_score_correlations(made, shift)[:, 0], expected, atol=1e-5)


def test_the_last_layer_is_the_measurements_and_the_first_differs():
    made = ensemble(depth=3)
    found, last = metrics.layer_score_correlations(made), metrics.score_correlations(made).mean((1, 2))
    assert found.shape == (2, 3) and torch.allclose(found[:, 2], last, atol=1e-5)
    assert not torch.allclose(found[:, 0], found[:, 2], atol=1e-2)
    assert not any(module._forward_hooks for module in made.member(0).modules())


def test_gradient_cosines_are_those_of_one_fact_and_one_layer():
    made = ensemble(depth=2)
    found = metrics.signatures_by_layer(made)
    model, wanted = made.member(1), []
    forward, reverse = metrics.queries(made.settings)
    for fact in range(26):
        vectors = []
        for asked, other in ((forward, 0), (reverse, 0), (reverse, 1)):
            mine = asked[asked.letter == (fact + other) % 26]
            logits = model(mine.tokens).logits[torch.arange(len(mine)), mine.position]
            loss = torch.nn.functional.cross_entropy(logits, mine.target)
            gradients = torch.autograd.grad(loss, model.layers[1].parameters())
            vectors.append(torch.cat([part.reshape(-1) for part in gradients]))
        wanted.append([torch.nn.functional.cosine_similarity(vectors[0], one, dim=0) for one in vectors[1:]])
    matched, mismatched = torch.tensor(wanted).mean(0).tolist()
    assert found["gradient_cosine_layer_2"][1] == pytest.approx(matched, abs=1e-4)
    assert found["gradient_cosine_mismatched_layer_2"][1] == pytest.approx(mismatched, abs=1e-4)
    assert len(found) == 8
