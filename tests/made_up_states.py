"""Queries and keys of heads for no model in particular, and a small Llama that has some."""

import dataclasses

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from lib.language_models import checkpoints, random_checkpoints
from lib.language_models.head_states import HeadStates
from lib.theory import premises

BASE, DIM = 1000.0, 16
PLANES = DIM // 2
TEXTS = [" The river rises in the north of the country.", " Who is there, asked the child of the captain?"]


def small_llama(folder):
    """A random Llama of three layers whose four query heads share two key heads, and a tokenizer."""
    _, tokenizer = checkpoints.load(random_checkpoints.tiny(folder, "llama", width=32))
    torch.manual_seed(5)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=3,
                         num_attention_heads=4, num_key_value_heads=2, head_dim=DIM, initializer_range=0.2,
                         rope_parameters={"rope_type": "default", "rope_theta": BASE})
    return LlamaForCausalLM(config).eval(), tokenizer


def random_states(seed=0, *, tokens=60, layers=2, key_heads=2, sharing=2):
    """Correlated queries and keys of uneven planes, for no model in particular."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(layers, key_heads, DIM, DIM))
    keys = rng.normal(size=(layers, key_heads, tokens, DIM)) @ mix + 3 * rng.normal(size=(layers, key_heads, 1, DIM))
    queries = rng.normal(size=(layers, key_heads * sharing, tokens, DIM)) * np.geomspace(2, 0.2, DIM)
    return HeadStates(queries, keys, np.repeat([0, 1], [tokens // 2, tokens - tokens // 2]), BASE)


def with_covariance(covariance, tokens, rng, mean=0.0):
    """Keys whose sample covariance is exactly this one."""
    loose = rng.normal(size=(tokens, DIM))
    loose = loose - loose.mean(0)
    white = np.linalg.solve(np.linalg.cholesky(premises.item_covariance(loose)), loose.T).T
    return white @ np.linalg.cholesky(covariance).T + mean


def one_head(query, keys):
    """A model of one layer and head that asks with the same query everywhere."""
    queries = np.broadcast_to(query, (1, 1, len(keys), DIM)).copy()
    return HeadStates(queries, keys[None, None], np.zeros(len(keys), int), BASE)


def slow_planes(seed=0, tokens=80):
    """Queries that lie in the slow planes, against isotropic keys."""
    states = random_states(seed, tokens=tokens, key_heads=4, sharing=2)
    rng = np.random.default_rng(seed)
    queries = rng.normal(size=states.queries.shape) * np.repeat(np.geomspace(0.01, 1, PLANES), 2)
    return dataclasses.replace(states, queries=queries, keys=rng.normal(size=states.keys.shape))
