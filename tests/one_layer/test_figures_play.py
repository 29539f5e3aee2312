"""The two figures on one trained model show what `lib` computes of it."""

import copy
import itertools

import played
import pytest

from lib.one_layer import attribution, patching, task
from lib.one_layer.figures_play import FACT, storage_routing, training_scrubber
from lib.one_layer.kept_models import accuracies_along_training, centred_pairs, models_along_training, read_queries
from lib.one_layer.model import ModelConfig
from lib.one_layer.training import TrainingConfig

LENGTH = 6


@pytest.fixture(scope="module")
def models():
    settings = ModelConfig(length=LENGTH, width=32, mlp=False)
    recipe = TrainingConfig(steps=240, batch=60, learning_rate=4e-3)
    return models_along_training(settings, recipe, 0, [0, 60, 120, 240])


# One query taken apart ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def apart(models):
    return storage_routing(models[240])


@pytest.fixture(scope="module")
def apart_page(browser, apart):
    with played.opened(browser, apart) as page:
        yield page


@pytest.mark.parametrize(("letter", "mask", "evidence"), [
    (3, 2, 5), (3, 2, 0), (0, 0, 1), (25, 5, 0), (7, 5, 4), (12, 3, 4), (1, 4, 3), (20, 0, 5), (9, 1, 0), (16, 2, 3)])
def test_the_page_shows_what_the_model_computes(models, apart, apart_page, letter, mask, evidence):
    place = evidence - (evidence > mask)
    found = played.shown(apart_page, apart, letter=letter, mask=mask, place=place)
    asked = next(rows for queries in task.paired_queries(LENGTH) if len(rows := queries[
        (queries.letter == letter) & (queries.position == mask) & (queries.evidence == evidence)]))
    model = copy.deepcopy(models[240]).double()
    activations, parts = patching.record_activations(model, asked), attribution.margin_parts_by_source(model, asked)
    logits = patching.logits_from(model, activations)[0]
    assert found["score"] == pytest.approx(float(activations.score[0, 0, evidence]), abs=1e-6)
    assert found["weight"] == pytest.approx(float(activations.row[0, 0, evidence]), abs=1e-6)
    assert found["contribution"] == pytest.approx(float(parts["evidence"]), abs=1e-6)
    assert found["margin"] == pytest.approx(float(logits[letter] - logits[task.PLACEHOLDER]), abs=1e-6)
    assert found["letter"] == pytest.approx(float(logits.softmax(-1)[letter]), abs=1e-6)
    assert found["placeholder"] == pytest.approx(float(logits.softmax(-1)[task.PLACEHOLDER]), abs=1e-6)
    assert str(found["answer"]).removesuffix(".0") == task.ALPHABET[int(logits.argmax())]
    query = task.spell(asked.tokens[0])
    way = "forward" if evidence > mask else "reverse"
    assert f"The query is {query}: {way}" in apart_page.locator(".play-words").inner_text()


def test_moving_the_evidence_moves_its_score_weight_and_contribution(apart, apart_page):
    seen = [played.shown(apart_page, apart, letter=3, mask=2, place=place) for place in range(LENGTH - 1)]
    for name in ("score", "weight", "contribution", "margin", "letter", "placeholder"):
        values = [one[name] for one in seen]
        assert all(abs(one - other) > 1e-6 for one, other in itertools.combinations(values, 2)), name
    assert apart_page.locator("output").all_inner_texts() == ["d, D", "position 3", "position 6 of 6"]


def test_a_page_carries_fewer_letters_of_longer_sequences(models, apart):
    assert len(apart.html) < 100_000 and len(apart.sliders[0].stops) == 26
    settings = ModelConfig(length=16, width=16, mlp=False)
    longer = models_along_training(settings, TrainingConfig(steps=1, batch=4), 0, [1])
    assert len(storage_routing(longer[1]).sliders[0].stops) == 10


# Along training ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def along(models):
    return training_scrubber(models)


@pytest.fixture(scope="module")
def along_page(browser, along):
    with played.opened(browser, along) as page:
        yield page


@pytest.mark.parametrize(("step", "distance"), [
    (0, 1), (0, 5), (60, 1), (60, 3), (120, 2), (120, 4), (240, 1), (240, 2), (240, 3), (240, 5)])
def test_the_scrubber_shows_what_the_kept_models_answer(models, along, along_page, step, distance):
    found, graded = played.shown(along_page, along, step=step, distance=distance), accuracies_along_training(models)
    for way, asked in zip(task.DIRECTIONS, centred_pairs(LENGTH, FACT, [distance]), strict=True):
        reading = read_queries(models[step], asked)
        assert found[f"{way}_weight"] == pytest.approx(float(reading.weights[0, asked.evidence[0]]), abs=1e-6)
        assert found[f"{way}_letter"] == pytest.approx(float(reading.letter), abs=1e-6)
        assert found[f"{way}_placeholder"] == pytest.approx(float(reading.placeholder), abs=1e-6)
        point = along_page.locator("svg").nth(3).locator("circle" if way == "forward" else "rect").last
        height = 100 - 100 * (float(point.get_attribute("cy" if way == "forward" else "y"))
                              + (0 if way == "forward" else 5) - 22) / (9 * 16 - 36 - 22)
        assert height == pytest.approx(graded[way][[*models].index(step)], abs=0.1)


def test_the_step_moves_attention_and_predictions(along, along_page):
    early = played.shown(along_page, along, step=0, distance=3)
    heights = lambda: along_page.locator("svg").nth(0).locator("rect").evaluate_all(
        "all => all.map(bar => bar.getAttribute('height'))")
    bars = heights()
    late = played.shown(along_page, along, step=240, distance=3)
    moved = heights()
    assert late["forward_letter"] > early["forward_letter"] + 0.2
    assert late["forward_weight"] > early["forward_weight"] + 0.1
    assert len(bars) == len(moved) == LENGTH and bars != moved
    assert "After 240 steps" in along_page.locator(".play-words").inner_text()


def test_it_is_small_and_says_what_it_needs(along):
    assert len(along.html) < 100_000
    with pytest.raises(ValueError, match="models_along_training"):
        training_scrubber({})


def test_the_scrubber_begins_where_reverse_accuracy_is_highest(models, along):
    graded = accuracies_along_training(models)["reverse"]
    assert along.sliders[0].start == [*models][graded.index(max(graded))]
