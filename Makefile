# Thin: each target calls one tool. Settings: PROFILE=auto|quick|full, SET="chapter.parameter=value ...", CORES=n.
PROFILE ?= auto
SET ?=
NAME ?=
CORES ?= all
PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# two threads on a busy two-core machine can be ten times slower than one
export OMP_NUM_THREADS ?= 1

SNAKEMAKE = snakemake --cores $(CORES) --resources gpu=2 --quiet rules host --show-failed-logs --rerun-incomplete \
            --config profile="$(PROFILE)" set="$(SET)"

.PHONY: book chapter experiments pages record test lint bench clean

book: $(VENV)/ready            ## execute what changed, compute the ledger, render the pages
	@$(SNAKEMAKE)
	@python -m pipeline.ledger --summary _build/results/ledger.json
	@echo "Pages: $(CURDIR)/_build/html/index.html"

chapter: $(VENV)/ready         ## one chapter: make chapter NAME=one_layer SET="length=20"
	@test -n "$(NAME)" || { echo 'make chapter needs NAME=chapter, such as NAME=one_layer'; exit 2; }
	@$(SNAKEMAKE) chapter="$(NAME)"
	@echo "Notebook: $(CURDIR)/_build/chapters/$(NAME).ipynb"

experiments: $(VENV)/ready     ## the training runs alone: make experiments PROFILE=full NAME=one_layer
	@$(SNAKEMAKE) chapter="$(NAME)" -- experiments

pages: $(VENV)/ready           ## render the recorded chapters, executing nothing
	@python -m pipeline.pages _build/pages book results/chapters
	@python -m pipeline.ledger --summary results/ledger.json
	@echo "Pages: $(CURDIR)/_build/pages/index.html"

record: $(VENV)/ready          ## promote the last build's notebooks and results into the repository
	@test -z "$(SET)" || { echo 'make record takes no SET: what is recorded has the chapters'"'"' own parameters'; exit 2; }
	@$(MAKE) --no-print-directory book
	@python -m pipeline.record

test: $(VENV)/ready lint       ## pytest, then nbval over the recorded chapters
	@pytest -n 2 --dist loadfile
	@pytest -n 2 --dist loadfile --nbval-lax --nbval-current-env book

lint: $(VENV)/ready
	@ruff check
	@mypy

bench: $(VENV)/ready
	@python -m benchmarks.one_layer

clean:
	rm -rf _build .snakemake

# torch first: on a machine without CUDA, a local CPU build is then not replaced by anything that follows
$(VENV)/ready: requirements.txt requirements.lock pyproject.toml
	@echo "setting up $(VENV) (minutes, once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	@$(PYTHON) -m venv $(VENV)
	@python -m pip install --progress-bar on --disable-pip-version-check $$(grep '^torch==' requirements.txt)
	@python -m pip install --progress-bar on --disable-pip-version-check -r requirements.txt -c requirements.lock
	@python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
