# The workflow: experiments -> executed chapters -> ledger -> pages.
#
# Sources are `ancient()` and stand in `params` as content digests: a touched file re-runs nothing, a changed one
# everything that depends on it: a chapter on what its code imports, directly or not. Outputs are `update()`: the last good one stays until a new one is whole.
import json
import os
import shlex
import sys

from snakemake.exceptions import WorkflowError

sys.path.insert(0, workflow.basedir)
from pipeline import build, chapters, experiments, imports

try:
    ONLY = os.environ.get("BOOK_NAME", "")
    PROFILE, VALUES = build.resolve(os.environ.get("BOOK_PROFILE", "auto"), os.environ.get("BOOK_SET", ""), ONLY)
    ENVIRONMENT = {name: chapters.environment(name) for name in chapters.chapters()}
    RUNS_OF = {name: experiments.experiments(name, PROFILE) for name in chapters.chapters()}
except chapters.Refused as error:
    raise WorkflowError(str(error))

NOTEBOOK = "_build/chapters/{chapter}.ipynb"
RECORD = "_build/results/chapters/{chapter}.json"
LEDGER = "_build/results/ledger.json"
CONTENT = [name for name in chapters.chapters() if name not in chapters.SUMMARIES]
RUNS = {(chapter, f"{PROFILE}_{name}"): run
        for chapter in CONTENT for name, run in RUNS_OF[chapter].items()}


def runs_of(wildcards):
    return [f"_build/results/{chapter}/{name}.json" for chapter, name in RUNS if chapter == wildcards.chapter]


def run_command(wildcards):
    return experiments.command(RUNS[wildcards.experiment, wildcards.run], VALUES[wildcards.experiment])


wildcard_constraints:
    chapter="|".join(chapters.chapters()),


rule all:
    input:
        NOTEBOOK.format(chapter=ONLY) if ONLY else "_build/html/index.html",


rule experiments:
    input:
        [f"_build/results/{chapter}/{name}.json" for chapter, name in RUNS if ONLY in ("", chapter)],


rule experiment:
    output:
        update("_build/results/{experiment}/{run}.json"),
    wildcard_constraints:
        experiment="|".join({chapter for chapter, _ in RUNS} or {"none"}),
    params:
        command=run_command,
        environment=lambda wildcards: chapters.dependencies([RUNS[wildcards.experiment, wildcards.run]["module"]]),
    resources:
        gpu=1,
    message:
        "experiment {wildcards.experiment}/{wildcards.run}"
    shell:
        "{params.command} --out {output:q}"


rule chapter:
    input:
        ancient("book/{chapter}.md"),
        runs_of,
        lambda wildcards: LEDGER if wildcards.chapter in chapters.SUMMARIES else [],
    output:
        update(NOTEBOOK),
        update(RECORD),
    params:
        values=lambda wildcards: shlex.quote(json.dumps(VALUES[wildcards.chapter], sort_keys=True)),
        source=lambda wildcards: chapters.digest(chapters.source(wildcards.chapter)),
        recorded=lambda wildcards: experiments.recorded(wildcards.chapter, PROFILE),
        environment=lambda wildcards: ENVIRONMENT[wildcards.chapter],
        profile=PROFILE,
    resources:
        gpu=1,
    message:
        "chapter {wildcards.chapter}"
    shell:
        "python -m pipeline.execute {wildcards.chapter} {output} --parameters {params.values} --profile {params.profile}"


rule ledger:
    input:
        books=expand(NOTEBOOK, chapter=CONTENT),
        records=expand(RECORD, chapter=CONTENT),
    output:
        update(LEDGER),
    params:
        claims=chapters.digest(chapters.ROOT / "book" / "claims.yml", *imports.closure(["pipeline.ledger"])),
    message:
        "ledger"
    shell:
        "python -m pipeline.ledger {output} {input.books}"


rule pages:
    input:
        expand(NOTEBOOK, chapter=chapters.chapters()),
    output:
        update("_build/html/index.html"),
    params:
        settings=chapters.digest(*(chapters.ROOT / name for name in ("_config.yml", "_toc.yml", "book/references.bib")),
                                 *sorted((chapters.ROOT / "book").glob("glossary.md")),
                                 *sorted((chapters.ROOT / "book" / "_static").glob("*")),
                                 *sorted((chapters.ROOT / "lib" / "record" / "templates").glob("*")),
                                 *(path for path in sorted((chapters.ROOT / "book").glob("*.md"))
                                   if path.stem not in chapters.chapters())),
        pages=chapters.digest(*imports.closure(["pipeline.pages"])),
    message:
        "pages"
    shell:
        "python -m pipeline.pages _build/html _build/chapters _build/results/chapters"
