# make demo   environment, install, then the main job on data it makes itself
# make test   environment, install, ruff, mypy, pytest
# Run again, neither installs anything until setup.py, constraints.txt or the C++ sources change.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := $(wildcard kernels/*.cpp kernels/*.h)

.PHONY: demo test clean

demo: .venv/installed
	$(BIN)/engine data synth demo/vehicles --per-class 130 --test-per-class 25
	$(BIN)/engine train recipes/quickstart.toml
	$(BIN)/engine infer --tta 2 --folds demo/models --out demo/predictions --truth demo/vehicles/test_labels.csv

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2

.venv/installed: setup.py constraints.txt $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf .venv build demo *.egg-info kernels/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
