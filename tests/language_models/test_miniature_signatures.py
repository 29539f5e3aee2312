"""Signatures along fine-tuning: checks on runs made by hand, and the runs found among those of the real model."""

from pathlib import Path

import numpy as np
import pytest

from lib.language_models import figures_pretrained
from lib.language_models import miniature_signatures as signatures
from lib.record import provenance
from lib.record.provenance import Result

POINTS = 3


def runs_of(*changes):
    """Five seeds; each change is of one seed: metric or curve -> value."""
    found = signatures.MeasuredMiniatures.__new__(signatures.MeasuredMiniatures)
    found.results = []
    for seed in range(5):
        change = changes[seed] if seed < len(changes) else {}
        metrics = {"before_reverse_free_right": 0.0, "reverse_free_right": 80.0, "before_cosine_matched": 77.0 + seed,
                   "cosine_matched": 51.0, "before_cosine_mismatched": float(seed - 2), "cosine_mismatched": 0.0}
        curves = {"along_correlation_matched": 50.0, "along_correlation_mismatched": 17.0, "along_cosine_matched": 60.0,
                  "along_cosine_mismatched": 1.0}
        found.results.append(Result({
            "metrics": {name: [change.get(name, value)] for name, value in metrics.items()},
            "curves": {"step": [1, 5, 9]} | {name: [value, value, change.get(name, value)]
                                             for name, value in curves.items()}, "seeds": [seed]}, Path("run.json")))
    return found


def test_one_fact_is_above_two_at_every_point_and_in_every_seed():
    assert signatures.one_fact_above_two(runs_of())
    assert not signatures.one_fact_above_two(runs_of(), turn=True)
    for name, value in (("along_correlation_matched", 16.0), ("along_cosine_mismatched", 60.0)):
        assert not signatures.one_fact_above_two(runs_of({}, {name: value}))


def test_the_cosine_falls_while_reverse_answers_rise():
    assert signatures.cosine_falls(runs_of()) and not signatures.cosine_falls(runs_of(), "mismatched")
    assert not signatures.cosine_falls(runs_of(*[{"cosine_matched": 90.0 + seed} for seed in range(5)]))
    assert not signatures.cosine_falls(runs_of(*[{"reverse_free_right": 0.0}] * 5))


@pytest.mark.parametrize("there", [True, False])
def test_runs_are_found_by_their_experiment_and_drawn(there, tmp_path):
    for experiment in ("competition", "pretrained") if there else ("pretrained",):
        made = runs_of().results[0]
        provenance.save(tmp_path / "pretrained" / f"{experiment}.json", experiment=experiment, parameters={}, seeds=[3],
                        metrics=made["metrics"], curves=made["curves"], run=provenance.Run())
    runs = signatures.MeasuredMiniatures(tmp_path)
    assert list(runs.find()) == ([3] if there else [])
    figure = figures_pretrained.signatures_along(runs, [signatures.MINIATURE])
    if not there:
        assert figure is None
        return
    drawn = [line.get_ydata() for line in figure.axes[1].lines if len(line.get_ydata()) == POINTS]
    assert len(drawn) == 4 and np.allclose(drawn[0], 0.6)  # recorded in percent
