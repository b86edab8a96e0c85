# `make demo` and `make test` are all one needs; both make their own .venv on a machine with Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test faults faults-long lint types arrows budget wheel clean help

help:
	@echo "make demo    the Earth: satellite photographs and relief maps, trained, translated, demo/report.html (about six minutes on two cores)"
	@echo "make test    run all tests"
	@echo "make faults  the whole fault suite: kills, full disks, hostile files, signals, ranks (eight minutes); make faults-long: 1,000 kills"
	@echo "make lint    ruff and codespell;  make types: mypy;  make arrows: import-linter;  make budget;  make wheel: build the wheel and try it in an empty environment"

$(VENV)/made: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "unpaired needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Type: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	@touch $@

demo: $(VENV)/made
	$(BIN)/unpaired demo --out demo $(DEMO)

test: $(VENV)/made
	$(BIN)/python -m pytest -n 2 -q $(TESTS)

# tests/contract is in it for its cuts of every method; the rest of `make test` is not repeated
FAULTS := tests/faults tests/contract/test_methods.py

faults: $(VENV)/made
	UNPAIRED_FAULTS=full OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q $(FAULTS) $(TESTS)

faults-long: $(VENV)/made
	UNPAIRED_FAULTS=long OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q $(FAULTS) $(TESTS)

lint: $(VENV)/made
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell src docs tools benchmarks README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md

types: $(VENV)/made
	$(BIN)/mypy

# who may import whom (pyproject.toml), and what a reader has to hold
arrows: $(VENV)/made
	$(BIN)/lint-imports

budget: $(VENV)/made
	$(BIN)/python tools/budget.py

wheel: $(VENV)/made
	$(BIN)/python tools/check_wheel.py

clean:
	rm -rf $(VENV) build dist demo
