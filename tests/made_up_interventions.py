"""Recorded one-layer runs of two seeds, made up: what they measured at steps 0, 100 and 1000."""

from lib.one_layer.results import STANDARD


def result(metrics=None, curves=None, **parameters):
    return {"parameters": {**STANDARD, "steps": 1000, **parameters}, "seeds": [0, 1], "metrics": metrics or {},
            "curves": {"steps": [0, 100, 1000], **(curves or {})}}


def growing(*ends, steps=(0, 100, 1000), **parameters):
    """A run whose seeds answer nothing at first, and this at every later point."""
    return result(curves={"steps": list(steps), "reverse_accuracy": [[0] + [end] * (len(steps) - 1) for end in ends]},
                  **{"steps": steps[-1], **parameters})
