# make train, make test: each makes .venv and installs what it needs first; a second call installs nothing.
# EXTRA="ray slurm" adds packages that most do without: the extras of pyproject.toml that have a lock file.
.DEFAULT_GOAL := help
.PHONY: help train sweep report sync test test-all check format bench lock audit clean
PYTHON ?= python3
LOCK ?= 1
BENCH ?= solo
EXTRA ?=
BIN := .venv/bin
INSTALLED := .venv/.installed
EXTRAS := $(EXTRA:%=.venv/.installed-%)
# One thread a test process: processes that share cores and threads are many times slower. Each gets tests
# that stand beside one another, so that what they share is made once, and helps the others in the end.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# No package but those listed, each held against its hashes, also those that build another one.
LOCKED := $(PIP) install --require-hashes --no-deps --no-build-isolation
REFUSED = { echo "pip refused the lock. Where a hash does not match, a package was altered on its way here, or this machine has another build of it (torch has several). For a build that you trust, without hashes: make LOCK=0 $(MAKECMDGOALS)"; exit 1; }
# Every file of each version, for Linux and macOS alike. What is locked stays at its version, with its
# hashes, also the one added by hand: torch's CPU build (Linux x86_64, Python 3.11), sha256:6746dbcb...
COMPILE := .venv-supply/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

train: $(INSTALLED) $(EXTRAS)  ## one run: make train ARGS="optimizer=momentum scheduler=step"
	@$(BIN)/python train.py $(ARGS)

sweep: $(INSTALLED) $(EXTRAS)  ## a grid: make sweep ARGS="optimizer.lr=1e-3,1e-2 seed=0,1"
	@$(BIN)/python train.py -m $(ARGS)

report: $(INSTALLED)  ## what sweeps found, here and as a page: make report SWEEP=outputs/sweeps/a (WANDB=1: in W&B too)
	@$(BIN)/python -m knobs.report $(SWEEP) $(if $(filter-out 0,$(WANDB)),--wandb)

sync: $(INSTALLED)  ## upload offline W&B runs and verify what arrived: make sync SWEEP=outputs/sweeps/a
	@$(BIN)/python -m knobs.tracking.sync $(SWEEP)

test: $(INSTALLED) $(EXTRAS)  ## the test suite, on every core
	@$(PYTEST) -m "not slow"

test-all: $(INSTALLED) $(EXTRAS)  ## the suite and the long trainings on real data
	@$(PYTEST)

check: $(INSTALLED) $(EXTRAS)  ## ruff's lint and format, then the tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory test

format: $(INSTALLED)  ## put the code in ruff's format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: .venv-bench/.installed  ## speed beside peers: one run, and sweeps (make bench BENCH=sweep)
	@.venv-bench/bin/python benchmarks/$(BENCH).py $(ARGS)

lock: .venv-supply/.installed  ## lock what requirements.txt asks for, after a change of it
	@cat requirements.lock requirements-cuda.lock >.venv-supply/lock
	@$(COMPILE) --no-emit-package knobs --no-emit-package colorama requirements.txt -o .venv-supply/lock
	@awk '/^[a-z]/ { file = /^(cuda|nvidia|triton)/ ? "requirements-cuda.lock" : "requirements.lock" } \
		{ print >file }' .venv-supply/lock
	@$(COMPILE) .ci/requirements.txt -o .ci/requirements.lock
	@for extra in ray slurm timm transformers; do $(COMPILE) -c requirements.lock --extra $$extra pyproject.toml -o .venv-supply/lock; \
		awk 'NR == FNR { if (/==/) known[$$1] = 1; next } \
			/==/ { new = !known[$$1] && !/^(colorama|cuda|nvidia|triton)/ } new' \
		requirements.lock .venv-supply/lock >requirements-$$extra.lock; done

audit:  ## known vulnerabilities of what is locked
	@if $(MAKE) --silent .venv-supply/.installed; then .venv-supply/bin/python .ci/audit.py; \
	else echo "audit: NOT RUN, pip-audit could not be installed (see above)"; fi

clean:  ## remove what was installed and cached; outputs/ stays
	rm -rf .venv .venv-bench .venv-supply .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# First setuptools, which builds others; then torch, where pip finds a file of it on this machine: of several
# builds pip would take one whose hash an index announces. The registry's needs CUDA's packages on Linux.
$(INSTALLED): requirements.txt requirements.lock requirements-cuda.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v <= (3, 13) else "knobs needs Python 3.11 to 3.13, and $(PYTHON) is %d.%d; try: make PYTHON=python3.12 ..." % v)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
ifeq ($(LOCK),0)
	@echo "installing requirements.txt into .venv, no hash checked (LOCK=0) ..."
	@$(PIP) install -r requirements.txt
else
	@echo "installing requirements.lock into .venv (once; torch is large) ..."
	@for name in setuptools torch; do sed -n "/^$$name==/,/[^\\]$$/p" requirements.lock >.venv/$$name.lock; done
	@$(LOCKED) -r .venv/setuptools.lock || $(REFUSED)
	@! $(PIP) install --dry-run --no-index --no-deps "$$(grep -o '^torch==[^ ]*' requirements.txt)" 2>/dev/null \
		|| $(LOCKED) --no-index -r .venv/torch.lock || $(REFUSED)
	@$(LOCKED) -r requirements.lock || $(REFUSED)
	@! $(BIN)/python -m pip check | grep -qE 'requires (cuda|nvidia|triton)' \
		|| $(LOCKED) -r requirements-cuda.lock || $(REFUSED)
	@$(PIP) install --no-index --no-deps --no-build-isolation -r requirements.txt || { echo "the lock does not hold what requirements.txt asks for: make lock, or make LOCK=0 $(MAKECMDGOALS)"; exit 1; }
	@$(BIN)/python -m pip check
endif
	@touch $@

.venv/.installed-%: requirements-%.lock $(INSTALLED)
ifeq ($(LOCK),0)
	@$(PIP) install $$(sed -n 's/^\([a-z][^ ]*==[^ ;]*\).*/\1/p' $<)
else
	@$(LOCKED) -r $< || $(REFUSED)
endif
	@$(BIN)/python -m pip check
	@touch $@

.venv-supply/.installed: .ci/requirements.lock
	@$(PYTHON) -m venv .venv-supply
	@.venv-supply/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r .ci/requirements.lock
	@touch $@

.venv-bench/.installed: benchmarks/requirements.txt requirements.txt
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@touch $@
