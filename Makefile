PY ?= python3
BIN := .venv/bin

.PHONY: setup run test check bench mutants
.DEFAULT_GOAL := setup

# rebuilt when what it is made from changes; pins live in constraints.txt
.venv/.ready: pyproject.toml constraints.txt
	$(PY) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

setup: .venv/.ready

run: setup
	$(BIN)/expertly run --show-experts --max-tokens 60

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/pytest -n 2

bench: setup
	$(BIN)/python -m benchmarks

# 200 random mutants of what a model is and does; takes most of an hour
mutants: setup
	$(BIN)/python tools/mutants.py --count 200 --jobs 2
