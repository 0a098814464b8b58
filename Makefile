PYTHON ?= python3
VENV ?= .venv
OUT ?= runs/digits
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq install -c constraints.txt
METADATA := setup.cfg pyproject.toml constraints.txt
# Python 3.11 gets ArviZ 0.23, later ones ArviZ 1: a second environment, without torch, for the newest there is.
ARVIZ_VENV ?= .venv-arviz
ARVIZ_PYTHON ?= $(shell for p in python3.14 python3.13 python3.12 $$(ls -d $${PYENV_ROOT:-$$HOME/.pyenv}/versions/3.1[2-9]*/bin/python 2>/dev/null | sort -rV) $(PYTHON); do $$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && echo $$p && break; done)
ARVIZ_PACKAGES := "arviz>=1.2,<2" h5netcdf h5py matplotlib numpy pandas pytest xarray zarr

# Small tensors gain nothing from threads, and a shared machine loses by them.
export OMP_NUM_THREADS ?= 1
export MPLBACKEND ?= Agg

N ?= 1000
SEED ?= 0
JOBS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test test-arviz fuzz fuzz-calls fuzz-faults doctest lint format docs bench clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.runtime  ## train on the digits, print the account, leave pictures in runs/digits
	$(BIN)/python examples/digits.py --out $(OUT)

test: $(VENV)/.dev  ## all checks: lint, types, docs, doctests, tests
	@$(MAKE) --no-print-directory --jobs 3 lint docs doctest test-arviz
	$(BIN)/python -m pytest --quiet --durations=5 --numprocesses auto --dist worksteal tests

test-arviz:  ## what needs no torch: ArviZ's groups and weights of any origin, under ArviZ 1
	@python="$(ARVIZ_PYTHON)"; if [ -z "$$python" ]; then \
	  echo "SKIPPED the tests under ArviZ 1: it needs Python 3.12 or later, and none was found; name one with make ARVIZ_PYTHON=..."; \
	else \
	  $(MAKE) --no-print-directory $(ARVIZ_VENV)/.made ARVIZ_PYTHON="$$python" && \
	  $(ARVIZ_VENV)/bin/python -m pytest --quiet --noconftest tests/test_native.py tests/test_from_weights.py; \
	fi

fuzz-calls: $(VENV)/.dev  ## N calls of public functions with wrong arguments, which shall end in sentences
	$(BIN)/python tests/fuzz/calls.py -n $(N) --seed $(SEED)

doctest: $(VENV)/.dev  ## run the examples of the docstrings
	$(BIN)/python -m pytest --quiet --doctest-modules pyro_infomax

fuzz: $(VENV)/.dev  ## N random pairs of programs against exact answers, from SEED on, in JOBS processes
	@$(BIN)/python -m tests.fuzz $(N) --seed $(SEED) --jobs $(JOBS)

fuzz-faults: $(VENV)/.dev  ## plant faults in the library, each of which the fuzzer has to find
	@$(BIN)/python -m tests.fuzz --faults

lint: $(VENV)/.dev  ## ruff and mypy, changing nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## rewrite the sources in the house style
	$(BIN)/ruff check --quiet --fix .
	$(BIN)/ruff format --quiet .

docs: $(VENV)/.dev  ## build the pages into docs/_build/html, warnings are errors
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

bench: $(VENV)/.runtime  ## run every benchmark
	@for script in $(wildcard benchmarks/*.py); do echo "$$script"; $(BIN)/python "$$script" || exit 1; done

clean:  ## remove everything that was built, the environment included
	rm -rf .venv $(ARVIZ_VENV) build dist *.egg-info runs docs/_build docs/api .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and by its exact version: a range may bring gigabytes of GPU libraries.
$(VENV)/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Expected Python 3.11 or later but got %d.%d; name another with make PYTHON=..." % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	@touch $@

$(ARVIZ_VENV)/.made: constraints.txt
	$(ARVIZ_PYTHON) -m venv $(ARVIZ_VENV)
	$(ARVIZ_VENV)/bin/python -m pip --disable-pip-version-check -qq install -c constraints.txt $(ARVIZ_PACKAGES)
	@touch $@

$(VENV)/.runtime: $(VENV)/.torch $(METADATA)
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.torch $(METADATA)
	$(PIP) -e ".[dev]"
	@touch $@
