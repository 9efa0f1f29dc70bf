# The tasks of the project; `make` lists them. Each environment is made when a task first needs it and again when
# pyproject.toml changes. Packages come from wherever your pip gets them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
VENV := .venv
DEV := .venv-dev
GEN := .venv-gen
MIN := .venv-min
TESTS ?= tests
ARGS ?=

# The stub generator has an environment of its own: its pins hold back what users would get.
GENERATOR := grpcio-tools==1.81.1 mypy-protobuf==5.1.0 "setuptools<81"
# What talks to other toolchains or loads the model is tested once, on the versions that users get.
LOWEST_TESTS := tests/unit tests/conformance tests/golden tests/e2e \
	--ignore=tests/e2e/clients --ignore=tests/e2e/sdks

.PHONY: help up test test-lowest check check-style check-types check-imports check-protos check-breaking \
	check-generated fix gen bench budget clean

help: ## list the tasks
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

up: $(VENV)/.stamp ## install and start the server with its embedded model
	@exec $(VENV)/bin/dragoman up $(ARGS)

test: $(DEV)/.stamp ## run the tests (TESTS=path ARGS="-k name")
	$(DEV)/bin/python -m pytest $(TESTS) $(ARGS)

test-lowest: $(MIN)/.stamp ## run the tests on the lowest versions that pyproject.toml allows
	$(MIN)/bin/python -m pytest $(LOWEST_TESTS) $(ARGS)

check: check-style check-types check-imports check-protos check-breaking check-generated ## run all checks below

check-style: $(DEV)/.stamp ## lint and formatting
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .

check-types: $(DEV)/.stamp ## types
	$(DEV)/bin/mypy

check-imports: $(DEV)/.stamp ## who may import whom
	$(DEV)/bin/lint-imports

check-protos: $(DEV)/.stamp ## lint and formatting of the protos
	$(DEV)/bin/buf lint
	$(DEV)/bin/buf format --diff --exit-code

check-breaking: $(DEV)/.stamp ## what would break clients, against the last release or else the commit before
	@if base=$$(git describe --tags --abbrev=0 2>/dev/null || git rev-parse --verify --quiet HEAD~1) \
	    && git cat-file -e "$$base:proto/dragoman/v1" 2>/dev/null; then \
	  echo "comparing the protos with $$base"; \
	  $(DEV)/bin/buf breaking --against ".git#ref=$$base"; \
	else echo "no earlier protos to compare with"; fi

check-generated: $(DEV)/.stamp $(GEN)/.stamp ## stubs and generated documentation are fresh
	$(GEN)/bin/python scripts/gen_protos.py --check
	$(DEV)/bin/python scripts/gen_docs.py --check

fix: $(DEV)/.stamp ## format, and repair what can be repaired
	$(DEV)/bin/ruff check --fix .
	$(DEV)/bin/ruff format .
	$(DEV)/bin/buf format --write

gen: $(DEV)/.stamp $(GEN)/.stamp ## write the stubs and the generated parts of the documentation
	$(GEN)/bin/python scripts/gen_protos.py
	$(DEV)/bin/python scripts/gen_docs.py

bench: $(DEV)/.stamp ## measure (ARGS="--quick")
	$(DEV)/bin/python -m benchmarks $(ARGS)

budget: $(DEV)/.stamp ## measure, and fail above the budgets
	$(DEV)/bin/python -m benchmarks --budget $(ARGS)

clean: ## remove what the tasks made
	rm -rf $(VENV) $(DEV) $(GEN) $(MIN) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Makes the folder of $@ an environment with an up-to-date pip.
define environment
@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=…")'
$(PYTHON) -m venv $(@D)
$(@D)/bin/python -m pip install --quiet --upgrade pip
endef

$(VENV)/.stamp: pyproject.toml
	$(environment)
	$(@D)/bin/python -m pip install --quiet --editable '.[server,edge,local]'
	@touch $@

$(DEV)/.stamp: pyproject.toml
	$(environment)
	$(@D)/bin/python -m pip install --quiet --editable '.[all]' --group test --group check
	@touch $@

$(GEN)/.stamp: Makefile
	$(environment)
	$(@D)/bin/python -m pip install --quiet $(GENERATOR)
	@touch $@

$(MIN)/.stamp: pyproject.toml scripts/lowest.py
	$(environment)
	$(@D)/bin/python scripts/lowest.py > $(@D)/constraints.txt
	$(@D)/bin/python -m pip install --quiet --constraint $(@D)/constraints.txt \
	  --editable '.[server,edge,postgres,redis]' --group test
	@touch $@
