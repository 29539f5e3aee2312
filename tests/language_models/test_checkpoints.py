"""What `load` makes of checkpoints in the hub's layouts, what it refuses, and what `save` gives back."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_architectures import edit_config, made_checkpoints

from lib.language_models import checkpoint_checks, checkpoint_files, checkpoints, random_checkpoints
from lib.language_models.architectures import ARCHITECTURES, recognise

NAMES = tuple(ARCHITECTURES)
torch.set_num_threads(1)


def tensors(folder):
    """Every tensor in the files, under the name it has there."""
    return {name: value for path in Path(folder).glob("*.safetensors") for name, value in load_file(path).items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return made_checkpoints(tmp_path_factory.mktemp("made"))


@pytest.fixture
def llada(tmp_path):
    return random_checkpoints.tiny(tmp_path / "llada", "llada", width=32, layers=2)


def test_padding_rows_are_as_published(made):
    llada, _ = checkpoints.load(made["llada"])
    dream, tokenizer = checkpoints.load(made["dream"])
    assert llada.get_input_embeddings().padding_idx is None
    assert dream.get_input_embeddings().padding_idx == tokenizer.eos_token_id


# What `load` returns -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_loads_into_native_classes(made, name):
    model, tokenizer = checkpoints.load(made[name])
    kind = ARCHITECTURES[name]
    assert isinstance(model, kind.model_class) and not model.training
    assert model.architecture == name and model.config.is_causal is kind.causal
    change = checkpoint_checks.check_attention_direction(model, causal=kind.causal)
    assert change == 0 if kind.causal else change > 1e-3
    if not kind.causal:
        fields = checkpoint_files.read_config(made[name])
        assert tokenizer.mask_token_id == fields["mask_token_id"] < model.config.vocab_size
        marked = tokenizer(f"a{tokenizer.mask_token}b")["input_ids"]
        assert marked.count(tokenizer.mask_token_id) == 1
    text = "Fact: Ana's child"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@pytest.mark.parametrize("name", NAMES)
def test_saving_gives_back_names_numbers_and_configuration(made, tmp_path, name):
    model, tokenizer = checkpoints.load(made[name])
    saved = checkpoints.save(model, tokenizer, tmp_path / "saved", shard_size="60KB")
    before, after = tensors(made[name]), tensors(saved)
    kept = {key for key in before if "visual" not in key and "mtp" not in key}
    assert set(after) == kept and len(list(saved.glob("*.safetensors"))) > 1
    assert all(torch.equal(before[key], after[key]) for key in kept)
    assert checkpoint_files.read_config(saved) == checkpoint_files.read_config(made[name])
    again, reread = checkpoints.load(saved)
    tokens = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(again(tokens).logits, model(tokens).logits)
    assert reread("Fact: Ana")["input_ids"] == tokenizer("Fact: Ana")["input_ids"]
    with pytest.raises(FileExistsError, match="not empty"):
        checkpoints.save(model, tokenizer, saved)


def test_code_beside_the_weights_never_runs(llada, tmp_path):
    for file in ("modeling_llada.py", "configuration_llada.py"):
        (llada / file).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nraise RuntimeError('remote code ran')\n")
    checkpoints.load(llada)
    assert not (tmp_path / "ran").exists()
    assert "auto_map" in checkpoint_files.read_config(llada)


def test_adapters_survive_saving_and_loading(llada, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    base, _ = checkpoints.load(llada)
    plain = base(torch.tensor([[5, 6, 7]])).logits
    targets = ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj"]
    adapted = get_peft_model(base, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
    tokens = torch.tensor([[5, 6, 7]])
    expected = adapted.eval()(tokens).logits
    adapted.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(checkpoints.load(llada)[0], tmp_path / "adapter").eval()
    assert torch.equal(again(tokens).logits, expected)
    assert (expected - plain).abs().max() > 1e-3


# What `load` refuses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("field", "value"), [
    ("block_type", "sequential"), ("activation_type", "swiglu"), ("activation_type", "gelu"),
    ("layer_norm_type", "default"), ("rope", False), ("alibi", True), ("include_bias", True),
    ("include_qkv_bias", True), ("bias_for_layer_norm", True), ("attention_layer_norm", True),
    ("layer_norm_with_affine", False), ("input_emb_norm", True), ("scale_logits", True), ("block_group_size", 2),
    ("residual_dropout", 0.1), ("n_heads", 5), ("multi_query_attention", True),
])
def test_what_is_no_bidirectional_llama_is_refused_by_its_field(llada, field, value):
    edit_config(llada, **{field: value})
    with pytest.raises(ValueError, match=field):
        checkpoints.load(llada)


@pytest.mark.parametrize("field", ["block_type", "rope", "mask_token_id", "d_model", "weight_tying"])
def test_a_missing_field_is_named(llada, field):
    edit_config(llada, **{field: "absent"})
    with pytest.raises(ValueError, match=f"field '{field}' is missing"):
        checkpoints.load(llada)


@pytest.mark.parametrize(("field", "value"), [
    ("use_sliding_window", True), ("rope_scaling", {"type": "linear", "factor": 2.0}), ("hidden_act", "gelu")])
def test_other_dreams_are_refused(tmp_path, field, value):
    folder = random_checkpoints.tiny(tmp_path / "x", "dream", width=16, heads=2)
    edit_config(folder, **{field: value})
    with pytest.raises(ValueError, match=field):
        checkpoints.load(folder)


def test_other_architectures_are_refused(llada):
    edit_config(llada, model_type="llada_moe")
    with pytest.raises(ValueError, match="model_type='llada_moe'; this book reads llada, Dream, llama, qwen2"):
        checkpoints.load(llada)
    with pytest.raises(ValueError, match="no architecture 'gpt2'"):
        random_checkpoints.tiny(llada, "gpt2")
    with pytest.raises(FileExistsError, match="not empty"):
        random_checkpoints.tiny(llada, "llada")


def rename_tensor(folder, old, new):
    """Spoil a checkpoint: one tensor under another name, in its file and in the index."""
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"][new] = content["weight_map"].pop(old)
    shard = folder / content["weight_map"][new]
    tensors = load_file(shard)
    tensors[new] = tensors.pop(old)
    save_file(tensors, shard, metadata={"format": "pt"})
    index.write_text(json.dumps(content))


def test_a_renamed_tensor_is_missing_and_left_over(llada):
    rename_tensor(llada, "model.transformer.ln_f.weight", "model.transformer.ln_f.scale")
    with pytest.raises(ValueError, match=r"1 missing tensors: model\.norm\.weight"):
        checkpoints.load(llada)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_no_short_prompt_reads_must_be_finite(llada, value):
    shard = next(path for path in llada.glob("*.safetensors") if "model.transformer.wte.weight" in load_file(path))
    stored = load_file(shard)
    stored["model.transformer.wte.weight"][-1, -1] = value
    save_file(stored, shard, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"llada: tensor 'model\.transformer\.wte\.weight' is not finite; fetch"):
        checkpoints.load(llada)


@pytest.mark.parametrize(("name", "holder", "field"), [
    ("llada", None, "n_layers"), ("dream", None, "num_hidden_layers"), ("llama", None, "num_hidden_layers"),
    ("qwen3_5", "text_config", "num_hidden_layers")])
def test_a_billion_layers_are_refused_before_they_are_built(made, tmp_path, name, holder, field):
    folder = Path(shutil.copytree(made[name], tmp_path / "x"))
    nested = {holder: checkpoint_files.read_config(folder)[holder] | {field: 10**9}} if holder else {field: 10**9}
    edit_config(folder, **nested)
    with pytest.raises(ValueError, match=rf"config\.json: {field}=1000000000: models of up to 1000 layers are read"):
        checkpoints.load(folder)


def test_weights_of_whole_numbers_and_unknown_precisions_are_refused(llada):
    with pytest.raises(ValueError, match=r"dtype=torch\.int8 is none of"):
        checkpoints.load(llada, torch.int8)
    shard = sorted(llada.glob("*.safetensors"))[0]
    save_file({name: tensor.to(torch.int8) for name, tensor in load_file(shard).items()}, shard)
    with pytest.raises(ValueError, match=rf"{shard.name}: tensor '.*' is of type I8; weights are F64, F32, BF16, F16"):
        checkpoints.load(llada)


def test_an_extra_tensor_is_refused(llada):
    shard = sorted(llada.glob("*.safetensors"))[0]
    save_file(load_file(shard) | {"model.transformer.wpe.weight": torch.ones(3)}, shard, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 unexpected tensors: model\.transformer\.wpe"):
        checkpoints.load(llada)


def test_a_tensor_of_another_shape_is_refused(llada):
    edit_config(llada, mlp_hidden_size=40)
    with pytest.raises(ValueError, match="do not have the shapes of"):
        checkpoints.load(llada)


@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_shard_cut_off_anywhere_is_refused(llada, keep):
    shard = sorted(llada.glob("*.safetensors"))[-1]
    content = shard.read_bytes()
    shard.write_bytes(content[:keep])
    with pytest.raises(ValueError, match=rf"{shard.name}: cut off or damaged, {len(content[:keep])} bytes"):
        checkpoints.load(llada)


def test_a_missing_shard_is_refused(llada):
    shard = sorted(llada.glob("*.safetensors"))[-1]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"{shard.name}: missing"):
        checkpoints.load(llada)


def test_pickles_are_not_read(llada):
    for path in llada.glob("model*"):
        path.unlink()
    (llada / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="is a pickle, which is never read"):
        checkpoints.load(llada)


@pytest.mark.parametrize(("mask", "message"), [(100_000, "outside the vocabulary"), (-1, "outside the vocabulary"),
                                               (575, "=575, but the tokenizer knows no such token"),
                                               ("258", "mask_token_id='258' must be a whole number"),
                                               (3.5, "mask_token_id=3.5 must be"), ([1], r"=\[1\] must be"),
                                               (True, "=True must be"), (5, "=5 is .*, which stands in texts too")])
def test_the_mask_must_be_a_token(llada, mask, message):
    edit_config(llada, mask_token_id=mask)
    with pytest.raises(ValueError, match=message):
        checkpoints.load(llada)


@pytest.mark.parametrize(("name", "text", "message"), [
    ("model.safetensors.index.json", "{", r"index\.json: not JSON"),
    ("model.safetensors.index.json", "{}", r"index\.json: field 'weight_map' must give each tensor its file"),
    ("model.safetensors.index.json", "[]", r"index\.json: must hold fields and values"),
    ("model.safetensors.index.json", '{"weight_map": {"a": "../x.safetensors"}}', "places 'a' in '../x.safetensors'"),
    ("model.safetensors.index.json", '{"weight_map": {"a": 3}}', "places 'a' in 3"),
    ("tokenizer.json", '{"a":1', r"no tokenizer can be read from tokenizer\.json, .*; fetch them again"),
    ("tokenizer.json", "{}", "no tokenizer can be read from")])
def test_damaged_small_files_are_named(llada, name, text, message):
    (llada / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        checkpoints.load(llada)


def test_a_tokenizer_without_words_is_refused(made, tmp_path):
    folder = Path(shutil.copytree(made["qwen3_5"], tmp_path / "x"))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"x: the tokenizer knows no words; fetch tokenizer\.json"):
        checkpoints.load(folder)


@pytest.mark.parametrize("name", ["llada", "dream"])
@pytest.mark.parametrize("value", ["x", 0, -1.0, True])
def test_the_base_of_the_rotary_frequencies_is_a_positive_number(made, tmp_path, name, value):
    folder = Path(shutil.copytree(made[name], tmp_path / "x"))
    edit_config(folder, rope_theta=value)
    with pytest.raises(ValueError, match=rf"config\.json: rope_theta={value!r} must be a positive number"):
        checkpoints.load(folder)


def test_an_end_token_is_needed(llada):
    path = llada / "tokenizer_config.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if "eos" not in key}))
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: eos_token is missing"):
        checkpoints.load(llada)


@pytest.mark.parametrize(("name", "field", "value"), [
    ("llada", "n_heads", 0), ("llada", "d_model", "64"), ("llada", "n_layers", 2.5), ("llada", "n_kv_heads", 0),
    ("dream", "num_attention_heads", 0), ("dream", "num_key_value_heads", "2"), ("dream", "vocab_size", -3),
    ("llama", "num_attention_heads", 0), ("qwen2", "hidden_size", "64")])
def test_sizes_are_whole_numbers(made, tmp_path, name, field, value):
    folder = Path(shutil.copytree(made[name], tmp_path / "x"))
    edit_config(folder, **{field: value})
    with pytest.raises(ValueError, match=rf"config\.json: {field}={value!r} must be a whole number from 1 on"):
        checkpoints.load(folder)


@pytest.mark.parametrize("name", ["llada", "qwen2", "qwen3_5"])
def test_a_checkpoint_read_in_another_precision_is_saved_in_that(tmp_path, name):
    folder = random_checkpoints.tiny(tmp_path / "x", name, width=32, heads=4, dtype=torch.bfloat16)
    model, tokenizer = checkpoints.load(folder, torch.float32)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(1e-4 * torch.randn_like(weight))
    saved = checkpoints.save(model, tokenizer, tmp_path / "saved")
    again, _ = checkpoints.load(saved)
    assert again.dtype == torch.float32
    assert all(torch.equal(old, new) for old, new in zip(model.parameters(), again.parameters(), strict=True))
    assert checkpoints.load(folder)[0].dtype == torch.bfloat16  # the original is as it was
    fields = checkpoint_files.read_config(saved)
    assert "bfloat16" not in json.dumps(fields) and fields.keys() == checkpoint_files.read_config(folder).keys()


def test_the_precision_is_said_where_the_configuration_says_it():
    nested = {"model_type": "qwen3_5", "text_config": {"dtype": "bfloat16", "a": 1}}
    assert checkpoints._with_dtype(nested, torch.float32) == {
        "model_type": "qwen3_5", "text_config": {"dtype": "float32", "a": 1}}
    assert nested["text_config"]["dtype"] == "bfloat16"
    assert checkpoints._with_dtype({"dtype": "float16"}, torch.bfloat16) == {"dtype": "bfloat16"}
    assert checkpoints._with_dtype({}, torch.bfloat16) == {"torch_dtype": "bfloat16"}


def test_a_checkpoint_is_there_whole_or_not_at_all(made, tmp_path, monkeypatch):
    model, tokenizer = checkpoints.load(made["llama"])
    seen = []
    write = Path.write_text
    monkeypatch.setattr(Path, "write_text", lambda path, text, **rest: (
        seen.append((tmp_path / "saved").exists()), write(path, text, **rest))[1])
    checkpoints.save(model, tokenizer, tmp_path / "saved")
    assert seen and not any(seen) and [path.name for path in tmp_path.iterdir()] == ["saved"]

    def full(path, target):
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="no space"):
        checkpoints.save(model, tokenizer, tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_what_is_no_checkpoint_is_refused_by_what_it_is(llada, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.json: a file; give the folder that holds config\.json, or a"):
        checkpoints.load(llada / "config.json")
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "adapter_config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"config\.json: missing, so this is adapters without their model"):
        checkpoints.load(tmp_path / "adapters")
    for device, message in (("gpu", "device 'gpu' is none of auto, cpu, cuda"), ("cuda:99", "'cuda:99': torch sees")):
        with pytest.raises(ValueError, match=message):
            checkpoints.load(llada, device=device)


def test_a_config_that_is_none_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint in the hub's layout"):
        checkpoints.load(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(ValueError, match="not JSON"):
        checkpoints.load(tmp_path)


def test_every_model_type_is_known_once():
    kinds = [kind for each in ARCHITECTURES.values() for kind in each.model_types]
    assert len(kinds) == len(set(kinds))
    assert all(recognise({"model_type": kind}).name in NAMES for kind in kinds)
