# `make demo` and `make test` work on a fresh Linux machine with Python 3.11 or newer, and without
# network once the environment is there.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_STAMP := $(VENV)/.installed-run
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
# How long `make demo` generates traffic.
DEMO_SECONDS ?= 10

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install demo test check format docs bench proof compose-proof base-model clean

help: ## Show what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## Create the environment with the pinned dependencies

demo: $(RUN_STAMP) ## Run the service on generated traffic and say what became of it
	$(BIN)/streamspec demo --seconds $(DEMO_SECONDS)

test: $(STAMP) ## Run all tests; what cannot be exercised here is listed at the end
	$(BIN)/python -m pytest -q

check: $(STAMP) ## Lint, formatting, types and rules of import
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## Format the code and apply safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## Make the generated pages of docs/ anew
	$(BIN)/python -m streamspec.config.reference > docs/configuration.md
	$(BIN)/python -m streamspec.telemetry.metrics > docs/metrics.md

bench: $(BENCH_STAMP) ## Measure; results as ratios to peers in the same run
	$(BIN)/python -m benchmarks

proof: $(BENCH_STAMP) ## Side by side with everything else that a user would pick; writes benchmarks/RESULTS.md
	$(BIN)/python -m benchmarks proof report

compose-proof: ## Prove docker-compose.yml on a real Docker engine (as root: on one of its own)
	tests/compose/prove.sh

base-model: $(STAMP) ## Train the base model that the package carries, on generated traffic
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev,train]'
	$(BIN)/python -m benchmarks._base_model_training

clean: ## Remove the environment and everything that was generated
	rm -rf $(VENV) build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# Stamps are written last, so that an interrupted installation is taken up again. The demo needs what the service needs
# and no more; Python compiles what it imports when it imports it, which leaves out most of it.
$(RUN_STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "streamspec needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1); \
	next: install it and run make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot create environments; next: install the package python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --no-compile --constraint constraints.txt pip setuptools
	$(PIP) install --quiet --no-compile --constraint constraints.txt --no-build-isolation --editable .
	@touch $@

$(STAMP): $(RUN_STAMP)
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	@touch $@

# Peers to measure against; nothing else needs them.
$(BENCH_STAMP): $(STAMP)
	$(PIP) install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev,bench]'
	@touch $@
