# Two commands do all the set-up: `make run` and `make test`. Only git, make and Python 3.11 or 3.12 are assumed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test test-all lint ui status doctor clean

run: $(VENV)/.installed            ## install, make every artefact that is missing or stale, print the results
	$(BIN)/iot-pipeline run

test: $(VENV)/.installed-dev lint  ## install, lint, type-check, run every test
	$(COMPILE)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: $(VENV)/.installed-dev lint  ## the same, with the tests of benchmarks and of the optional base
	$(COMPILE)
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'slow or not slow'

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/dg check defs

ui: $(VENV)/.installed             ## the Dagster UI on this lake
	$(BIN)/iot-pipeline ui

status doctor: $(VENV)/.installed
	$(BIN)/iot-pipeline $@

# Where Python writes no bytecode, each process that a test starts would compile the package anew: 1 s of 3.5.
COMPILE := $(BIN)/python -m compileall -q iot_pipeline iot_pipeline_tests

INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet --editable

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 13) else "error: Python 3.11 or 3.12 is needed; say make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(INSTALL) .
	touch $@

# One installation for both, so that pip resolves the versions once.
$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(INSTALL) '.[dev]'
	touch $@ $(VENV)/.installed

clean:                             ## remove the virtual environment; the lake stays
	rm -rf $(VENV)
