"""Data order by counting, schedules by hand, resumed runs bit by bit, adapters put back on their model."""

import dataclasses
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lib.language_models import (
    checkpoints,
    decoding,
    fact_signatures,
    fact_sources,
    facts,
    finetuning,
    objectives,
    random_checkpoints,
    reversal_run,
    synthetic_facts,
)
from lib.language_models.facts import Example, Fact
from lib.language_models.finetuning import FineTuningConfig
from lib.language_models.objectives import TokenisedExample
from lib.language_models.training_loop import TrainingRun
from lib.record import processor
from lib.record.training_state import Checkpoint, CheckpointError

torch.set_num_threads(1)
DATA = facts.dataset("p2c", facts.CHILD_OF, [Fact("Ana Lima", "Bob Reis"), Fact("Eva Sol", "Gil Mar")])


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("finetuning")
    return {name: random_checkpoints.tiny(base / name, name, width=32, scale=0.1)
            for name in ("llada", "dream", "llama", "qwen3_5")}


# Data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [
    FineTuningConfig(batch=3, epochs=4), FineTuningConfig(batch=2, accumulation=2, epochs=3, seed=5),
    FineTuningConfig(batch=4, epochs=5, replay=0.5)])
def test_every_epoch_takes_every_sentence_once(config):
    steps = finetuning.step_count(12, config)
    both = [finetuning.batches(12, 7, config, step) for step in range(steps)]
    order = [i for mine, _ in both for i in mine]
    for epoch in range(config.epochs):
        assert sorted(order[12 * epoch : 12 * (epoch + 1)]) == list(range(12))
    assert order[:12] != order[12:24]
    replayed = [i for _, other in both for i in other]
    assert len(replayed) == round(len(order) * config.replay / (1 - config.replay))
    assert set(replayed) <= set(range(7))
    assert all(len(mine) + len(other) == config.batch * config.accumulation for mine, other in both)


@pytest.mark.parametrize(("field", "value"), [
    ("masking", "all"), ("epochs", 0), ("rank", -1), ("replay", 1.0), ("learning_rate", 0.0), ("batch", 0),
    ("learning_rate", float("inf")), ("clip", 0.0), ("clip", -1.0), ("clip", float("nan")), ("clip", float("inf")),
    ("scaling", 0), ("seed", -1), ("dropout", 1.5), ("dropout", -0.1), ("weight_decay", -1), ("warmup", -1),
    ("weight_decay", float("inf")), ("accumulation", 0), ("cooling", 1.1), ("cooling", -0.1)])
def test_configurations_are_checked(field, value):
    with pytest.raises(ValueError, match=field):
        FineTuningConfig(**{field: value})


# Runs --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llada", "qwen3_5"])
def test_adapters_alone_are_trained(folders, name):
    model, tokenizer = checkpoints.load(folders[name])
    before = {key: weight.clone() for key, weight in model.state_dict().items()}
    adapted = finetuning.add_adapters(model, FineTuningConfig(rank=2))
    losses = finetuning.finetune(adapted, tokenizer, DATA.train, FineTuningConfig(rank=2, epochs=2, batch=2, warmup=0))
    assert len(losses) == 2 and not adapted.training
    after = dict(adapted.base_model.model.named_parameters())
    trained = {key for key, weight in after.items() if weight.requires_grad}
    assert trained and all("lora_" in key for key in trained) and not any("lm_head" in key for key in trained)
    for key, weight in after.items():
        if "lora_" not in key:
            assert torch.equal(weight, before[key.replace(".base_layer", "")])
    assert any(weight.abs().max() > 0 for key, weight in after.items() if "lora_B" in key)


@pytest.mark.parametrize("name", ["dream", "llama"])
@pytest.mark.parametrize("rank", [0, 2])
def test_a_resumed_run_is_the_run_that_was_interrupted(folders, tmp_path, name, rank):
    config = FineTuningConfig(rank=rank, epochs=6, batch=2, dropout=0.1 if rank else 0.0, masking="any",
                              learning_rate=1e-3)

    def fresh():
        model, tokenizer = checkpoints.load(folders[name])
        return finetuning.add_adapters(model, config), tokenizer

    whole, tokenizer = fresh()
    losses = finetuning.finetune(whole, tokenizer, DATA.train, config)
    path = tmp_path / "run.safetensors"

    class Killed(Exception):
        pass

    def kill(step, loss):
        if step == 4:
            raise Killed

    with pytest.raises(Killed):
        finetuning.finetune(fresh()[0], tokenizer, DATA.train, config, checkpoint=Checkpoint(path, {}), every=2,
                            on_step=kill)
    again, _ = fresh()
    seen = []
    resumed = finetuning.finetune(again, tokenizer, DATA.train, config, checkpoint=Checkpoint(path, {}), every=2,
                                  on_step=lambda step, loss: seen.append(step))
    assert resumed == losses and seen == [4, 5] and not path.exists()
    for (key, first), (_, second) in zip(whole.named_parameters(), again.named_parameters(), strict=True):
        assert torch.equal(first, second), key


def test_a_resumed_cell_has_the_curves_and_the_result_of_the_whole_one(folders, tmp_path, monkeypatch):
    config = FineTuningConfig(rank=2, epochs=6, batch=2, masking="any", learning_rate=1e-2)

    def cell(path):
        model, tokenizer = checkpoints.load(folders["llada"])
        metrics, curves, tuned = reversal_run.run(
            model, tokenizer, DATA, config, checkpoint=path and Checkpoint(path, {}), every=2)
        return metrics, curves, {name: weight for name, weight in tuned.named_parameters() if weight.requires_grad}

    path = tmp_path / "cell.safetensors"
    metrics, curves, weights = cell(None)
    assert curves["step"] == [1, 2, 3, 4, 5, 6] and len(set(curves["probability_reverse"])) == 6
    step = TrainingRun.step

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(TrainingRun, "step", lambda run: killed() if len(run.losses) == 5 else step(run))
        cell(path)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # trained to the end, answers missing
        patch.setattr(decoding, "which_right", killed)
        cell(path)
    with monkeypatch.context() as patch:
        patch.setattr(TrainingRun, "step", killed)  # nothing is left to train
        again = cell(path)
    assert again[:2] == (metrics, curves) and path.exists()
    assert all(torch.equal(weight, again[2][name]) for name, weight in weights.items())


@pytest.mark.parametrize("masking", objectives.MASKING)
def test_replayed_text_has_its_share_of_every_batch_and_is_trained_whole(folders, masking):
    model, tokenizer = checkpoints.load(folders["llada"])
    config = FineTuningConfig(rank=0, epochs=3, batch=4, replay=0.5, masking=masking)
    other = [Example("", f"Word{i} goes with place{i}.", frozenset()) for i in range(3)]
    own, other = (objectives.sentences(examples, tokenizer) for examples in (DATA.train, other))
    seen = []
    model.model.register_forward_pre_hook(
        lambda module, given, named: seen.append(named["input_ids"]), with_kwargs=True)
    run = finetuning.finetuning_run(model, tokenizer, config, own, other)
    assert all(sentence.prompt == 0 for sentence in other)
    fronts = {"own": 0, "other": 0}
    for step in range(finetuning.step_count(2, config)):
        mine, replayed = finetuning.batches(2, 3, config, step)
        assert len(mine) == len(replayed) == 2
        run.step()
        assert len(seen) == step + 1
        for row, sentence in zip(seen[-1], [own[i] for i in mine] + [other[i] for i in replayed], strict=True):
            visible = row[: len(sentence.ids)] != tokenizer.mask_token_id
            assert torch.equal(row[: len(sentence.ids)][visible], torch.tensor(sentence.ids)[visible])
            fronts["own" if sentence.prompt else "other"] += int((~visible[: sentence.prompt or 5]).sum())
    assert fronts["other"] > 0 and (fronts["own"] > 0) == (masking != "response")


def test_replayed_text_is_never_asked_for(folders, monkeypatch):
    asked = []

    def answered(model, tokenizer, examples, **_):
        asked.extend(example.prompt for example in examples)
        return [True] * len(examples)

    monkeypatch.setattr(decoding, "which_right", answered)
    model, tokenizer = checkpoints.load(folders["dream"])
    metrics, _, _ = reversal_run.run(model, tokenizer, DATA, FineTuningConfig(rank=2, epochs=1, batch=2, replay=0.5),
                                     replay=reversal_run.replay_examples(None, 0, 4))
    assert asked == [example.prompt for example in (*DATA.forward, *DATA.reverse)]
    assert metrics == {"forward_accuracy": 100, "reverse_accuracy": 100}


def test_passes_add_up_to_the_batch(folders):
    """Two passes of one sentence against one pass of two, equally long: the same step."""
    after = []
    for batch, accumulation in ((2, 1), (1, 2)):
        model, tokenizer = checkpoints.load(folders["llama"])
        own = [TokenisedExample(row.ids[:7], 2) for row in objectives.sentences(DATA.train, tokenizer)]
        config = FineTuningConfig(rank=0, batch=batch, accumulation=accumulation, warmup=0)
        run = finetuning.finetuning_run(model, tokenizer, config, own)
        run.step()
        after.append((run.losses[0], model.lm_head.weight.detach().clone()))
    assert after[0][0] == pytest.approx(after[1][0], rel=1e-6)
    assert torch.allclose(after[0][1], after[1][1], atol=1e-6)


def test_the_learning_rate_rises_over_the_warm_up(folders):
    model, tokenizer = checkpoints.load(folders["llama"])
    config = FineTuningConfig(rank=0, batch=2, warmup=4, learning_rate=1e-3)
    run = finetuning.finetuning_run(model, tokenizer, config, objectives.sentences(DATA.train, tokenizer))
    rates = []
    for _ in range(6):
        run.step()
        rates.append(run.optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3, 1e-3])


@pytest.mark.parametrize(("settings", "steps", "expected"), [
    ({"warmup": 2, "cooling": 0.5}, 10, [0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]),
    ({"warmup": 0, "cooling": 1}, 4, [1, 0.75, 0.5, 0.25]), ({"warmup": 4, "cooling": 1}, 4, [0.25, 0.5, 0.5, 0.25]),
    ({"warmup": 0, "cooling": 0.5}, 80, [1] * 41 + [1 - i / 40 for i in range(1, 38)] + [0.05] * 2),
    ({"warmup": 0, "cooling": 0.0}, 3, [1, 1, 1])])
def test_the_learning_rate_falls_to_a_twentieth_over_the_last_part(settings, steps, expected):
    config = FineTuningConfig(learning_rate=2e-3, **settings)
    rates = [finetuning.rate_of_step(config, steps, step) for step in range(steps)]
    assert rates == pytest.approx([2e-3 * each for each in expected])


def test_the_rate_that_falls_reaches_the_optimiser(folders):
    model, tokenizer = checkpoints.load(folders["llama"])
    config = FineTuningConfig(rank=2, batch=2, epochs=4, warmup=1, cooling=0.5, learning_rate=1e-3)
    run = finetuning.finetuning_run(finetuning.add_adapters(model, config), tokenizer, config,
                                    objectives.sentences(DATA.train, tokenizer))
    rates = []
    for _ in range(4):
        run.step()
        rates.append(run.optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([1e-3, 1e-3, 1e-3, 0.5e-3])


@pytest.mark.parametrize("name", ["llada", "llama"])
@pytest.mark.parametrize("rank", [0, 2])
def test_products_in_half_precision_leave_weights_as_they_are_and_the_loss_almost(folders, name, rank, monkeypatch):
    monkeypatch.setattr(processor, "multiplies_bfloat16", lambda device: True)
    losses, kinds = {}, {}
    for autocast in (False, True):
        model, tokenizer = checkpoints.load(folders[name])
        config = FineTuningConfig(rank=rank, batch=2, masking="entity", autocast=autocast)
        run = finetuning.finetuning_run(finetuning.add_adapters(model, config), tokenizer, config,
                                        objectives.sentences(DATA.train, tokenizer))
        kinds[autocast] = []
        model.lm_head.register_forward_hook(lambda module, given, out, seen=kinds[autocast]: seen.append(out.dtype))
        losses[autocast] = [run.step() for _ in range(2)]
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
        assert {value.dtype for state in run.optimiser.state.values() for value in state.values()} == {torch.float32}
    assert kinds == {False: [torch.float32] * 2, True: [torch.bfloat16] * 2}
    for rough, exact in zip(losses[True], losses[False], strict=True):
        assert 1e-7 * exact < abs(rough - exact) < 2e-2 * exact


def test_products_stay_exact_where_bfloat16_would_be_emulated(folders, monkeypatch):
    losses = {}
    for native, autocast in ((False, True), (True, False)):
        monkeypatch.setattr(processor, "multiplies_bfloat16", lambda device, native=native: native)
        model, tokenizer = checkpoints.load(folders["llada"])
        config = FineTuningConfig(rank=2, batch=2, masking="entity", autocast=autocast)
        run = finetuning.finetuning_run(finetuning.add_adapters(model, config), tokenizer, config,
                                        objectives.sentences(DATA.train, tokenizer))
        losses[autocast] = [run.step() for _ in range(2)]
    assert losses[True] == losses[False]


def test_gradients_are_cut_and_weights_decay_as_the_configuration_says(folders):
    model, tokenizer = checkpoints.load(folders["llama"])
    config = FineTuningConfig(rank=0, batch=2, clip=1e-2, weight_decay=0.3)
    run = finetuning.finetuning_run(model, tokenizer, config, objectives.sentences(DATA.train, tokenizer))
    run.step()
    moments = [run.optimiser.state[weight]["exp_avg"].flatten() for weight in run.weights.values()]
    assert float(torch.cat(moments).norm()) == pytest.approx(0.1 * config.clip, rel=1e-2)  # 1 - beta1 of the gradient
    assert run.optimiser.param_groups[0]["weight_decay"] == 0.3


def test_adapters_have_the_configurations_scaling_and_dropout(folders):
    model, _ = checkpoints.load(folders["llama"])
    adapted = finetuning.add_adapters(model, FineTuningConfig(rank=4, scaling=12, dropout=0.25))
    layers = [module for module in adapted.modules() if hasattr(module, "lora_A")]
    assert layers and all(layer.scaling["default"] == 3 for layer in layers)
    assert all(layer.lora_dropout["default"].p == 0.25 for layer in layers)


def test_a_checkpoint_of_another_run_is_refused(folders, tmp_path):
    model, tokenizer = checkpoints.load(folders["llada"])
    config = FineTuningConfig(rank=2, epochs=2, batch=2)
    adapted = finetuning.add_adapters(model, config)
    path = tmp_path / "run.safetensors"
    run = finetuning.finetuning_run(adapted, tokenizer, config, objectives.sentences(DATA.train, tokenizer))
    run.step()
    run.store(Checkpoint(path, {}))
    other = dataclasses.replace(config, learning_rate=2e-4)
    with pytest.raises(CheckpointError, match="protocol"):
        finetuning.finetune(adapted, tokenizer, DATA.train, other, checkpoint=Checkpoint(path, {}))
    with pytest.raises(CheckpointError, match="data"):
        finetuning.finetune(adapted, tokenizer, DATA.train[:1], config, checkpoint=Checkpoint(path, {}))
    assert path.exists()


@pytest.mark.parametrize("rank", [0, 2])
def test_a_checkpoint_knows_the_model_it_started_from(folders, tmp_path, rank):
    config, path = FineTuningConfig(rank=rank, epochs=3, batch=2), tmp_path / "run.safetensors"
    other = random_checkpoints.tiny(tmp_path / "other", "llada", width=32, scale=0.1, seed=1)

    def run(folder, dtype=None):
        model, tokenizer = checkpoints.load(folder, dtype)
        adapted = finetuning.add_adapters(model, config)
        return finetuning.finetuning_run(adapted, tokenizer, config, objectives.sentences(DATA.train, tokenizer))

    first = run(folders["llada"])
    first.step()
    first.store(Checkpoint(path, {}))
    again = run(folders["llada"])
    again.restore(Checkpoint(path, {}))
    assert again.losses == first.losses
    with pytest.raises(CheckpointError, match=r"another run \(start '\w+' there, '\w+' here\)"):
        run(other).restore(Checkpoint(path, {}))
    with pytest.raises(CheckpointError, match=r"another run \(dtype .*bfloat16"):
        run(folders["llada"], torch.bfloat16).restore(Checkpoint(path, {}))


def test_one_changed_row_of_one_matrix_is_another_model(folders):
    model, _ = checkpoints.load(folders["llada"])
    before = finetuning.fingerprint(model)
    assert finetuning.fingerprint(checkpoints.load(folders["llada"])[0]) == before
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0] += 1e-3
    assert finetuning.fingerprint(model) != before


def test_a_run_that_diverges_stops_and_keeps_the_last_checkpoint(folders, tmp_path):
    path = tmp_path / "run.safetensors"
    model, tokenizer = checkpoints.load(folders["llama"])
    config = FineTuningConfig(rank=0, epochs=6, batch=2, warmup=0)

    def spoil(step, loss):
        if step == 2:
            with torch.no_grad():
                model.lm_head.weight[0] = float("nan")

    adapted = finetuning.add_adapters(model, config)
    with pytest.raises(ArithmeticError, match=r"step 4: the run has diverged \(loss nan.*lower learning_rate"):
        finetuning.finetune(adapted, tokenizer, DATA.train, config, checkpoint=Checkpoint(path, {}), every=1,
                            on_step=spoil)
    again = finetuning.add_adapters(checkpoints.load(folders["llama"])[0], config)
    run = finetuning.finetuning_run(again, tokenizer, config, objectives.sentences(DATA.train, tokenizer))
    run.restore(Checkpoint(path, {}))
    assert len(run.losses) == 3


def test_a_gradient_that_is_not_finite_stops_before_it_is_used(folders):
    model, tokenizer = checkpoints.load(folders["llama"])
    config = FineTuningConfig(rank=0, batch=2)
    run = finetuning.finetuning_run(finetuning.add_adapters(model, config), tokenizer, config,
                                    objectives.sentences(DATA.train, tokenizer))
    before = model.model.norm.weight.detach().clone()
    model.model.embed_tokens.weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(ArithmeticError, match=r"step 1: .* gradient norm"):
        run.step()
    assert torch.equal(model.model.norm.weight, before) and not run.losses


def test_what_cannot_run_is_refused(folders):
    model, tokenizer = checkpoints.load(folders["llada"])
    with pytest.raises(ValueError, match="no text to replay"):
        finetuning.finetune(model, tokenizer, DATA.train, FineTuningConfig(replay=0.5))
    model.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing is trainable"):
        finetuning.finetune(model, tokenizer, DATA.train, FineTuningConfig())


def test_a_causal_model_learns_the_forward_direction(folders):
    model, tokenizer = checkpoints.load(folders["llama"])
    config = FineTuningConfig(rank=0, epochs=120, batch=2, learning_rate=5e-3)
    losses = finetuning.finetune(finetuning.add_adapters(model, config), tokenizer, DATA.train, config)
    assert losses[-1] < 0.1 < losses[0]
    length = reversal_run.answer_length(DATA, tokenizer)
    assert decoding.accuracy(model, tokenizer, DATA.forward, length=length) == 100
    assert decoding.accuracy(model, tokenizer, DATA.reverse, length=length) == 0


def test_a_world_can_be_trained_on(folders):
    data = synthetic_facts.world(2).p2d
    assert len(data.train) == 3 * len(data.facts)  # three sentence forms a fact
    assert fact_sources.dataset_of("p2d", "generated", 2, 0).name == "p2d"


# Adapters put back ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A checkpoint, its adapters after fine-tuning, and the tuned model itself with merged weights."""
    base = tmp_path_factory.mktemp("adapters")
    folder = random_checkpoints.tiny(base / "model", "llada", width=32, scale=0.15)
    model, tokenizer = checkpoints.load(folder)
    config = FineTuningConfig(rank=2, epochs=10, batch=2, masking="any", learning_rate=1e-2, warmup=0)
    adapted = finetuning.add_adapters(model, config)
    finetuning.finetune(adapted, tokenizer, DATA.train, config)
    finetuning.save_adapters(adapted, base / "adapters")
    return folder, base / "adapters", adapted.merge_and_unload()


def summary(model, tokenizer):
    found = fact_signatures.measure(model, tokenizer, DATA, DATA.facts, gaps=("", " indeed"))
    return fact_signatures.signature_means(found)


def test_signatures_with_adapters_are_those_of_the_merged_model(tuned):
    folder, kept, merged = tuned
    model, tokenizer = checkpoints.load(folder)
    before = summary(model, tokenizer)
    finetuning.load_adapters(model, kept)
    assert not model.training
    after = summary(model, tokenizer)
    assert after == pytest.approx(summary(merged, tokenizer), rel=1e-3, abs=1e-6)
    for name in ("score_correlation", "gradient_cosine", "probability_forward"):
        assert abs(after[name] - before[name]) > 1e-3 * abs(before[name])


def spoil_tensor(path, change):
    tensors = load_file(path)
    name = sorted(tensors)[0]
    change(tensors, name)
    save_file(tensors, path)


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda at: (at / "adapter_config.json").write_text("{"), r"adapter_config\.json: not JSON"),
    (lambda at: (at / "adapter_config.json").write_text('{"peft_type": "IA3"}'), "peft_type='IA3', but LORA"),
    (lambda at: (at / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 0, "target_modules": ["q_proj"]}'),
     r"adapter_config\.json: does not fit this model"),
    (lambda at: (at / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "target_modules": ["c_attn"]}'),
     r"adapter_config\.json: does not fit this model .*c_attn"),
    (lambda at: (at / "adapter_model.safetensors").write_bytes(b"x" * 50), r"adapter_model\.safetensors: cut off or"),
    (lambda at: (at / "adapter_model.safetensors").rename(at / "adapter_model.bin"), "a pickle, which is never read"),
    (lambda at: spoil_tensor(at / "adapter_model.safetensors", lambda tensors, name: tensors.pop(name)),
     "adapters of another model: .* is missing there"),
    (lambda at: spoil_tensor(at / "adapter_model.safetensors", lambda tensors, name: tensors[name].fill_(torch.nan)),
     r"adapter_model\.safetensors: tensor .* is not finite")])
def test_damaged_adapters_are_refused_by_file(tuned, tmp_path, spoil, message):
    folder, kept, _ = tuned
    spoiled = tmp_path / "adapters"
    shutil.copytree(kept, spoiled)
    spoil(spoiled)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        finetuning.load_adapters(checkpoints.load(folder)[0], spoiled)


def test_adapters_of_a_model_of_another_size_are_refused(tuned, tmp_path):
    other, _ = checkpoints.load(random_checkpoints.tiny(tmp_path / "other", "llada", width=64))
    with pytest.raises(ValueError, match=r"_model\.safetensors: adapters of another model: .* is \(2, 96\) there,"):
        finetuning.load_adapters(other, tuned[1])


def test_saved_adapters_are_rounded_if_asked_and_take_the_place_of_others(tuned, tmp_path):
    folder, kept, _ = tuned
    model, tokenizer = checkpoints.load(folder)
    config = FineTuningConfig(rank=2, epochs=3, batch=2, learning_rate=1e-2)
    adapted = finetuning.add_adapters(model, config)
    finetuning.finetune(adapted, tokenizer, DATA.train, config)
    at = tmp_path / "adapters"
    shutil.copytree(kept, at)
    (at / "left.over").touch()
    finetuning.save_adapters(adapted, at, torch.bfloat16)
    assert sorted(path.name for path in at.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "left.over"]  # such as the checkpoint of the run
    assert [path.name for path in tmp_path.iterdir()] == ["adapters"]
    rounded = load_file(at / "adapter_model.safetensors")
    finetuning.save_adapters(adapted, at)
    exact = load_file(at / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in exact.values()} == {torch.float32}
    assert rounded.keys() == exact.keys() and all(torch.equal(rounded[key], exact[key].bfloat16()) for key in exact)
    assert any(not torch.equal(rounded[key].float(), exact[key]) for key in exact)
    other, _ = checkpoints.load(folder)
    finetuning.load_adapters(other, at)
    ids = torch.tensor([tokenizer("Ana Lima's child is")["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(other(ids).logits, adapted(ids).logits)


def test_adapters_that_cannot_be_saved_leave_those_that_are_there(tuned, tmp_path, monkeypatch):
    folder, kept, _ = tuned
    adapted = finetuning.add_adapters(checkpoints.load(folder)[0], FineTuningConfig(rank=2))
    at = tmp_path / "adapters"
    shutil.copytree(kept, at)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(finetuning, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        finetuning.save_adapters(adapted, at, torch.bfloat16)
    assert [path.name for path in tmp_path.iterdir()] == ["adapters"]
    for path in kept.iterdir():
        assert (at / path.name).read_bytes() == path.read_bytes()


def test_a_writer_that_is_killed_leaves_adapters_or_none_and_never_the_parts_of_two(tuned, tmp_path, monkeypatch):
    folder, kept, _ = tuned
    adapted = finetuning.add_adapters(checkpoints.load(folder)[0], FineTuningConfig(rank=2))
    at = tmp_path / "adapters"
    shutil.copytree(kept, at)
    replace = Path.replace

    def killed(path, target):
        if path.name == "adapter_config.json":
            raise KeyboardInterrupt
        return replace(path, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        finetuning.save_adapters(adapted, at)
    with pytest.raises(FileNotFoundError, match=r"adapter_config\.json: missing, so these are no adapters"):
        finetuning.load_adapters(checkpoints.load(folder)[0], at)
    finetuning.save_adapters(adapted, at)
    finetuning.load_adapters(checkpoints.load(folder)[0], at)


@pytest.mark.parametrize("rank", [0, 2])
def test_what_was_trained_is_saved_as_what_it_is(folders, tmp_path, rank):
    model, tokenizer = checkpoints.load(folders["llada"])
    config = FineTuningConfig(rank=rank, epochs=1, batch=2, learning_rate=1e-2, warmup=0)
    trained = finetuning.add_adapters(model, config)
    finetuning.finetune(trained, tokenizer, DATA.train, config)
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "config.json").write_text("{")  # of this run, interrupted while it saved
    finetuning.save_trained(trained, tokenizer, tmp_path / "kept")
    if rank:
        assert (tmp_path / "kept" / "config.json").read_text() == "{"
        again, _ = checkpoints.load(folders["llada"])
        finetuning.load_adapters(again, tmp_path / "kept")
    else:
        again, _ = checkpoints.load(tmp_path / "kept")
    ids = torch.tensor([tokenizer("Ana Lima's child is")["input_ids"]])
    with torch.no_grad():
        assert torch.equal(again(ids).logits, trained(ids).logits)
