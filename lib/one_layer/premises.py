"""The query and the keys of one-layer models, for `lib.theory.premises`: do they keep the premise of Theorem 4.3?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from lib.one_layer import task
from lib.one_layer.ensemble import Ensemble


def evidence_keys(
    ensemble: Ensemble,
) -> tuple[Float[np.ndarray, "members dim"], Float[np.ndarray, "members letters dim"]]:
    """The mask's query and the 26 capitals' keys of masked RoPE models of one layer and one head, before rotation.

    Both are returned in float64, in the model's own units.

    :raises ValueError: for any other model, whose scores are no such products
    """
    settings = ensemble.settings
    if settings.encoding != "rope" or settings.causal or settings.depth > 1 or settings.heads > 1:
        raise ValueError("evidence_keys belongs to masked rope models of one layer and one head")
    capitals = slice(task.LETTERS, 2 * task.LETTERS)
    model = [ensemble.member(index).double() for index in range(len(ensemble))]
    read = [(m.layers[0].attention, m.layers[0].norm1(m.embedding)) for m in model]
    queries = [attention.query(seen[task.MASK]).detach().numpy() for attention, seen in read]
    keys = [attention.key(seen[capitals]).detach().numpy() for attention, seen in read]
    return np.stack(queries), np.stack(keys)
