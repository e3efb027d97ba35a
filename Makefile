# make demo and make test need Python 3.11 and pip, nothing else; the first one installs into .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help setup demo test test-engine test-cluster check bench

help:
	@echo "make setup         .venv with raypipe and the versions of constraints.txt"
	@echo "make demo          the whole platform on clips it draws itself, into runs/demo"
	@echo "make test          the tests that need no cluster"
	@echo "make test-engine   the tests that start DeepSpeed or a Ray cluster on this machine"
	@echo "make test-cluster  a cluster of several hosts on this machine (root on Linux; a quarter of an hour)"
	@echo "make check         ruff, mypy, import linter"
	@echo "make bench         speed measurements (half an hour); the figures go to docs/measured"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/raypipe demo --out runs/demo

test: setup
	$(BIN)/python -m pytest -m "not engine and not cluster"

test-engine: setup
	$(BIN)/python -m pytest -m "engine and not cluster"

# Hosts are namespaces of this machine. Where it has none, the tests say so and are skipped.
test-cluster: setup
	sh tests/cluster/install.sh
	$(BIN)/python -m pytest -m cluster -v -s -rs tests/cluster

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m bench.train
	$(BIN)/python -m bench.prepare
	$(BIN)/python -m bench.evaluate
