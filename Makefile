# `make run` and `make test` set up what they need: a virtual environment in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-compile

.PHONY: install run test check docs bench clean

install: $(STAMP)

# torch first and alone: with it present, no other package pulls a second build of it. pip would compile
# the 17,000 files on one core.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "spec-opt needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --constraint constraints.txt torch
	$(PIP_INSTALL) --constraint constraints.txt --editable '.[dev,png]'
	$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
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
