# The steps in the order of the data. Needs python3 (3.11 or newer, with venv) and the network for packages; no root.
PYTHON ?= python3
VENV := .venv
MARINA := $(VENV)/bin/marina
INSTALLED := $(VENV)/.installed

# Two processes of one thread each: with more, the threads of both would wait for each other on two cores.
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2

.DEFAULT_GOAL := help
.PHONY: help install train archive run test test-all lint lock clean

help: ## Show the steps
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  .venv/bin/marina --help shows the steps one by one"

install: $(INSTALLED) ## Make the environment in .venv: everything, locked by hashes

train: $(INSTALLED) ## Train the built-in models to their floors (exports/)
	$(MARINA) train digits scenes cartpole

archive: $(INSTALLED) ## Pack every export (model_store/)
	./archive.sh

run: $(INSTALLED) ## The whole way: train what is missing, archive, serve, register, predict; Ctrl-C stops it
	$(MARINA) up

test: $(INSTALLED) lint ## Check everything: style, types, unit, archives, live server
	$(PYTEST)

test-all: $(INSTALLED) lint ## The same, and the tests that start many servers: releases, supervision, readiness, upstream's calls
	$(PYTEST) -m "slow or not slow"

lint: $(INSTALLED) ## Style and types alone
	$(VENV)/bin/ruff check --quiet .
	$(VENV)/bin/ruff format --quiet --check .
	$(VENV)/bin/mypy

lock: $(INSTALLED) ## Renew requirements.lock from pyproject.toml: names, versions, hashes
	$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes --no-annotate --no-header \
	    --upgrade pyproject.toml --output-file requirements.lock

clean: ## Remove what was generated, but not the environment
	rm -rf cache exports run model_store/*.mar model_store/*.sha256

# uv itself comes out of the lock, checked by its hash, and installs the rest.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@awk '/^uv==/ {take = 1} take {print} take && !/\\$$/ {exit}' requirements.lock > $(VENV)/uv.lock
	@test -x $(VENV)/bin/uv || $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.lock
# Compiled once here: workers write no bytecode, and would compile all of torch at every start.
	$(VENV)/bin/uv pip sync --compile-bytecode --python $(VENV)/bin/python requirements.lock
	@$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@
