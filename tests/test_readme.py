"""The README keeps its word: its worked examples run, its commands and files are there, its numbers are recorded."""

import re
import subprocess
import sys

import pytest
import torch
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

from lib import encodings
from lib.language_models import random_checkpoints
from lib.language_models.architectures import ARCHITECTURES
from lib.language_models.pretrained_results import CONVERTED, FROM_KEPT, RecordedRuns
from lib.one_layer import intervention_results as read
from lib.one_layer import paper_tables, prediction, results, signature_ranks, stopping
from lib.one_layer.intervention_runs import Sources
from lib.one_layer.results import Runs
from lib.record import claims_file, few_seeds, provenance, report
from pipeline import chapters, imports
from pipeline.chapters import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
COUNTS = {2: "two", 3: "three", 4: "four", 5: "five"}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def example(title, language):
    """The block of that language under a heading."""
    section = README.split(f"### {title}\n")[1].split("\n### ")[0]
    (found,) = [body for kind, body in BLOCK.findall(section) if kind == language]
    return found


@pytest.fixture
def registries():
    """What the examples add is gone after the test."""
    saved = [(registry, dict(registry)) for registry in (encodings.ENCODINGS, ARCHITECTURES)]
    yield
    for registry, before in saved:
        registry.clear()
        registry.update(before)


def test_the_encoding_and_the_claim_of_the_readme_work(registries, tmp_path, monkeypatch):
    names = {}
    exec(example("Add an encoding", "python"), names)
    assert names["losses"][-1].shape == (2,) and (names["losses"][-1] < names["losses"][0]).all()
    path = tmp_path / "claims.yml"
    path.write_text(example("Add a claim", "yaml"), encoding="utf-8")
    monkeypatch.setattr(claims_file, "CLAIMS", path)
    exec(example("Add a claim", "python"), names)
    assert names["check"].holds


def test_the_model_of_the_readme_is_loaded(registries, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(random_checkpoints.tiny(tmp_path / "llama", "llama"))
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2}
    stored = MistralForCausalLM(MistralConfig(vocab_size=len(tokenizer), **sizes))
    for part in (stored, tokenizer):
        part.save_pretrained(tmp_path / "mistral")
    names = {"folder": tmp_path / "mistral"}
    exec(example("Add a model", "python"), names)
    tokens = torch.tensor([[5, 6, 7]])
    assert torch.allclose(names["model"](tokens).logits, stored(tokens).logits, atol=1e-5)


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m (\S+) --help", README))))
def test_commands_of_the_readme_explain_themselves(module):
    command = [sys.executable, "-m", module, "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "usage" in done.stdout.lower()


def test_targets_and_folders_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"`make ([\w-]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for name in re.findall(r"^((?:lib|pipeline|results|benchmarks|tests)/\S*)\s{2,}", README, re.MULTILINE):
        assert (ROOT / name).exists(), name


def test_the_readme_says_what_makes_each_folder_of_results():
    """All but those of chapters; the command of each is a target of make or a module of the project."""
    table = README.split("The others, and what makes each:")[1].split("\n## ")[0]
    made = dict(re.findall(r"^\| `(\w+)` \|.*\| `([^`]+)` \|$", table, re.MULTILINE))
    folders = {path.name for path in provenance.RECORDED.iterdir() if path.is_dir()}
    assert set(made) == folders - set(chapters.chapters())
    for folder, command in made.items():
        module = re.match(r"python -m (\S+)", command)
        assert command.startswith("make ") or imports.module_file(module[1]), folder
        assert f"results/{folder}/" in command or "--out" not in command, folder


# The numbers at a glance --------------------------------------------------------------------------------------------


def ledger_rows():
    """The rows of the recorded ledger by their ids."""
    return {row["id"]: row for row in provenance.read_json(provenance.RECORDED / "ledger.json")["rows"]}


def at_each_length(values):
    """Means at the lengths of Table 1 as the README writes them."""
    return ", ".join(f"{float(each.mean()):.0f}" for each in values)


def decimals(value, digits=2):
    """A number below one without its leading zero."""
    return f"{value:.{digits}f}".replace("0.", ".", 1)


@pytest.fixture(scope="module")
def glance():
    """The rows of the table by their first cell."""
    table = README.split("## Results at a glance")[1].split("\n## ")[0]
    cells = [line.strip("|").split("|", 1) for line in table.splitlines() if line.startswith("|")]
    return {first.strip(" *"): second for first, second in cells}


@pytest.fixture(scope="module")
def recorded():
    """The full runs of the one-layer chapters at our recipe."""
    shared = {"length": 10, "width": 64, "batch": 120, "learning_rate": 0.001}
    return Sources(Runs((), shared), *(Runs.of(results.recorded_runs(name), shared, "full")
                                       for name in ("beyond", "one_layer")))


def test_table_1_at_a_glance_is_what_is_recorded(glance):
    record = paper_tables.PaperComparison(results.recorded_runs("one_layer"))
    reverse = record.accuracies("RoPE", "reverse")
    printed = paper_tables.TABLE_1["RoPE"]["reverse"]
    runs = results.longest(results.recorded_runs("protocols"))
    curves = {size: results.matching(runs, length=size, encoding="rope")[0]["curves"] for size in paper_tables.LENGTHS}
    one, free = stopping.one_step_miss(curves, printed), stopping.hindsight_miss(curves, printed)
    for words in (f"is {at_each_length(reverse.values())} % on average",
                  f"{reverse['L = 10'].min():.0f} to {reverse['L = 10'].max():.0f} % in single seeds",
                  f"(printed {', '.join(f'{value:.0f}' for value in printed.values())})",
                  f"misses by {str(one).replace(' (', ' points (', 1)}", f"not excluded: {free}"):
        assert words in glance["Table 1"], words
    assert one.interval[0] > 10 > free.interval[0]


def test_the_prediction_at_a_glance_is_what_is_recorded(glance):
    runs = results.longest(results.recorded_runs("protocols"))
    cells = [cell for cell in prediction.learned_cells(runs) if cell["encoding"] not in ("alibi", "none")]
    every = prediction.Comparison.of(cells)
    hard, text = every.inside((5.0, 95.0)), glance["Predicting reverse accuracy"]
    points = lambda part: [f"{part.error(name).points:.1f}" for name in (
        prediction.ZERO, prediction.MEAN, prediction.SEEDS)]
    zero, mean, seeds = points(every)
    rule = str(every.error(prediction.ADDITIVE)).replace(" (", " points (")
    for words in (f"err by {rule} over {len(cells)} recorded cells",
                  f"zero errs by {zero}, the mean of all other models by {mean}, the mean of other seeds by {seeds}",
                  "{} against {}, {} and {}".format(hard.error(prediction.ADDITIVE), *points(hard))):
        assert words in text, words


def test_what_blocks_and_how_at_a_glance_is_what_is_recorded(glance, recorded):
    triples = read.blocking_triples(recorded)
    of = lambda name: report.signed(report.effect(*results.at_common_step(
        "reverse_accuracy", triples[name][2], triples[name][1]))).removeprefix("+")
    ten, *longer, last = [of(f"rope, drop_random{size}") for size in ("", ", L = 20", ", L = 30", ", L = 40")]
    blocks = f"by {ten.replace(' (', ' points (')}, {', '.join(longer)} and {last} under RoPE"
    assert blocks in glance["What blocks reverse recall"], blocks
    assert f"and by {of('learned, drop_random')} under learned" in glance["What blocks reverse recall"]
    runs = [recorded.either(encoding="rope", length=size) for size in paper_tables.LENGTHS]
    forward, own, untouched = (at_each_length(read.patched_accuracy(run, patch) for run in runs)
                               for patch in ("mass_forward", "mass_reverse", "itself"))
    for words in (f"are right in {forward} %", f"own weight in {own} %", f"untouched in {untouched} %"):
        assert words in glance["How a RoPE model knows the side"], words


def test_what_rests_on_the_kind_of_interval_is_said_at_a_glance(glance):
    rows = ledger_rows()
    other = [check["says"].partition(":")[0] for _, check in few_seeds.otherwise_by_student(
        [rows["cause-forward-weight"]])]
    lengths = " and ".join(each.removeprefix("L = ") for each in other)
    assert f"By Student's t the gain at L = {lengths} may be" in glance["How a RoPE model knows the side"]


def test_the_signatures_at_a_glance_are_what_is_recorded(glance, recorded):
    end, matched = signature_ranks.kinds_at_end(recorded.kinds()), signature_ranks.near_step(recorded)
    cosine, score = (signature_ranks.over_kinds(signature_ranks.without(matched), name)
                     for name in ("gradient_cosine", "score_correlation"))
    at_step, at_end = (signature_ranks.within_kinds(each, "gradient_cosine") for each in (matched, end))
    first = [decimals(signature_ranks.first_measure(end, name)) for name in ("gradient_cosine", "score_correlation")]
    low, high = map(decimals, at_step.interval)
    for words in (f"({decimals(cosine.correlation)}, p = {decimals(cosine.p, 3)})",
                  f"({decimals(score.correlation)}, p = {decimals(score.p, 1)})",
                  f"({decimals(at_step.correlation)}, interval {low} to {high})",
                  f"({decimals(at_end.correlation)})", f"gave {first[0]} and {first[1]}"):
        assert words in glance["The signatures"], words
    assert cosine.kinds == 7 and len(end) == 9


def test_a_real_model_at_a_glance_is_what_is_recorded(glance):
    rows = ledger_rows()
    above, across = (rows[name]["checks"][0]["ours"] for name in ("smollm-guarantee", "smollm-alignment"))
    text = glance["Theorem 4.3 in a real model (SmolLM2-135M)"]
    for words in (f"in {above['trained']:.0f} % of the 270 heads",
                  f"(untrained weights: {above['untrained']:.0f} %)",
                  f"in {across['trained']:.0f} % of the heads (untrained {across['untrained']:.0f} %)"):
        assert words in text, words


def test_recall_in_a_real_model_at_a_glance_is_what_is_recorded(glance):
    rows = ledger_rows()
    checks = {name: rows[name]["checks"][0] for name in ("smollm-curse", "smollm-stored", "smollm-written")}
    text = glance["Table 7 in a real model (SmolLM2-135M)"]
    exact, twin = checks["smollm-written"], checks["smollm-curse"]["ours"]["reverse, exact"]
    gain = checks["smollm-stored"]
    low, high = exact["interval"]["reverse, exact"]
    student = " to ".join(f"{end:.0f}" for end in exact["t_interval"]["reverse, exact"])
    less, more = gain["interval"]["difference"]
    for words in (f"writes {exact['ours']['reverse, exact']:.0f} % of the names exactly",
                  f"({low:.0f} to {high:.0f}, five seeds; by Student's t {student})",
                  f"in {gain['ours']['difference']:.0f} points more",
                  f"({less:.0f} to {more:.0f}; three seeds), which writes {twin:.0f} %"):
        assert words in text, words
    shown = told("smollm-length", "first-token", "names")[0]
    assert f"the first token of a name, it writes {shown} %" in glance["What it lacks to write the rest"]
    assert [len(seeds) for seeds in gain["seeds"]] == [5, 3] and len(exact["seeds"]) == 5


def recorded_check(claim, check):
    (found,) = [each for each in ledger_rows()[claim]["checks"] if each["check"] == check]
    return found


def told(claim, check, name):
    """A number of the recorded ledger and its interval, as the README writes them."""
    found = recorded_check(claim, check)
    low, high = found["interval"][name]
    return f"{found['ours'][name]:.0f}", f"({low:.0f} to {high:.0f})"


def test_the_ladder_at_a_glance_is_what_is_recorded(glance):
    text = glance["Why one order suffices in one layer and hardly in the miniature"]
    lost, given = told("ladder-shared", "exact-match", "own less shared"), told("ladder-miniature", "one-word-names",
                                                                               "difference")
    assert "falls by {} points {}".format(*lost) in text and "recalls {} points more {}".format(*given) in text


def test_relations_told_in_neither_order_at_a_glance_are_what_is_recorded(glance):
    checks = ("p2d-above", "d2p-above", "trex-above")
    found = [part for check in checks for part in told("smollm-relations", check, "difference")]
    (count,) = {len(recorded_check("smollm-relations", check)["seeds"]) for check in checks}
    assert ("ranks {} points more described persons {}, {} points more descriptions {} and {} points more capitals {} "
            "first than its twin, {} seeds each").format(*found, COUNTS[count]) in glance[
                "Relations told in neither order"]


def test_shorter_conversions_at_a_glance_are_what_is_recorded(glance):
    runs = RecordedRuns(provenance.RECORDED)
    of = lambda metric, name: runs.metric(metric, f"masked, {CONVERTED[name]}")
    written = {name: of("reverse_accuracy", name) for name in ("third", "low_rank", "plain")}
    (seeds,) = {len(found) for found in written.values()}
    shares = [f"{found.mean():.0f} %" for name in written
              for found in (written[name], of("reverse_first_without_prior", name))]
    assert ("A third of the conversion writes {} and ranks {} first; by adapters alone it writes {} and ranks {} "
            "first; with any token asked for in it, in place of whole names, {} and {} ({} seeds each).").format(
                *shares, COUNTS[seeds]) in glance["What the real model has to be asked for"]


def test_what_a_first_token_brings_at_a_glance_is_what_is_recorded(glance):
    length = recorded_check("smollm-length", "first-token")
    masked, other = (recorded_check("smollm-first-token", name) for name in (
        "above-masked-question", "above-other-question"))
    assert (f"it writes {length['ours']['names']:.0f} % ({COUNTS[len(length['seeds'])]} seeds). Much of that is the "
            f"first token's: from the kept model {masked['ours']['with the question']:.0f} %, with the question masked "
            f"{masked['ours']['question masked']:.0f} %, with another fact's question "
            f"{other['ours']['question of another']:.0f} % ({COUNTS[len(masked['seeds'])]} seeds)."
            ) in glance["What it lacks to write the rest"]


def test_wrong_names_and_the_kept_model_at_a_glance_are_what_is_recorded(glance):
    runs = RecordedRuns(provenance.RECORDED)
    of = lambda name: f"{runs.metric(name, FROM_KEPT).mean():.0f} %"
    pieces = [of(f"reverse_wrong_{name}") for name in ("of_right", "of_shown", "of_others")]
    seeds = COUNTS[len(runs.find(FROM_KEPT))]
    assert ("Of the pieces of a wrong name {} stand in the right name, {} in the shown one, {} in those of another "
            "fact ({} seeds)").format(*pieces, seeds) in glance["What it lacks to write the rest"]
    written, first = of("reverse_accuracy"), of("reverse_first_without_prior")
    assert (f"writes {written} of the names in reverse and ranks {first} first ({seeds} seeds)"
            in glance["A masked model to start from"])


def test_what_is_asked_for_at_a_glance_is_what_is_recorded(glance):
    text = " ".join(glance[row] for row in ("Masked, or only asked? (miniature)", "Order or relation word? (miniature)",
                                            "Which question of fine-tuning matters (miniature)"))
    permuted, copied = (told("mini-asked-autoregressive", "asked-throughout", form) for form in ("permuted", "masked"))
    source, wrong = told("mini-sweep", "source-and-target", "source"), told("mini-frame", "wrong-frame", "wrong frame")
    plain, holed = (told("mini-own-form", "holes-in-reverse", f"reverse, {how}") for how in ("plain", "with a hole"))
    for words in (f"it is {plain[0]} % by the plain question, and {holed[0]} % {holed[1]} where",
                  "recalls {} % in reverse if half".format(*permuted), "{} % {} after a masked copy".format(*copied),
                  "it alone gives {} % {}".format(*source), "in {} % {}.".format(*wrong)):
        assert words in text, words


def test_the_plain_objective_at_a_glance_is_what_is_recorded(glance):
    late = told("mini-diffusion", "reverse-after-ten-times", "10,000 steps")
    assert "ten times as many steps give {} % {}".format(*late) in glance["Table 7 in miniature (0.5 M parameters)"]


def test_the_predicted_limit_at_a_glance_is_what_is_recorded(glance):
    text, (found,) = glance["The same in trained models"], [
        each for each in ledger_rows()["n-limit-expected"]["checks"] if each["check"] == "accuracy"]
    limit, *rest = (f"{found['ours'][name]:.0f}" for name in ("expected", "zero", "mean", "same case"))
    for words in (f"misses reverse accuracy by {limit} points", *(f"by {each}" for each in rest)):
        assert words in text, words
    (deep,) = (each["ours"] for each in ledger_rows()["n-limit-mlp"]["checks"] if each["check"] == "accuracy")
    assert (f"misses by {deep['expected']:.0f} points and a second rule by {deep['limit']:.0f}; neither is under half "
            f"of the {deep['zero']:.0f} points") in text and min(deep["expected"], deep["limit"]) > deep["zero"] / 2


def test_our_recipe_at_a_glance_is_what_the_rows_below_say(glance):
    (said,) = re.findall(r"it answers ([\d, and]+) % of the reverse queries", README.replace("\n", " "))
    found = [number.split(" ")[0] for row, start in (
        ("Other recipes", "by our recipe "), ("How a RoPE model knows the side", "untouched in "),
        ("Table 1", "by our recipe is "), ("Which part of that supervision", "(our recipe: "))
        for number in [glance[row].split(start)[1].replace(",", " ")]]
    assert re.findall(r"\d+", said) == found


def test_how_long_recall_lasts_at_a_glance_is_what_is_recorded(glance):
    text = glance["How long reverse recall lasts"]
    checks = {each["check"]: each for each in ledger_rows()["n-blocking-noise"]["checks"]}
    for check, words in (("few-sequences", "22 sequences have {}"), ("many-sequences", "660 sequences {}")):
        ((name, share),) = [each for each in checks[check]["ours"].items() if "share" in each[0]]
        low, high = checks[check]["interval"][name]
        assert words.format(f"{share:.2f}") in text and f"({low:.2f} to {high:.2f})" in text
    fall = told("n-blocking-noise", "one-question-falls", "one question of each of 120 sequences")
    assert "fallen by {} points {}".format(*fall) in text


def test_stores_at_a_glance_are_what_is_recorded(glance):
    follows = [told(claim, check, "forward, follows, %")[0] for claim, check in (
        ("store-one-column", "reverse-follows"), ("store-mlp", "forward-only"),
        ("store-miniature", "llada-reverse-follows"), ("store-smollm-short", "reverse-follows"),
        ("store-two-columns", "neither-follows"))]
    (real,) = [check for check in ledger_rows()["store-smollm-short"]["checks"] if check["check"] == "reverse-follows"]
    assert ("for {} % of the facts in one attention layer, {} % in one layer with MLP, {} % in the LLaDA-like "
            "miniature (57 % from reverse to forward), {} % in SmolLM2 ({} seeds), and {} % in a causal layer").format(
                *follows[:4], COUNTS[len(real["seeds"])], follows[4]) in glance["One store or two"]
    assert told("store-miniature", "llada-forward-follows", "reverse, follows, %")[0] == "57"
    twice = [told("store-told-twice", check, "forward, follows, %")[0] for check in (
        "llama-apart", "qwen-apart", "llada-together")]
    assert twice[:2] == ["0", "0"] and f"(LLaDA-like {twice[2]} %)" in glance["One store or two: controls"]
    moved = [abs(check["ours"]["right, ratio"]) for claim in ("store-one-column", "store-mlp", "store-miniature",
             "store-smollm-short") for check in ledger_rows()[claim]["checks"] if "right, ratio" in check["ours"]]
    assert f"(at most {max(moved):.2f} of the edit)".replace("0.", ".") in glance["One store or two: controls"]


def test_rows_at_a_glance_are_claims(glance):
    named = {name for text in glance.values() for name in re.findall(r"`([\w-]+)`", text.partition("Rows: ")[2])}
    assert len(named) > 8 and named <= set(claims_file.known_claims())
