"""A traced run asks what it trained, records one value a seed, and its cosines are those of stored gradients."""

import types

import numpy as np
import pytest
import torch

from lib.language_models import finetuning, queries, reversal_run, signatures, traced_run
from lib.record import claims_file, provenance

torch.set_num_threads(1)
SMALL = {"facts": 4, "held": 3, "steps": 2, "epochs": 4}


def test_a_traced_run_has_curves_adapters_and_the_lead_of_the_probes(monkeypatch):
    seen = {}

    def watched(model, tokenizer, data, config, **options):
        seen.update(data=data, config=config, **options)
        return reversal_run.run(model, tokenizer, data, config, **options)

    monkeypatch.setattr(traced_run, "reversal_run", types.SimpleNamespace(run=watched))
    found = traced_run.trace("llada", 1, **SMALL)
    assert len(found.curves["step"]) == len(found.curves["probability_reverse"]) == 4 and found.curves["step"][-1] == 4
    trained = [name for name, weight in found.model.named_parameters() if weight.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    asked = [query.sentence for query in found.data.queries(found.data.facts[0], lead=queries.LEAD)]
    example = found.data.train[0]
    assert example.prompt + example.completion == asked[0]  # what is asked forward is what was trained
    assert found.data.reverse[0].prompt + found.data.reverse[0].completion == asked[1]
    assert seen["replay"] and all(each.prompt.startswith(queries.LEAD) for each in seen["replay"])
    assert not {name for fact in found.data.facts for name in (fact.left, fact.right)
                if any(name in each.prompt + each.completion for each in seen["replay"])}
    assert found.share == pytest.approx(1 / 6)  # three sentences in half of each batch
    assert seen["watched"] == len(found.data.facts) and seen["config"].masking == "any"


def test_cosines_by_kind_and_matrix_are_those_of_stored_gradients():
    run = traced_run.trace("llada", 1, **SMALL)
    found = traced_run.tuned_cosines(run)
    assert all(values.shape == (3, len(traced_run.MATRICES) + 1) for values in found.values())
    pairs = [[queries.batch([each]) for each in queries.encoded_pair(run.data, fact, run.tokenizer)]
             for fact in run.data.facts]
    for pairing, shift in traced_run.PAIRINGS.items():
        stored = [signatures._gradient(run.model, batch) for batch in (pairs[0][0], pairs[shift][1])]
        for kind in traced_run.PARAMETER_SETS:
            for column, part in ((-1, "."), (1, ".k_proj.")):
                chosen = [index for index, (name, _) in enumerate(run.model.named_parameters())
                          if finetuning.is_adapter(name) == (kind == "adapters") and part in name]
                forward, reverse = (torch.cat([side[index].double().flatten() for index in chosen]) for side in stored)
                expected = float(torch.nn.functional.cosine_similarity(forward, reverse, dim=0))
                assert found[f"{kind}_{pairing}"][0, column] == pytest.approx(expected, abs=1e-5)


def test_it_records_every_seed_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(traced_run, "PRETRAINING_STEPS", 2)
    out, trace = tmp_path / "llada.json", traced_run.trace
    monkeypatch.setattr(traced_run, "trace", lambda *given, epochs: trace(*given, **{**SMALL, "epochs": epochs}))
    words = ["--seeds", "0", "1", "--epochs", "2", "--out", str(out)]
    traced_run.main(words)
    found = provenance.load(out)
    assert found["seeds"] == [0, 1] and found["parameters"]["share"] == pytest.approx(1 / 6)
    assert found["provenance"]["registered"] == claims_file.registered_for("traced_runs") != {}
    assert np.shape(found["curves"]["probability_reverse"]) == (2, 2) == (2, len(found["curves"]["step"]))
    assert np.shape(found["curves"]["weights_matched"]) == (2, len(traced_run.MATRICES))
    assert found["metrics"]["late_reverse"][0] == pytest.approx(found["curves"]["probability_reverse"][0][1])
    monkeypatch.setattr(traced_run, "trace", None)  # done: it is not run again
    traced_run.main(words)
    assert "its result stays" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        traced_run.main([*words, "--epochs", "3"])
    assert "epochs=2, not 3" in capsys.readouterr().err
