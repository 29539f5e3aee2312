"""A small model in the place of the pretrained one, from the command line to the result: what is measured of each kind,
before and after; resumed runs; what is refused.
"""

import json
import math
import re

import numpy as np
import pytest
import small_pretrained
import torch

from lib.language_models import (
    adaptation,
    checkpoints,
    compressed_weights,
    decoding,
    families,
    finetuning,
    name_ranks,
    pretrained,
    pretrained_run,
    queries,
    reversal_run,
    unseen_relations,
)
from lib.language_models.facts import Example
from lib.language_models.filled_names import FILLINGS, REPLACED_QUESTIONS
from lib.language_models.training_loop import TrainingRun
from lib.language_models.unseen_relations import UNSEEN_DATASETS
from lib.language_models.wrong_answers import PIECE_SHARES

torch.set_num_threads(1)
FEW = ["--data", "generated", "--invented", "2", "--probed", "2", "--epochs", "2", "--batch", "4", "--rank", "2",
       "--every", "2"]
LAYERS = 2
ANSWERS = [f"{direction}_{how}" for direction in ("forward", "reverse") for how in ("free", "forbidden")]
RANKS = [f"{asked}_{word}{plain}" for asked in ("forward", "reverse", "left") for word in ("first", "percentile")
         for plain in ("", "_without_prior")]
SIGNATURES = [f"{name}_{kind}" for name in ("correlation", "cosine") for kind in ("matched", "mismatched")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The checkpoint in the place of the published one, and what two adaptations might have made of it."""
    base = tmp_path_factory.mktemp("pretrained")
    made = {"published": small_pretrained.made(base / "model")}
    with pytest.MonkeyPatch.context() as patch:
        small_pretrained.take_the_place(patch, made["published"])
        for kind in ("masked", "autoregressive"):
            model, tokenizer = pretrained.load()
            torch.manual_seed(1)
            with torch.no_grad():
                for weight in model.parameters():
                    weight += 0.02 * torch.randn_like(weight)
            if kind == "masked":
                pretrained.bidirectional(model, tokenizer)
            made[kind] = checkpoints.save(model, tokenizer, base / kind)
    return made


@pytest.fixture(autouse=True)
def small(folders, monkeypatch):
    small_pretrained.take_the_place(monkeypatch, folders["published"])
    monkeypatch.setattr(adaptation, "weights_of", lambda kind, device="cpu", conversion="standard": folders[kind])


def run(out, *options):
    pretrained_run.main([*FEW, "--out", str(out), *options])
    return json.loads(out.read_text())


def kinds_of(metrics, name):
    return [metrics[f"{name}_{kind.replace(' ', '_')}"][0] for kind in name_ranks.ANSWER_KINDS]


# From end to end ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "dataset", "rank"), [
    ("masked", "p2c", "2"), ("masked", "c2p", "0"), ("autoregressive", "c2p", "2"), ("published", "p2c", "2")])
def test_every_kind_is_measured_before_and_after(tmp_path, capsys, kind, dataset, rank):
    result = run(tmp_path / "run.json", "--kind", kind, "--dataset", dataset, "--rank", rank)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]
    metrics, curves, told = (result[part] for part in ("metrics", "curves", "parameters"))
    assert (told["kind"], told["dataset"], told["start"], told["facts"]) == (kind, dataset, kind, 4)
    assert re.match(r"run forward_accuracy [\d.]+ reverse_accuracy [\d.]+ reverse_first", capsys.readouterr().out)

    masked = kind == "masked"
    answers = [f"{name}_{each.replace(' ', '_')}" for name in ANSWERS for each in name_ranks.ANSWER_KINDS]
    patching = [f"patching_gap_{score}" for score in pretrained_run.SCORES] if masked else []
    scored = [f"{side}_{name}" for side in ("forward", "reverse") for name in ("contained", "token_accuracy")]
    length = [f"{side}_{name.replace(' ', '_')}" for side in ("forward", "reverse") for name in (
        *[f"length_{way}" for way in FILLINGS], *[f"first_token_{way}" for way in REPLACED_QUESTIONS])]
    both = {*RANKS, *answers, *scored, *SIGNATURES, "kept_accuracy", *(length if masked else [])}
    wrong = {f"{asked}_wrong_{name}" for asked in ("forward", "reverse", "before_forward", "before_reverse")
             if metrics[f"{asked}_free_right"][0] + metrics[f"{asked}_free_nothing"][0] < 100 - 1e-6
             for name in PIECE_SHARES}
    assert len(wrong) >= 3 * len(PIECE_SHARES)
    assert metrics.keys() == both | {f"before_{name}" for name in both} | wrong | {
        *patching, "forward_accuracy", "reverse_accuracy"}
    for name, (value,) in metrics.items():
        assert math.isfinite(value), name
        if "patching" not in name:
            assert (-100 if any(word in name for word in ("correlation", "cosine")) else 0) <= value <= 100 + 1e-6, name
    for when in ("", "before_"):
        assert all(sum(kinds_of(metrics, when + name)) == pytest.approx(100) for name in ANSWERS)
        assert all(metrics[f"{when}{name}_shown_name"] == [0] for name in ANSWERS if "forbidden" in name)
    for direction in ("forward", "reverse"):
        assert metrics[f"{direction}_accuracy"] == metrics[f"{direction}_free_right"]

    steps = 4  # two passes over four facts, two of them a step
    assert len(curves["loss"]) == steps
    assert curves["step"] == [1, 2, 3, 4] and all(
        len(curves[f"probability_{direction}"]) == 4 for direction in ("forward", "reverse"))
    assert all(0 <= value <= 1 + 1e-6 for name in curves if name.startswith("probability") for value in curves[name])
    patched = {name for name in curves if name.startswith("patching_")}
    assert len(patched) == (16 if masked else 0)
    quoted = {f"{what}_{side}" for what in ("asked", "written", "right") for side in ("forward", "reverse")}
    assert all(len(curves[name]) == pretrained_run.QUOTED for name in quoted)
    for side in ("forward", "reverse"):
        pairs = zip(curves[f"asked_{side}"], curves[f"right_{side}"], strict=True)
        assert all(prompt and right and right not in prompt for prompt, right in pairs)
    assert curves.keys() == quoted | {"loss", "step", "probability_forward", "probability_reverse", *SIGNATURES,
                                      *patched, *(f"before_{name}" for name in SIGNATURES)}
    for name in (*SIGNATURES, *patched, *(f"before_{name}" for name in SIGNATURES)):
        assert len(curves[name]) == LAYERS + (name in patched) and np.isfinite(curves[name]).all(), name
    changed = [name for name in SIGNATURES if metrics[name] != metrics[f"before_{name}"]]
    assert len(changed) == 4


@pytest.mark.parametrize("dataset", UNSEEN_DATASETS)
def test_a_relation_that_was_never_told_is_asked_about(tmp_path, monkeypatch, dataset):
    monkeypatch.setattr(unseen_relations, "UNSEEN_HELD", 3)
    monkeypatch.setattr(families, "MOST_TOKENS", 99)  # a letter is a token here
    result = run(tmp_path / "run.json", "--kind", "masked", "--dataset", dataset)
    assert (result["parameters"]["dataset"], result["parameters"]["facts"]) == (dataset, 3)
    assert math.isfinite(result["metrics"]["reverse_first_without_prior"][0])


@pytest.mark.parametrize("rank", ["2", "0"])
def test_signatures_along_end_where_those_after_are(tmp_path, rank):
    """And begin near those before, after one step at a tenth of a small rate; the run itself is what it is without."""
    options = ["--kind", "masked", "--rank", rank, "--warmup", "10"]
    with_them, without = (run(tmp_path / f"{name}.json", *options, *more)
                          for name, more in (("along", ["--along"]), ("plain", [])))
    assert with_them["parameters"].pop("along") is True and with_them["parameters"] == without["parameters"]
    assert without["metrics"] == with_them["metrics"]
    for name in SIGNATURES:
        along = with_them["curves"].pop(f"along_{name}")
        assert len(along) == len(with_them["curves"]["step"]) == 4
        assert along[-1] == pytest.approx(with_them["metrics"][name][0], abs=1e-3)
        assert len(set(along)) == 4
    assert with_them["curves"] == without["curves"]


def test_another_conversion_is_another_start(tmp_path, monkeypatch, folders):
    asked = []
    monkeypatch.setattr(adaptation, "weights_of", lambda kind, device="cpu", conversion="standard": (
        asked.append((kind, conversion)), folders[kind])[1])
    result = run(tmp_path / "run.json", "--kind", "masked", "--conversion", "third")
    assert asked == [("masked", "third")] and result["parameters"]["start"] == "masked_third"
    assert "conversion" not in result["parameters"]


def test_numbers_before_are_the_start_models_and_the_start_model_stays(folders, monkeypatch):
    model, tokenizer = pretrained.load("masked", adapter=folders["masked"])
    told = families.families("generated", tokenizer, 2)
    data, config = told.asked("p2c", 1), pretrained_run.parsed_run([*FEW, "--out", "x.json"]).training
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    digest = finetuning.fingerprint(model)
    expected = pretrained_run.rank_metrics(model, tokenizer, data)
    leads, encoded = set(), queries.encoded_pair
    monkeypatch.setattr(queries, "encoded_pair", lambda *given, **settings: (
        leads.add(settings["lead"]), encoded(*given, **settings))[1])
    metrics, _ = pretrained_run.measured_run(model, tokenizer, data, config, told.examples(), probed=2)
    assert leads == {""}  # a sentence is asked as it is trained
    assert expected == {name: metrics[f"before_{name}"] for name in RANKS}
    assert any(metrics[name] != expected[name] for name in RANKS)
    assert all(torch.equal(weight, weights[name]) for name, weight in model.state_dict().items())
    assert finetuning.fingerprint(model) == digest


@pytest.mark.parametrize(("kind", "rank"), [("masked", "2"), ("masked", "0"), ("published", "2")])
def test_every_prompt_is_answered_once_and_all_that_is_said_of_answers_is_of_these(
        folders, monkeypatch, kind, rank):
    """Accuracies are those of the adapters beside the weights, and the quoted answers those written to a few alone."""
    model, tokenizer = pretrained.load("masked" if kind == "masked" else "autoregressive", adapter=folders[kind])
    data = families.families("generated", tokenizer, 2).asked("p2c", 0)
    options = [*FEW, "--rank", rank, "--learning-rate", "0.02", "--epochs", "4", "--replay", "0", "--out", "x.json"]
    config = pretrained_run.parsed_run(options).training
    write, calls = decoding.generate_text, []
    monkeypatch.setattr(decoding, "generate_text", lambda model, tokenizer, prompts, **rest: (
        calls.append(list(prompts)), write(model, tokenizer, prompts, **rest))[1])
    metrics, curves = pretrained_run.measured_run(model, tokenizer, data, config, [], probed=2)
    asked = {side: [each.prompt for each in getattr(data, side)] for side in ("forward", "reverse")}
    assert calls == [asked["forward"], asked["reverse"]] * 4  # before and after, each freely and with names forbidden

    length = reversal_run.answer_length(data, tokenizer)
    apart, _, adapted = reversal_run.run(model, tokenizer, data, config, lead="")
    assert apart == {name: metrics[name] for name in ("forward_accuracy", "reverse_accuracy")}
    for side, prompts in asked.items():
        few = write(adapted, tokenizer, prompts[:pretrained_run.QUOTED], length=length)
        assert [text.strip() for text in few] == curves[f"written_{side}"]
    assert len({text for side in asked for text in curves[f"written_{side}"]}) > 1


def test_without_replay_nothing_is_kept_and_other_weights_are_another_run(folders, tmp_path, capsys):
    first = run(tmp_path / "first.json", "--replay", "0", "--start", str(folders["masked"]))
    assert not {"kept_accuracy", "before_kept_accuracy"} & first["metrics"].keys()
    digest = pretrained.trained_digest(folders["masked"])[:16]
    assert (first["parameters"]["start"], first["parameters"]["replay"]) == (f"masked {digest}", 0)
    model, _ = pretrained.load("masked", adapter=folders["masked"])
    assert first["parameters"]["weights"] == finetuning.fingerprint(model)[:16]
    with pytest.raises(SystemExit):
        run(tmp_path / "second.json", "--start", str(folders["autoregressive"]))
    assert "autoregressive: holds a model of kind 'autoregressive', not 'masked'" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["first.json"]


# Interrupted, done, refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["masked", "autoregressive"])
def test_a_run_that_is_interrupted_goes_on_to_the_same_result(tmp_path, monkeypatch, content, kind):
    options = ["--kind", kind, "--learning-rate", "0.01"]
    run(tmp_path / "whole.json", *options)
    step = TrainingRun.step

    def killed(run):
        if len(run.losses) == 3:
            raise KeyboardInterrupt
        return step(run)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(TrainingRun, "step", killed)
        run(tmp_path / "parts.json", *options)
    assert ended.value.code == 130 and (tmp_path / ".parts.json.checkpoint").exists()
    made = []
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "step", lambda run: made.append(len(run.losses)) or step(run))
        run(tmp_path / "parts.json", *options)
    assert made == [2, 3]
    assert content(tmp_path / "parts.json") == content(tmp_path / "whole.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts.json", "whole.json"]


def test_a_result_that_is_there_stays_and_one_of_another_run_is_refused(tmp_path, monkeypatch, capsys):
    out = tmp_path / "run.json"
    run(out, "--kind", "published")
    written = out.read_bytes()
    monkeypatch.setattr(pretrained, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    run(out, "--kind", "published")
    assert "run.json: this run is done, and its result stays" in capsys.readouterr().out
    for change, message in ((["--seed", "1"], "seeds="), (["--dataset", "c2p"], "dataset='p2c', not 'c2p'"),
                            (["--kind", "masked"], "kind='published', not 'masked'"),
                            (["--no-autocast"], "autocast=True, not False"), (["--probed", "3"], "probed=2, not 3")):
        with pytest.raises(SystemExit) as ended:
            run(out, "--kind", "published", *change)
        assert ended.value.code == 2 and f"holds a result with {message}" in capsys.readouterr().err
    assert out.read_bytes() == written


@pytest.mark.parametrize(("options", "message"), [
    (["--kind", "dream"], "--kind: 'dream' is none of masked, autoregressive, published"),
    (["--dataset", "trec"], "--dataset: 'trec' is none of p2c, c2p, p2d, d2p, trex"),
    (["--probed", "1"], "--probed must be at least"),
    (["--every", "0"], "--every must be at least 1"), (["--device", "gpu"], "--device 'gpu' is none of auto, cpu"),
    (["--seed", "2"], "seed 2: p2c has 2 sets of facts that were never told"),
    (["--dataset", "trex", "--seed", "3"], "seed 3: trex has 3 sets of facts that were never told"),
    (["--conversion", "half"], "--conversion: 'half' is none of standard, third, plain, opening, low_rank"),
    (["--conversion", "third", "--kind", "published"], "conversion 'third': takes the place of --start"),
    (["--seed", "-1"], "--seed must be at least 0, not -1"), (["--rank", "-1"], "--rank must be at least 0, not -1"),
    (["--data", "wiki"], "--data: 'wiki' is none of published, generated"),
    (["--epochs", "0"], "--epochs must be at least 1, not 0"),
    (["--start", "nowhere"], "--start nowhere: missing; `python -m lib.language_models.adaptation --weights nowhere"),
    (["--start", ".", "--kind", "published"], "--start .: the kind 'published' starts from the package's own weights"),
    (["--out", "run"], "name one that ends in .json"), (["--replayed"], "there is no option --replayed")])
def test_options_that_cannot_be_are_named(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(TrainingRun, "step", lambda run: pytest.fail("training has begun"))
    with pytest.raises(SystemExit) as ended:
        pretrained_run.main([*FEW, "--out", "new/run.json", *options])
    said = capsys.readouterr().err
    assert re.search(message, said), said
    assert ended.value.code in (1, 2) and len(said.splitlines()) == 1 and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("options", "message"), [
    (["--start", "file"], "--start file: no folder; `python -m lib"),
    (["--start", "empty"], r"--start empty: holds no model \(config\.json\), no compressed change"),
    (["--start", "pickled"], r"--start pickled/adapter_model\.safetensors: missing; adapter_model\.bin is a pickle"),
    (["--start", "damaged"], r"--start damaged/config\.json: not JSON"),
    (["--start", "cut"], r"--start cut/change\.safetensors: damaged"),
    (["--start", "another"], r"--start another/change\.safetensors: makes a model of kind 'autoregressive'"),
    (["--out", "file/run.json"], "--out: file cannot be written to"),
    (["--out", "empty"], "--out empty: a result is a JSON file, so name one that ends")])
def test_files_that_cannot_be_are_named_and_nothing_is_written(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    for name, files in {"empty": {}, "damaged": {"config.json": "{"}, "cut": {"change.safetensors": "{"}, "pickled": {
            "adapter_config.json": '{"peft_type": "LORA"}', "adapter_model.bin": ""}, "another": {}}.items():
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_text(content)
    compressed_weights.save_change({}, tmp_path / "another", "autoregressive", pretrained.SHA256)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit) as ended:
        pretrained_run.main([*FEW, "--kind", "masked", "--out", "new/run.json", *options])
    *before_it, said = capsys.readouterr().err.splitlines()
    assert re.search(message, said) and ended.value.code in (1, 2), said
    assert all("Loading weights" in line for line in before_it if line)  # the bar of the published weights
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not (tmp_path / "new").exists()


# What is measured --------------------------------------------------------------------------------------------


def test_what_is_kept_is_asked_of_sentences_over_the_whole_text(monkeypatch):
    asked = []

    def answered(model, tokenizer, examples, length, batch):
        asked.extend(examples)
        assert length == 1 + 4 and batch == 5
        return 50.0

    monkeypatch.setattr(decoding, "accuracy", answered)
    _, tokenizer = pretrained.load()
    text = [Example(f" {i}", " abcd" if i == 24 else " a", frozenset()) for i in range(100)]
    assert len(tokenizer(" abcd", add_special_tokens=False)["input_ids"]) == 4
    assert reversal_run.recall(None, tokenizer, text, 5) == 50
    assert [example.prompt for example in asked] == [" 0", " 24", " 49", " 74", " 99"]


@pytest.mark.parametrize("kind", pretrained_run.START_KINDS)
def test_a_kind_starts_from_its_own_weights(folders, kind):
    model, tokenizer = pretrained_run.start_of(pretrained_run.parsed_run([*FEW, "--kind", kind, "--out", "x.json"]))
    expected, _ = checkpoints.load(folders[kind])
    assert all(torch.equal(mine, own) for mine, own in zip(model.parameters(), expected.parameters(), strict=True))
    assert (tokenizer.mask_token_id is not None) == (kind == "masked")
