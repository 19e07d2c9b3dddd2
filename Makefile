# make sets everything up itself. It needs Python >= 3.11 and nothing else.

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
PIP := $(PY) -m pip --disable-pip-version-check --quiet
# Tests wait about as long as they compute: more worker processes than most machines have cores.
WORKERS ?= 4
# How many times as many random rounds `make soak` does as `make test`.
SOAK ?= 20

.DEFAULT_GOAL := help
.PHONY: help demo test soak check bench migrate lock clean

help: ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r target text; \
	do printf '%-14s %s\n' "$$target" "$$text"; done

demo: $(VENV)/.base ## Run the whole service beside a simulated Meld, on an embedded database and broker
	@$(BIN)/meldwatch up --demo

test: $(VENV)/.dev ## Run all tests (ARGS="-k word" for some)
	@$(PY) -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

soak: $(VENV)/.dev ## Run the random tests with 20 times as many rounds (SOAK=100 for more)
	@MELDWATCH_SOAK=$(SOAK) $(PY) -m pytest -n $(WORKERS) --dist worksteal --timeout 14400 -m "random or hypothesis" $(ARGS)

check: $(VENV)/.dev ## Check format, lint, types and imports
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(BIN)/lint-imports

bench: $(VENV)/.dev ## Measure (ARGS="--help" for what)
	@$(PY) -m bench $(ARGS)

migrate: $(VENV)/.base ## Upgrade the database to the newest revision
	@$(BIN)/meldwatch migrate

lock: $(VENV)/.lock ## Pin the newest versions of all dependencies, with their hashes
	$(VENV)/lock/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header -q \
		--upgrade pyproject.toml requirements/build.in -o requirements/base.txt
	$(VENV)/lock/bin/uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header -q \
		--upgrade --extra dev -c requirements/base.txt pyproject.toml requirements/build.in -o requirements/dev.txt

clean: ## Delete the environment and all caches, but no data
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "No Python >= 3.11 was found. Install one, or name it: make PYTHON=/path/to/python" >&2; \
		exit 1; }
	@$(PYTHON) -c 'import ensurepip' || { echo "This Python lacks venv (Debian: apt-get install python3-venv)." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# The development dependencies hold the others, in the same versions: after them there is nothing left to install.
$(VENV)/.base: $(VENV)/.made requirements/base.txt pyproject.toml
	@echo "Installing the locked dependencies into $(VENV) ..."
	@$(PIP) install --require-hashes -r requirements/base.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.made requirements/base.txt requirements/dev.txt pyproject.toml
	@echo "Installing the locked development dependencies into $(VENV) ..."
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $(VENV)/.base $@

$(VENV)/.lock: $(VENV)/.made
	@$(PYTHON) -m venv $(VENV)/lock
	@$(VENV)/lock/bin/python -m pip --disable-pip-version-check --quiet install uv
	@touch $@
