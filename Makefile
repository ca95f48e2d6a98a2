# geo3d: `make demo`, `make test`, `make app` work on a fresh clone with python3, pip and make.
# Variables: PYTHON (interpreter that makes .venv), CONSTRAINTS (file of pinned versions),
# PIP_ARGS (extra arguments for pip install).
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
# Small problems on a few cores: more threads than cores makes OpenMP spin and everything slower.
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test test-slow app lint format clean help

help:
	@echo "make demo | test | test-slow | app | lint | format | clean"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { echo "No venv module: on Debian, apt-get install python3-venv"; exit 1; }

$(VENV)/.stamp-%: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q $(PIP_ARGS) -c $(CONSTRAINTS) -e '.[$*]'
	@touch $@

demo: $(VENV)/.stamp-viewer
	$(BIN)/geo3d demo

test: $(VENV)/.stamp-test,viewer
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/.stamp-test,viewer
	$(BIN)/python -m pytest

app: $(VENV)/.stamp-viewer
	$(BIN)/geo3d app

lint: $(VENV)/.stamp-test,viewer
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.stamp-test,viewer
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
