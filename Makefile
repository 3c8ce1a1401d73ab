# make demo   runs the main job: trains on real data with and without gradient regularization
# make test   runs the tests; with SLOW=1, as CI does, also those that are marked slow
# make test-all runs all cases of all of them
# make check  lints, checks the format, the types and the layers of imports
# make faults injects faults into the runner, into files and into calls, and writes docs/reliability.md
# make docs   builds the site in out/docs
# make venv   sets up .venv alone; the others do it by themselves
PYTHON ?= python3
BIN := .venv/bin
EXTRAS := torch,jax,tensorflow,keras,lightning,transformers,monitor,integrations,conformance,demo,reproduction,docs,dev
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: venv demo test test-all check faults docs clean

venv: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade "pip>=26"  # installs in 35 s of processor time; 23.2 takes 93 s
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt torch
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable ".[$(EXTRAS)]"
	touch $@

demo: venv
	$(BIN)/gradreg demo --out out/demo

test: venv
	$(BIN)/python -m pytest -n 2 --dist loadgroup $(if $(SLOW),,-m "not slow")

test-all: venv
	$(BIN)/python -m pytest -n 2 --dist loadgroup --all-cases

check: venv
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy --num-workers 2
	$(BIN)/lint-imports --no-cache

faults: venv
	$(BIN)/python -m gradreg_experiments.faults

docs: venv
	$(BIN)/sphinx-build -W --keep-going -q -b html -d out/doctrees docs out/docs

clean:
	rm -rf .venv out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
