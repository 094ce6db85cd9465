PY ?= python3
BIN := .venv/bin

.PHONY: setup run test check bench mutants sanitize fuzz harden
.DEFAULT_GOAL := setup

# rebuilt when what it is made from changes; pins live in constraints.txt
.venv/.ready: pyproject.toml constraints.txt CMakeLists.txt $(shell find csrc -type f)
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

# the native kernels under AddressSanitizer and UBSan; needs g++, cmake and ninja
sanitize: setup
	$(BIN)/pip install --quiet --disable-pip-version-check nanobind==3.1.0
	$(BIN)/python tools/sanitize.py

# what a trainer must survive, at full size: 100 killed runs, 50 resumed ones, a kill in every write
# of a run, 1,000 flipped bits; about half an hour
harden: setup
	$(BIN)/pytest -n 2 -o addopts= -m "slow or not slow" -k "killed or kill_in or rest or flipped or full_disk" \
		tests/train

# both parsers of files, 10 million mutants or 30 minutes each, steered by coverage
fuzz: setup
	$(BIN)/pip install --quiet --disable-pip-version-check atheris
	$(BIN)/python tools/fuzz_guided.py gguf
	$(BIN)/python tools/fuzz_guided.py packed
