# make train, make test: each makes .venv and installs what it needs first; a second call installs nothing.
.DEFAULT_GOAL := help
.PHONY: help train sweep report sync test test-all check format bench clean
PYTHON ?= python3
BENCH ?= solo
BIN := .venv/bin
INSTALLED := .venv/.installed
# One thread a test process: processes that share cores and threads are many times slower.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

train: $(INSTALLED)  ## one run: make train ARGS="optimizer=momentum scheduler=step"
	@$(BIN)/python train.py $(ARGS)

sweep: $(INSTALLED)  ## a grid: make sweep ARGS="optimizer.lr=1e-3,1e-2 seed=0,1"
	@$(BIN)/python train.py -m $(ARGS)

report: $(INSTALLED)  ## what sweeps found, here and as a page: make report SWEEP=outputs/sweeps/a (WANDB=1: in W&B too)
	@$(BIN)/python -m knobs.report $(SWEEP) $(if $(filter-out 0,$(WANDB)),--wandb)

sync: $(INSTALLED)  ## upload offline W&B runs and verify what arrived: make sync SWEEP=outputs/sweeps/a
	@$(BIN)/python -m knobs.tracking.sync $(SWEEP)

test: $(INSTALLED)  ## the test suite, on every core
	@$(PYTEST) -m "not slow"

test-all: $(INSTALLED)  ## the suite and the long trainings on real data
	@$(PYTEST)

check: $(INSTALLED)  ## ruff's lint and format, then the tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory test

format: $(INSTALLED)  ## put the code in ruff's format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: .venv-bench/.installed  ## speed beside peers: one run, and sweeps (make bench BENCH=sweep)
	@.venv-bench/bin/python benchmarks/$(BENCH).py $(ARGS)

clean:  ## remove what was installed and cached; outputs/ stays
	rm -rf .venv .venv-bench .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(INSTALLED): requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else "knobs needs Python 3.11 to 3.13, and $(PYTHON) is %d.%d; try: make PYTHON=python3.12 ..." % v)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing requirements.txt into .venv (once; torch is large) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv-bench/.installed: benchmarks/requirements.txt requirements.txt
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@touch $@
