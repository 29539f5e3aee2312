"""Patched attention written out with forward hooks, one variant at a time: what the package's patches are held to."""

import functools

import torch

from lib.language_models import checkpoints, queries, random_checkpoints, synthetic_facts

NAMES = ("llada", "dream", "llama")
SHIFT = {"llada": 0, "dream": 1, "llama": 1}
WORLD = synthetic_facts.world(12).p2c


def loader(base):
    """Name -> model and encoded pairs of that architecture; large weights, so that attention is far from even."""

    @functools.cache
    def load(name):
        folder = random_checkpoints.tiny(base / name, name, width=32, heads=4, key_heads=2, layers=4, scale=0.25)
        model, tokenizer = checkpoints.load(folder)
        return model, [queries.encoded_pair(WORLD, fact, tokenizer) for fact in WORLD.facts]

    return load


def rows_of(name, prompt, rows="both"):
    """Written out: which rows a prompt's patches are made in."""
    readout = {position - SHIFT[name] for position in prompt.target}
    return sorted({"readout": readout, "target": set(prompt.target), "both": readout | set(prompt.target)}[rows])


def slow_logits(model, prompt, name, kind, source, layers_and_heads, rows="both"):
    """One variant by forward hooks on the attention modules: outputs are put together again, head by head."""
    at, columns = rows_of(name, prompt, rows), list(prompt.evidence)
    size = model.config.hidden_size // model.config.num_attention_heads
    model.set_attn_implementation("eager")
    handles, values = [], {}

    def replace(layer, module, given, found):
        weights = found[1]
        value = values[layer][0].view(len(prompt.input_ids), -1, size)
        value = value.repeat_interleave(weights.shape[1] // value.shape[1], 1)
        heads = [head for each, head in layers_and_heads if each == layer]
        mixed = torch.einsum("hij,jhd->ihd", weights[0], value)
        for head in heads:
            for place, row in enumerate(at):
                if kind == "output":
                    mixed[row, head] = source.outputs[layer, head, place]
                    continue
                old = weights[0, head, row].double()
                theirs = torch.zeros(len(columns)) if kind == "knockout" else source.weights[layer, head, place]
                if kind == "total_weight":
                    theirs = theirs.sum() * old[columns] / old[columns].sum()
                rest = old.clone()
                rest[columns] = 0
                new = rest / rest.sum() * (1 - theirs.sum())
                new[columns] = theirs.double()
                mixed[row, head] = new.float() @ value[:, head]
        return module.o_proj(mixed.flatten(1)[None]), weights

    for layer in sorted({layer for layer, _ in layers_and_heads}):
        attention = model.model.layers[layer].self_attn
        handles.append(attention.v_proj.register_forward_hook(
            lambda module, given, found, layer=layer: values.__setitem__(layer, found)))
        handles.append(attention.register_forward_hook(functools.partial(replace, layer)))
    with torch.no_grad():
        logits = model(prompt.input_ids[None]).logits[0]
    for handle in handles:
        handle.remove()
    model.set_attn_implementation("sdpa")
    return logits[[position - SHIFT[name] for position in prompt.target]]


def pairs_of(where):
    return [tuple(pair) for pair in where.nonzero().tolist()]


def plain_logits(model, prompt, name):
    with torch.no_grad():
        return model(prompt.input_ids[None]).logits[0, [position - SHIFT[name] for position in prompt.target]]
