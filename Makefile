# edittools: `make` lists what there is to do.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
DONE = $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test unit notebooks refresh lint lab clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(DONE): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --progress-bar on --editable '.[test,lint]'
	touch $(DONE)

install: $(DONE) ## create .venv and install the package with all it needs

demo: $(DONE) ## edit a classifier from one example: before/after table and a figure in out/
	$(BIN)/python benchmarks/demo.py

test: unit notebooks lint ## unit tests, notebooks (nbval), linting

unit: $(DONE) ## unit tests only
	$(BIN)/python -m pytest tests

notebooks: $(DONE) ## run every notebook, compare its outputs with the committed ones (2 threads: the same digits)
	EDITTOOLS_TIER=mini EDITTOOLS_DEVICE=cpu OMP_NUM_THREADS=2 $(BIN)/python -m pytest --nbval --nbval-current-env --nbval-sanitize-with tests/sanitize.cfg --nbval-cell-timeout 300 notebooks

refresh: $(DONE) ## execute the notebooks in tier mini and store their outputs
	EDITTOOLS_TIER=mini EDITTOOLS_DEVICE=cpu OMP_NUM_THREADS=2 $(BIN)/python notebooks/refresh.py

lint: $(DONE) ## ruff: style, imports, docstrings, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lab: $(DONE) ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks

clean: ## remove .venv and what was made (not your photo cache)
	rm -rf $(VENV) out
