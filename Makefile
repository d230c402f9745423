# edittools: `make` lists what there is to do.
VENV ?= .venv
PYTHON ?= python3
BIN = $(VENV)/bin
DONE = $(VENV)/.installed
DEMO = $(VENV)/.installed-demo
# The few packages of the extra `notebooks` that the demo and README's lines import.
DEMO_PACKAGES = matplotlib pooch scikit-image seaborn
# Without a GPU the build of torch for CPUs is taken: 0.2 GB to download instead of several.
CPU_BUILDS = https://download.pytorch.org/whl/cpu
PIP = $(BIN)/python -m pip install --progress-bar on
JOBS ?= 2
# Processes side by side use the cores better than threads do: those of a small operation wait for each other, by
# spinning unless the policy is passive, and for ever where another program has the core. One thread, the same digits.
# A file is run by one process, since the cells of a notebook share a kernel; tests/conftest.py puts large files first.
ONE_THREAD = OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(KEEP_MEMORY)
PYTEST = $(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder
NOTEBOOKS = --nbval --nbval-current-env --nbval-sanitize-with tests/sanitize.cfg --nbval-cell-timeout 3600 notebooks/[0-9]*.ipynb
# What a large tensor gives back is kept for the next one: to fetch it anew from Linux takes longer than to compute it.
KEEP_MEMORY = MALLOC_MMAP_THRESHOLD_=1073741824 MALLOC_TRIM_THRESHOLD_=1073741824

.DEFAULT_GOAL := help
.PHONY: help install demo test unit slow notebooks refresh lint count wheel docs lab clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(VENV)/.torch:
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	nvidia-smi >/dev/null 2>&1 || $(PIP) --retries 0 --timeout 15 --index-url $(CPU_BUILDS) torch torchvision 2>/dev/null || true
	touch $@

$(DEMO): pyproject.toml | $(VENV)/.torch
	$(PIP) --editable . $(DEMO_PACKAGES)
	touch $(DEMO)

$(DONE): pyproject.toml | $(VENV)/.torch
	$(PIP) --editable '.[dev]'
	touch $(DEMO) $(DONE)

install: $(DONE) ## create .venv and install the package with all it needs

demo: $(DEMO) ## edit a classifier from one example: before/after table and a figure in out/
	$(KEEP_MEMORY) $(BIN)/python benchmarks/demo.py

test: lint ## linting, unit tests, notebooks (nbval)
	$(PYTEST) $(NOTEBOOKS) tests

unit: $(DONE) ## unit tests only
	$(PYTEST) tests

slow: $(DONE) ## compatibility checks of about an hour: architectures, tier paper, each benchmark with --quick, journeys
	$(PYTEST) tests/slow
	$(ONE_THREAD) PYTHONPATH=benchmarks $(BIN)/python tests/slow/paper_rehearsal.py
	$(ONE_THREAD) $(BIN)/python tests/slow/architectures.py --workers $(JOBS)
	$(ONE_THREAD) $(BIN)/python tests/slow/journeys.py

notebooks: $(DONE) ## run every notebook, compare its outputs with the committed ones
	$(PYTEST) $(NOTEBOOKS)

refresh: $(DONE) ## execute the notebooks in tier mini and store their outputs
	EDITTOOLS_TIER=mini EDITTOOLS_DEVICE=cpu $(ONE_THREAD) $(BIN)/python notebooks/refresh.py

lint: $(DONE) ## style and docstrings (ruff), types (mypy), which module may import which, declared packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/deptry edittools edittools_course data benchmarks notebooks tests

count: ## count the lines of each package, and those that hold code
	$(PYTHON) .ci/count.py

wheel: ## build the wheel, install it into an empty environment and use it from an empty folder
	$(PYTHON) tests/check_wheel.py

docs: $(DONE) ## write the site to out/site: notebooks as pages, results, reference; broken links fail
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	$(BIN)/python docs/check_links.py out/site
	@echo "The site is in out/site: open out/site/index.html, or run $(BIN)/python -m http.server --directory out/site"

lab: $(DONE) ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks

clean: ## remove .venv and what was made (not your photo cache)
	rm -rf $(VENV) out
