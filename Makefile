# Everything a newcomer or a maintainer runs. Each target sets up what it needs.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := $(BIN)/python -m rad_lightning
SWEEP ?= outputs/noise_sweep

.PHONY: help setup demo test test-fast test-long lint sweep report wandb-sync kill faults bench peers clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Two stamps, so that the demo waits for no test tool.
$(VENV)/.run: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the package (torch and its libraries: about 2 minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint]'
	@touch $@

$(VENV)/.bench: $(VENV)/.run
	@echo "installing anomalib ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

setup: $(VENV)/.dev ## install the package, the tests' and the linters' tools into .venv

demo: $(VENV)/.run ## train on the embedded images and make pictures; no download
	$(RUN)

test: $(VENV)/.dev ## the test suite
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m 'not long'

test-long: $(VENV)/.dev ## what that leaves out: every launcher, further kinds of lost processes
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m long

test-fast: $(VENV)/.dev ## the part of it that takes a minute: no whole sweeps, no further processes
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m 'not slow and not long'

lint: $(VENV)/.dev ## ruff, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

sweep: $(VENV)/.run ## the noise sweep on the embedded images, in a size for two cores (about 10 minutes)
	$(RUN) +experiment=noise_sweep noise.ratio=0,0.3,0.5 data.category=weave,gear method.steps=100

report: $(VENV)/.run ## its tables, plots and page again, from the result files
	$(RUN) report sweep=$(SWEEP)

wandb-sync: $(VENV)/.run ## send the offline W&B runs below outputs/ (or below SWEEP=DIR); needs a login
	@$(BIN)/python -m rad_lightning.tracking.sync $(if $(filter file,$(origin SWEEP)),outputs,$(SWEEP))

kill: $(VENV)/.dev ## kill -9 a small sweep ten times at random, and compare its tables
	RAD_KILLS=10 $(BIN)/python -m pytest -q tests/integration/test_kill.py

faults: $(VENV)/.dev ## kills, full disks, damaged files, hostile folders: over a thousand tries (about half an hour)
	PYTHONPATH=tests $(BIN)/python -m faults $(if $(OUT),--out $(OUT))

bench: $(VENV)/.dev ## the pipeline against its limits, meta-steps, ONNX, and what a busy machine costs
	$(BIN)/python benchmarks/pipeline.py
	$(BIN)/python benchmarks/meta.py
	$(BIN)/python benchmarks/export.py
	$(BIN)/python benchmarks/busy.py

peers: $(VENV)/.bench ## our methods beside PatchCore, PaDiM, FastFlow and CFLOW: DATA='data=mvtec data.root=DIR'
	$(BIN)/python benchmarks/peers.py $(DATA)

clean: ## remove runs, caches and the environment
	rm -rf $(VENV) outputs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
