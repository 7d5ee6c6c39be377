# `make run` and `make test` set up what they need: a virtual environment in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: install run test check docs bench clean

install: $(STAMP)

# torch first and alone: with it present, no other package pulls a second build of it.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "spec-opt needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,png]'
	touch $(STAMP)

run: install
	$(BIN)/spec-opt run

# Two at a time: many tests wait for other processes.
test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist worksteal

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, into site/; open site/index.html.
docs: install
	$(BIN)/python docs/generate.py
	$(BIN)/zensical build --strict --clean

bench: install
	$(BIN)/python -m benchmarks.sweep

clean:
	rm -rf $(VENV) site .cache .pytest_cache .mypy_cache .ruff_cache
