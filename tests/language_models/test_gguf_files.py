"""What is read from a GGUF file, written here with llama.cpp's names, order of rows and types, and what is refused."""

import copy
import signal

import gguf
import numpy as np
import pytest
import torch
from tokenizers import pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

from lib.language_models import checkpoint_checks, checkpoints, gguf_files, model_size, queries

torch.set_num_threads(1)
LAYERS, HEADS, KEY_HEADS, WIDTH, HIDDEN, VOCABULARY = 2, 4, 2, 64, 96, 320
TEXT = " Ana's child is Bob, born 1984."


def model_of(tied=True, seed=0):
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KEY_HEADS, max_position_embeddings=128, rms_norm_eps=1e-5,
        rope_parameters={"rope_type": "default", "rope_theta": 1e5}, tie_word_embeddings=tied, pad_token_id=None)
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn_like(weight) / (8 if weight.dim() > 1 else 4) + (weight.dim() == 1))
    return model


def rows_in_the_file(name, weight):
    """llama.cpp's order: of each head the coordinates 0, d/2, 1, d/2 + 1, ..."""
    heads = {"attn_q": HEADS, "attn_k": KEY_HEADS}.get(name.removesuffix(".weight").split(".")[-1])
    if heads is None:
        return weight
    size = len(weight) // heads
    order = [head * size + half * size // 2 + i for head in range(heads) for i in range(size // 2) for half in (0, 1)]
    return weight[order]


HEADER = {
    "vocab_size": VOCABULARY, "embedding_length": WIDTH, "feed_forward_length": HIDDEN, "block_count": LAYERS,
    "attention.head_count": HEADS, "attention.head_count_kv": KEY_HEADS, "context_length": 128,
    "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 1e5, "rope.dimension_count": WIDTH // HEADS}
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
         "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
         "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
LETTERS = sorted(pre_tokenizers.ByteLevel.alphabet())
MERGES = ["Ġ A", "n a", "ĠA na", "Ġ B", "o b", "ĠB ob", "1 9"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
WORDS = [*SPECIAL, *LETTERS, *(pair.replace(" ", "") for pair in MERGES)]
WORDS += [f"<unused {i}>" for i in range(VOCABULARY - len(WORDS))]
LISTS = {"tokens": WORDS, "merges": MERGES, "token_type": [3] * len(SPECIAL) + [1] * (VOCABULARY - len(SPECIAL))}
OTHERS = {"model": "gpt2", "pre": "smollm", "bos_token_id": 1, "eos_token_id": 2}


def name_in_the_file(name):
    name = name.removesuffix(".weight")
    if name in NAMES:
        return f"{NAMES[name]}.weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest]}.weight"


def write(path, model, kind=gguf.GGMLQuantizationType.F32, architecture="llama", header=(), tokenizer=(), tensors=()):
    """A GGUF file of a model; matrices in the type asked for. ``None`` in a mapping leaves a field or tensor out."""
    writer = gguf.GGUFWriter(path, architecture)
    for name, value in (HEADER | dict(header)).items():
        if value is not None:
            field = f"{architecture}.{name}"
            add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string, list: writer.add_array}
            add[type(value)](field, value)
    for name, value in (LISTS | OTHERS | dict(tokenizer)).items():
        if value is not None:
            field = f"tokenizer.ggml.{name}"
            add = {int: writer.add_uint32, str: writer.add_string, list: writer.add_array}
            add[type(value)](field, value)
    stored = {name_in_the_file(name): weight.detach().numpy() for name, weight in model.named_parameters()}
    for name, weight in (stored | dict(tensors)).items():
        if weight is None:
            continue
        if weight.ndim == 1 or kind is gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, np.ascontiguousarray(rows_in_the_file(name, weight)))
        else:
            writer.add_tensor(name, gguf.quantize(rows_in_the_file(name, weight), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model and its file; not to be changed."""
    model = model_of()
    return model, write(tmp_path_factory.mktemp("made") / "tiny.gguf", model)


# What is read ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_the_model_is_the_one_that_was_written(tmp_path, tied):
    model = model_of(tied)
    loaded, tokenizer = checkpoints.load(write(tmp_path / "x.gguf", model))
    expected, found = (dict(each.named_parameters()) for each in (model, loaded))
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    with torch.no_grad():
        assert torch.equal(model(ids).logits, loaded(ids).logits)
    assert (loaded.architecture, queries.is_causal(loaded), queries.logits_shift(loaded)) == ("llama", True, 1)
    assert not loaded.training and loaded.config.rope_parameters["rope_theta"] == 1e5
    assert not hasattr(loaded.config, "quantization_config")


def test_the_order_of_the_rows_matters(made, monkeypatch):
    model, path = made
    monkeypatch.setattr(gguf_files, "_halves_apart", lambda rows, heads: rows)
    other, tokenizer = checkpoints.load(path)
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    with torch.no_grad():
        before, after = model(ids).logits, other(ids).logits
    assert (before - after).abs().max() > 0.1 * before.abs().max()


@pytest.mark.parametrize("kind", ["F16", "Q8_0", "Q4_1", "Q4_0", "BF16"])
def test_the_weights_are_those_that_transformers_reads(tmp_path, kind):
    path = write(tmp_path / "x.gguf", model_of(), gguf.GGMLQuantizationType[kind])
    ours, _ = checkpoints.load(path)
    theirs = LlamaForCausalLM.from_pretrained(tmp_path, gguf_file=path.name)
    expected = dict(theirs.named_parameters())
    assert all(torch.equal(weight, expected[name]) for name, weight in ours.named_parameters())
    written = dict(model_of().named_parameters())
    errors = [float((weight - written[name]).detach().abs().max()) for name, weight in ours.named_parameters()]
    assert 0 < max(errors) < 0.1


def test_a_precision_may_be_chosen(made):
    model, path = made
    loaded, _ = checkpoints.load(path, torch.bfloat16)
    assert loaded.dtype == torch.bfloat16
    assert all(torch.equal(ours, theirs.bfloat16())
               for ours, theirs in zip(loaded.parameters(), model.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"tiny\.gguf: dtype=torch\.int8 is none of"):
        checkpoints.load(path, torch.int8)


def test_what_does_not_fit_is_refused(made, monkeypatch):
    monkeypatch.setattr(model_size, "available_bytes", lambda device: 2e5)
    with pytest.raises(MemoryError, match=r"tiny\.gguf: .* needs 0\.0 GB, .*; dtype=torch\.bfloat16 would fit"):
        checkpoints.load(made[1])


def test_what_is_saved_is_read_again(made, tmp_path):
    model, tokenizer = checkpoints.load(made[1])
    with torch.no_grad():
        model.model.norm.weight.add_(1e-3)
    again, words = checkpoints.load(checkpoints.save(model, tokenizer, tmp_path / "saved"))
    assert all(torch.equal(old, new) for old, new in zip(model.parameters(), again.parameters(), strict=True))
    assert words(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
    expected, found = (each.config.to_dict() | {"_name_or_path": ""} for each in (model, again))
    assert expected == found and model.config.name_or_path == "tiny.gguf"
    assert (words.bos_token_id, words.eos_token_id, words.mask_token_id) == (1, 2, None)


def test_an_opened_model_is_saved_as_one(made, tmp_path):
    model, tokenizer = checkpoints.load(made[1])
    model.original_config |= {"is_causal": False, "logits_shift": 1, "mask_token_id": 0}
    again, words = checkpoints.load(checkpoints.save(model, tokenizer, tmp_path / "saved"))
    assert not queries.is_causal(again) and queries.logits_shift(again) == 1 and words.mask_token_id == 0
    assert queries.is_causal(model) and tokenizer.mask_token_id is None
    model.original_config["mask_token_id"] = None
    saved = checkpoints.save(model, tokenizer, tmp_path / "other")
    with pytest.raises(ValueError, match=r"config\.json: is_causal=False, so field 'mask_token_id' is needed"):
        checkpoints.load(saved)


def test_the_tokenizer_joins_what_the_file_says_and_adds_nothing(made):
    _, tokenizer = checkpoints.load(made[1])
    assert tokenizer.tokenize(" Ana Bob") == ["ĠAna", "ĠBob"]
    assert tokenizer.tokenize("Ana") == ["A", "na"]  # no space was added
    assert tokenizer.tokenize("19") == ["1", "9"]  # digits stay apart, whatever the merges
    assert tokenizer("")["input_ids"] == [] and tokenizer.decode(tokenizer(TEXT)["input_ids"]) == TEXT
    assert tokenizer("<|im_end|>")["input_ids"] == [2]
    assert tokenizer("<unused 7>")["input_ids"] != [WORDS.index("<unused 7>")]  # no special token


# What is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("changes", "message"), [
    ({"architecture": "qwen2"}, r"general\.architecture='qwen2'; of GGUF files this book reads 'llama'"),
    ({"header": {"rope.scaling.type": "yarn"}}, r"llama\.rope\.scaling\.type='yarn', but a plain Llama has no such"),
    ({"header": {"expert_count": 8}}, r"llama\.expert_count=8, but a plain Llama has no such field"),
    ({"header": {"rope.freq_base": None}}, r"llama\.rope\.freq_base=None must be a positive number"),
    ({"header": {"rope.freq_base": float("nan")}}, r"llama\.rope\.freq_base=nan must be a positive number"),
    ({"header": {"attention.head_count_kv": [2, 2]}}, r"llama\.attention\.head_count_kv=\[2, 2\] must be a whole"),
    ({"header": {"attention.head_count": 0}}, r"llama\.attention\.head_count=0 must be a whole number from 1 on"),
    ({"header": {"block_count": 10**9}}, r"llama\.block_count=1000000000, but there are tensors of 2 blocks"),
    ({"header": {"feed_forward_length": 100}}, r"mlp\.down_proj\.weight is \(64, 96\) in the file, \(64, 100\) in the"),
    ({"header": {"attention.head_count_kv": 4}}, r"k_proj\.weight is \(32, 64\) in the file, \(64, 64\) in the model"),
    ({"tensors": {"output_norm.weight": None}}, r"model\.norm\.weight is missing in the file, \(64,\) in the model"),
    ({"tensors": {"rope_freqs.weight": np.ones(8, np.float32)}}, r"rope_freqs\.weight is \(8,\) in the file, missing"),
    ({"tensors": {"x": np.ones(8, np.float32)}}, r"x is \(8,\) in the file, missing in the model"),
    ({"tensors": {"output_norm.weight": np.ones(WIDTH, np.int32)}}, r"'output_norm\.weight' is of type I32; weights"),
    ({"tensors": {"output_norm.weight": np.full(WIDTH, np.nan, np.float32)}}, r"'model\.norm\.weight' is not finite"),
    ({"tokenizer": {"model": "llama"}}, r"tokenizer\.ggml\.model='llama'; the tokenizer that is read here has 'gpt2'"),
    ({"tokenizer": {"pre": "qwen2"}}, r"tokenizer\.ggml\.pre='qwen2'; the tokenizer that is read here has 'smollm'"),
    ({"tokenizer": {"merges": None}}, r"tokenizer\.ggml\.merges must be a list$"),
    ({"tokenizer": {"tokens": WORDS[:-1]}}, r"tokenizer\.ggml\.tokens must be a list of 320 entries"),
    ({"tokenizer": {"token_type": None}}, r"tokenizer\.ggml\.token_type must be a list of 320 entries"),
    ({"tokenizer": {"eos_token_id": VOCABULARY}}, r"tokenizer\.ggml\.eos_token_id=320 is no token of a vocabulary"),
    ({"tokenizer": {"eos_token_id": None}}, r"tokenizer\.ggml\.eos_token_id=None is no token of a vocabulary"),
])
def test_a_file_of_something_else_is_refused_by_its_first_wrong_field(tmp_path, changes, message):
    path = write(tmp_path / "x.gguf", model_of(), **changes)
    with pytest.raises(ValueError, match=message) as refused:
        checkpoints.load(path)
    assert str(refused.value).startswith(f"{path}: ") and "\n" not in str(refused.value)


@pytest.mark.parametrize("keep", [0, 3, 4, 20, 100, 3000, 6000, 9000, -5000, -40])
def test_a_file_cut_off_anywhere_is_refused(made, tmp_path, keep):
    content = made[1].read_bytes()[:keep]
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.gguf: cut off or damaged, {len(content)} bytes \(.+\); fetch it again"):
        checkpoints.load(path)


@pytest.mark.parametrize("version", [1, 4])
def test_a_file_of_another_version_of_the_format_is_refused_by_it(made, tmp_path, version):
    content = bytearray(made[1].read_bytes())
    content[4:8] = version.to_bytes(4, "little")
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(ValueError, match=rf"x\.gguf: GGUF version {version}, but versions 2 and 3 are read; convert"):
        checkpoints.load(tmp_path / "x.gguf")


def test_what_is_no_file_of_weights_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"x\.gguf: missing"):
        checkpoints.load(tmp_path / "x.gguf")
    (tmp_path / "x.gguf").mkdir()
    with pytest.raises(FileNotFoundError, match=r"x\.gguf: missing"):
        checkpoints.load(tmp_path / "x.gguf")
    (tmp_path / "y.gguf").write_bytes(b"\x80\x04" * 100)
    with pytest.raises(ValueError, match=r"y\.gguf: cut off or damaged, 200 bytes \(GGUF magic invalid\)"):
        checkpoints.load(tmp_path / "y.gguf")


def test_any_changed_byte_of_the_header_is_read_or_refused_by_one_line(made, tmp_path):
    content, path = made[1].read_bytes(), tmp_path / "x.gguf"
    size = int(gguf.GGUFReader(made[1]).data_offset)
    rng, refused = np.random.default_rng(0), 0
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    for place in rng.choice(size, 80, replace=False).tolist():
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        signal.alarm(20)  # a count that is read as 2^60 must not be followed to its end
        try:
            checkpoints.load(path)
        except ValueError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            refused += 1
        finally:
            signal.alarm(0)
    assert 10 < refused < 80


# The self-test -----------------------------------------------------------------------------------------------


def test_the_self_test_is_not_fooled_by_tokens_that_are_all_alike(made):
    model = copy.deepcopy(made[0])
    with torch.no_grad():
        model.model.embed_tokens.weight[:40] = model.model.embed_tokens.weight[0]
    assert checkpoint_checks.check_attention_direction(model, causal=True) == 0
    with pytest.raises(ValueError, match="does not see tokens"):
        checkpoint_checks.check_attention_direction(model, causal=False)
    model.config.is_causal = False
    assert checkpoint_checks.check_attention_direction(model, causal=False) > 1e-3
    with pytest.raises(ValueError, match="sees tokens to its right"):
        checkpoint_checks.check_attention_direction(model, causal=True)
    with torch.no_grad():
        model.model.embed_tokens.weight[:] = model.model.embed_tokens.weight[0]
    with pytest.raises(ValueError, match="the logits do not depend on the token at their own position"):
        checkpoint_checks.check_attention_direction(model, causal=True)
