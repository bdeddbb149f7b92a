# The steps in the order of the data. It needs python3 (3.11 or newer, with venv) and the network for
# packages; no root.
PYTHON ?= python3
VENV := .venv
MARINA := $(VENV)/bin/marina
INSTALLED := $(VENV)/.installed

# Two processes with one thread each: on two cores, more threads would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2

.DEFAULT_GOAL := help
.PHONY: help install train archive run test test-all test-slow gpu-check fuzz lint docs reference lock proto clean

# What the site would otherwise load from other hosts: files of npm packages, checked by their hash.
SCRIPTS := docs/javascripts
SITE_SCRIPTS := $(SCRIPTS)/mermaid.min.js $(SCRIPTS)/iframe-worker.js
$(SCRIPTS)/mermaid.min.js: FROM := mermaid@11.6.0 package/dist/mermaid.min.js
$(SCRIPTS)/mermaid.min.js: SHA256 := 3a93016a73dc82ba890d919f9bbb176f3da9d98341650c0b517f2595cc68fef8
$(SCRIPTS)/iframe-worker.js: FROM := iframe-worker@1.0.4 package/shim/index.js
$(SCRIPTS)/iframe-worker.js: SHA256 := e8e412dbcfea9b7e31b5ffa288d7b6035915e714c542f4176a0cdbe262fc9609

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  .venv/bin/marina --help shows the commands behind them"

install: $(INSTALLED) ## Create the environment in .venv from the lock, checked by hashes

train: $(INSTALLED) ## Train the built-in models to their floors (exports/)
	$(MARINA) train digits scenes cartpole languages co2

archive: $(INSTALLED) ## Pack every export (model_store/)
	./archive.sh

run: $(INSTALLED) ## Train what is missing, archive, serve, predict and keep serving; Ctrl-C stops it
	$(MARINA) up

test: $(INSTALLED) lint ## Run lint and all tests but the slow ones, a live server included
	$(PYTEST)

test-all: $(INSTALLED) lint ## Run lint and all tests, those that every engine passes on Ray Serve too
	$(PYTEST) -m "slow or not slow"

test-slow: $(INSTALLED) ## Run the slow tests alone: releases, supervision, readiness, trainings to their targets
	$(PYTEST) -m "slow and not ray"

gpu-check: $(INSTALLED) ## Measure on a machine with an NVIDIA GPU what it is worth: serving, training, copies, decoding
	$(VENV)/bin/python -m benchmarks benchmarks/gpu_check.py

fuzz: $(INSTALLED) ## Try random files and requests for MINUTES (10); what fails is kept in cache/fuzz
	$(VENV)/bin/python -m tests.fuzz.run --minutes $(or $(MINUTES),10)

lint: $(INSTALLED) ## Check style, types and import contracts
	$(VENV)/bin/ruff check --quiet .
	$(VENV)/bin/ruff format --quiet --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache --no-logo

docs: $(INSTALLED) $(SITE_SCRIPTS) reference ## Build the documentation as a site (cache/site); needs npm the first time
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build
	@echo "cache/site/index.html"

reference: $(INSTALLED) ## Write the reference pages that come from the code
	$(VENV)/bin/python docs/reference/generate.py

$(SITE_SCRIPTS): Makefile
	@command -v npm > /dev/null || { echo "make docs: npm is needed once, to fetch $(firstword $(FROM))" >&2; exit 2; }
	@mkdir -p cache/npm $(@D)
	@cd cache/npm && tar -xzf "$$(npm pack --silent $(firstword $(FROM)))" $(lastword $(FROM))
	@$(PYTHON) -c 'import hashlib, sys; sys.exit(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest() != sys.argv[2] and f"{sys.argv[1]} has another hash")' cache/npm/$(lastword $(FROM)) $(SHA256)
	@cp cache/npm/$(lastword $(FROM)) $@

lock: $(INSTALLED) ## Renew requirements.lock from pyproject.toml: names, versions, hashes
	$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes --no-annotate --no-header \
	    --upgrade pyproject.toml --output-file requirements.lock
# Every package has a wheel for the platforms that nobody tried here, too.
	@for platform in aarch64-apple-darwin aarch64-manylinux_2_35; do \
	    MACOSX_DEPLOYMENT_TARGET=14.0 $(VENV)/bin/uv pip compile --quiet --python-platform $$platform --python-version 3.12 \
	        --only-binary :all: requirements.lock > /dev/null || exit 1; \
	done

proto: $(INSTALLED) ## Generate the gRPC messages from the .proto files
	$(VENV)/bin/python -m grpc_tools.protoc --proto_path=. --python_out=. --pyi_out=. marina/third_party/*.proto

clean: ## Remove what was generated, except the environment
	rm -rf cache exports run model_store/*.mar model_store/*.sha256

# pip installs uv from the lock, checked by its hash; uv installs the rest.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@awk '/^uv==/ {take = 1} take {print} take && !/\\$$/ {exit}' requirements.lock > $(VENV)/uv.lock
	@test -x $(VENV)/bin/uv || $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $(VENV)/uv.lock
# Compile once here: workers write no bytecode and would compile all of torch at every start.
	$(VENV)/bin/uv pip sync --compile-bytecode --python $(VENV)/bin/python requirements.lock
	@$(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@
