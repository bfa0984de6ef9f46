# Two commands matter: `make quickstart` and `make test`. Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Versions of transformers that the slow tests convert to and from, each in an environment of its own:
# the newest 4.x, and the last one that fills the decoder's positions in a new model.
OLD_TRANSFORMERS ?= 4.57.6 4.50.3
OLD_READY := $(OLD_TRANSFORMERS:%=.venv-transformers-%/.ready)

.PHONY: help setup quickstart test test-slow old-transformers lint docs bench clean

help:
	@echo "make quickstart   set up and pretrain on built-in real data (a few minutes on 2 CPU cores)"
	@echo "make test         set up and run the test suite (under 10 minutes on 2 CPU cores)"
	@echo "make test-slow    the long tests: 100 kills, the full recipes, transformers $(OLD_TRANSFORMERS)"
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

test-slow: setup old-transformers
	$(BIN)/python -m pytest -m slow

old-transformers: $(OLD_READY)

# A .pth file shows it the packages of the main environment, behind its own: only transformers and
# what that wants in another version are installed. Made once (hence the |): `make clean` before
# another Python. Without a compiler: --only-binary. What only the main environment imports may
# conflict: --no-warn-conflicts.
$(OLD_READY): .venv-transformers-%/.ready: | $(READY)
	@$(BIN)/python -m venv --clear --without-pip $(@D)
	@site='import sysconfig; print(sysconfig.get_path("purelib"))'; \
		$(BIN)/python -c "$$site" > "$$($(@D)/bin/python -c "$$site")/main.pth"
	$(@D)/bin/python -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --only-binary :all: transformers==$*
	@touch $@

lint: setup
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

docs:
	@echo "The documentation is Markdown: README.md and docs/ (design, results). Nothing to build yet."

bench: setup
	$(BIN)/python benchmarks/throughput.py --device cpu --model vit_tiny_patch16_224 --batch-size 16 --repeats 5 --json benchmarks/results/throughput-cpu.json
	$(BIN)/python benchmarks/loader.py $(if $(PHOTOS),--photos $(PHOTOS)) --json benchmarks/results/loader-cpu.json

clean:
	rm -rf $(VENV) .venv-transformers-* build dist .pytest_cache .mypy_cache .ruff_cache
