# Two commands matter: `make quickstart` and `make test`. Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Versions of transformers that the slow tests convert to and from, each in an environment of its own:
# the newest 4.x, and the last one that fills the decoder's positions in a new model.
OLD_TRANSFORMERS ?= 4.57.6 4.50.3
OLD_READY := $(OLD_TRANSFORMERS:%=.venv-transformers-%/.ready)

# What the benchmarks compare with, in an environment of its own. stable-pretraining joins with
# BENCH_PEERS=stable-pretraining: see benchmarks/README.md.
BENCH_PEERS ?=
BENCH := .venv-bench
BENCH_READY := $(BENCH)/.ready
RESULTS := benchmarks/results

.PHONY: help setup quickstart test test-slow old-transformers lint docs clean
.PHONY: bench bench-peers bench-step bench-memory bench-loader bench-startup bench-scaling bench-ranks bench-curves bench-cuda bench-report

help:
	@echo "make quickstart   set up and pretrain on built-in real data (a few minutes on 2 CPU cores)"
	@echo "make test         set up and run the test suite (under 10 minutes on 2 CPU cores)"
	@echo "make test-slow    the long tests: 100 kills, the full recipes, transformers $(OLD_TRANSFORMERS)"
	@echo "make lint         ruff and mypy"
	@echo "make docs         the documentation as pages: build/docs/index.html"
	@echo "make bench        the benchmarks on CPU, and docs/performance.md from them (about an hour on 2 idle cores)"
	@echo "make bench-cuda   the training step on a GPU, against the same others"

setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "openmae needs Python 3.11 or newer, %s is %d.%d; set PYTHON=/path/to/python3.11" % (sys.executable, v[0], v[1]))'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $(READY)

quickstart: setup
	$(BIN)/openmae quickstart

# Two processes of one thread each; a file's tests stay together, since they share what they set up.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

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

# Warnings are errors: a dead link, a page that is in no list.
docs: setup
	$(BIN)/sphinx-build -W --keep-going -q -b html docs build/docs
	@echo "build/docs/index.html"

bench: bench-step bench-memory bench-startup bench-scaling bench-ranks bench-curves bench-loader bench-report

# lightly's modules need none of what lightly wants beside them (Lightning, Hydra), hence --no-deps.
# Its MAE decoder is to go in 1.7. The .pth file reads those of the main environment as well, where
# the editable openmae is one.
$(BENCH_READY): | $(READY)
	@$(BIN)/python -m venv --clear --without-pip $(BENCH)
	@site='import sysconfig; print(sysconfig.get_path("purelib"))'; \
		echo "import site; site.addsitedir('$$($(BIN)/python -c "$$site")')" > "$$($(BENCH)/bin/python -c "$$site")/main.pth"
	$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --only-binary :all: --no-deps "lightly>=1.5.20,<1.7"
	$(if $(BENCH_PEERS),$(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --only-binary :all: $(BENCH_PEERS))
	@touch $@

bench-peers: $(BENCH_READY)

bench-step: $(BENCH_READY)
	$(BENCH)/bin/python benchmarks/throughput.py --device cpu --model vit_base_patch16_224 --batch-size 16 --repeats 7 --json $(RESULTS)/throughput-cpu-base.json
	$(BENCH)/bin/python benchmarks/throughput.py --device cpu --model vit_small_patch16_224 --decoder-depth 2 --decoder-dim 256 --decoder-heads 8 --batch-size 16 --repeats 15 --json $(RESULTS)/throughput-cpu-small.json

bench-memory: $(BENCH_READY)
	$(BENCH)/bin/python benchmarks/memory.py --device cpu --json $(RESULTS)/memory-cpu.json

bench-startup: setup
	$(BIN)/python benchmarks/startup.py --json $(RESULTS)/startup-cpu.json

bench-scaling: setup
	$(BIN)/python benchmarks/scaling.py --json $(RESULTS)/scaling-cpu.json

bench-ranks: setup
	$(BIN)/python benchmarks/ranks.py --model vit_small_patch16_224 --ranks 2 --threads 1 --batch-size 16 --repeats 7 --json $(RESULTS)/ranks-cpu.json

bench-curves: setup
	$(BIN)/python benchmarks/curves.py --json $(RESULTS)/curves-digits.json

bench-loader: setup
	$(BIN)/python benchmarks/loader.py $(if $(PHOTOS),--photos $(PHOTOS)) --rounds 15 --json $(RESULTS)/loader-cpu.json

bench-cuda: $(BENCH_READY)
	for size in small_patch16 base_patch16 large_patch16 huge_patch14; do \
		$(BENCH)/bin/python benchmarks/throughput.py --device cuda --model vit_$${size}_224 --batch-size 256 --compile --profile --json $(RESULTS)/throughput-cuda-$$size.json && \
		$(BENCH)/bin/python benchmarks/throughput.py --device cuda --model vit_$${size}_224 --batch-size max --compile --json $(RESULTS)/throughput-cuda-$$size-max.json || exit 1; \
	done

bench-report: setup
	$(BIN)/python benchmarks/report.py

clean:
	rm -rf $(VENV) .venv-transformers-* $(BENCH) build dist .pytest_cache .mypy_cache .ruff_cache
