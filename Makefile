# geo3d: `make demo`, `make test`, `make app` work on a fresh clone with python3, pip and make.
# Variables: PYTHON (interpreter that makes .venv), CONSTRAINTS (file of pinned versions, or
# /dev/null), PIP_ARGS (extra arguments for pip install), ARGS (extra arguments for the command).
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
PIP_ARGS ?=
CASES ?= 10000
SEED ?= 0
ARGS ?=
# Test files run side by side; WORKERS=0 runs all in one process, as a debugger wants.
WORKERS ?= auto
VENV := .venv
BIN := $(VENV)/bin
# Small problems on few cores: more threads than cores makes OpenMP spin and everything slower.
# Compiled modules are kept for all workers and their children, even where they are not by default.
TEST_ENV := PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 MPLBACKEND=Agg
TEST_PARALLEL := -n $(WORKERS) --maxprocesses=4 --dist loadfile --no-loadscope-reorder
# A failing install must fail the target, and half-made stamps must not count.
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow mutate fuzz app docs wheel-check lint format clean

help:
	@echo "make demo       build .venv, install, show all four methods, name the page with them"
	@echo "make test       the test suite (minutes)      make test-slow  all of it (an hour)"
	@echo "make mutate     the share of one-line faults in the mathematics that tests notice"
	@echo "make fuzz       damaged mesh files through the readers"
	@echo "make docs       the documentation as a site, from pages and docstrings, in build/site"
	@echo "make wheel-check  build the packages, install the wheel elsewhere, try every door"
	@echo "make app        the workbench at 127.0.0.1    make lint       ruff and pyright"

$(BIN)/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10))" || \
	    { echo "geo3d needs Python 3.10 or newer; set PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	    { rm -rf $(VENV); echo "Python cannot make environments; Debian: apt-get install python3-venv"; exit 1; }

# One stamp per set of extras; installed again only when the requirements change.
$(VENV)/.stamp-%: pyproject.toml $(wildcard constraints.txt) | $(BIN)/python
	@echo "Installing geo3d into $(VENV); the first time this takes minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c $(CONSTRAINTS) -e '.[$*]'
	@touch $@

RUN_STAMP := $(VENV)/.stamp-viewer
TEST_STAMP := $(VENV)/.stamp-test,viewer

demo: $(RUN_STAMP)
	$(BIN)/geo3d demo $(ARGS)

app: $(RUN_STAMP)
	$(BIN)/geo3d app $(ARGS)

test: $(TEST_STAMP)
	$(TEST_ENV) $(BIN)/python -m pytest -m "not slow" $(TEST_PARALLEL) $(ARGS)

test-slow: $(TEST_STAMP)
	$(TEST_ENV) $(BIN)/python -m pytest $(TEST_PARALLEL) $(ARGS)

# CASES=100000 mutated mesh files through the readers, SEED=1 other ones.
fuzz: $(TEST_STAMP)
	CASES=$(CASES) SEED=$(SEED) PYTHONPATH=.:tests $(BIN)/python tests/fuzz/run.py

# MUTANTS=80 tries 80 faults per room, ROOMS=spectral,search only these rooms, SEED=1 other faults.
mutate: $(TEST_STAMP)
	$(TEST_ENV) $(BIN)/python tests/mutation/run.py

# What a page or a docstring names and Sphinx cannot find ends the build.
docs: $(VENV)/.stamp-docs
	$(TEST_ENV) $(BIN)/python -m sphinx -q -W --keep-going -c docs -b html . build/site $(ARGS)
	@echo "build/site/docs/index.html"

# Built from what is committed, installed without extras, away from the checkout.
AWAY := build/wheel-check
wheel-check: | $(BIN)/python
	rm -rf $(AWAY)
	git clone -q . $(AWAY)/clone
	$(PYTHON) -m venv $(AWAY)/venv
	$(AWAY)/venv/bin/python -m pip wheel -q --no-deps --wheel-dir $(AWAY)/dist $(AWAY)/clone
	$(AWAY)/venv/bin/python -m pip install -q 'setuptools>=77'
	cd $(AWAY)/clone && ../venv/bin/python -c "import setuptools.build_meta as b; b.build_sdist('../dist')" > /dev/null
	test -z "$$(find $(AWAY)/dist -size +99M)"
	$(AWAY)/venv/bin/python -m pip install -q $(PIP_ARGS) -c $(CONSTRAINTS) $(AWAY)/dist/geo3d-*.whl
	$(AWAY)/venv/bin/python -I tests/wheel_doors.py

lint: $(TEST_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(TEST_STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
