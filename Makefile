# `make demo` and `make test` work from a fresh clone: they make .venv and install into it first.

VENV := .venv
STAMP := $(VENV)/.eosfm-installed
BIN := $(VENV)/bin
# A file's tests stay in one process: they share what is slow to make.
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile

.PHONY: demo test test-all lint install
.DEFAULT_GOAL := install

install: $(STAMP)

demo: $(STAMP)
	$(BIN)/eosfm demo

test: $(STAMP) lint
	$(BIN)/python -m pytest -q $(SIDE_BY_SIDE)

test-all: $(STAMP) lint
	$(BIN)/python -m pytest -q $(SIDE_BY_SIDE) -m "slow or not slow"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -c constraints.txt -e '.[test]'
	@touch $@

$(BIN)/python:
	@for python in $(PYTHON) python3.11 python3 python3.12 python3.13 python; do \
	    if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "$$python -m venv $(VENV)"; exec "$$python" -m venv $(VENV); \
	    fi; \
	done; \
	echo "eosfm needs Python 3.11 or newer. Name one: make PYTHON=/path/to/python3" >&2; exit 1
