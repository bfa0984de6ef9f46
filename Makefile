# Two commands matter: `make quickstart` and `make test`. Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup quickstart test test-slow lint docs bench clean

help:
	@echo "make quickstart   set up and pretrain on built-in real data (a few minutes on 2 CPU cores)"
	@echo "make test         set up and run the test suite (under 10 minutes on 2 CPU cores)"
	@echo "make test-slow    the long tests: 100 kills, the full recipes"
	@echo "make lint         ruff and mypy"
	@echo "make bench        the benchmarks (JSON into benchmarks/results)"

setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "openmae needs Python 3.11 or newer, %s is %d.%d; set PYTHON=/path/to/python3.11" % (sys.executable, v[0], v[1]))'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $(READY)

quickstart: setup
	$(BIN)/openmae quickstart

test: setup
	$(BIN)/python -m pytest -m "not slow"

test-slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

docs:
	@echo "The documentation is Markdown: README.md and docs/ (design, results). Nothing to build yet."

bench: setup
	$(BIN)/python benchmarks/throughput.py --device cpu --model vit_tiny_patch16_224 --batch-size 16 --repeats 5 --json benchmarks/results/throughput-cpu.json

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
