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
# What pip would compile if it were not installed in editable mode.
CODE := proto server edge clients
TESTS ?= tests
ARGS ?=
# Processes that run tests side by side: most tests wait more than they compute. 0 is none but pytest's own (for --pdb).
WORKERS ?= auto

# The stub generator has an environment of its own: its pins hold back what users would get.
GENERATOR := grpcio-tools==1.81.1 mypy-protobuf==5.1.0 "setuptools<81"
# Left to `make test`: what talks to other toolchains, and what tries our own logic at length.
NOT_LOWEST := e2e/clients e2e/sdks e2e/cli/test_identity.py e2e/conversations/test_cli.py e2e/conversations/test_kill.py \
	e2e/drills/test_soak.py e2e/money/test_crash.py e2e/money/test_crash_plain.py e2e/operations/test_restore.py \
	conformance/store/test_conversation_tree.py conformance/store/test_ledger_machine.py \
	conformance/store/test_ledger_processes.py unit/benchmarks unit/credits/test_pay.py
LOWEST_TESTS := tests/conformance tests/golden tests/e2e tests/unit $(NOT_LOWEST:%=--ignore=tests/%)
# The tests of a file share its servers. The order stays that of the folders: the quick ones come last and fill the gaps.
SIDE_BY_SIDE := --numprocesses $(WORKERS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: help up test test-lowest check check-style check-types check-imports check-protos check-breaking \
	check-generated fix gen bench budget environments clean

help: ## list the tasks
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

up: $(VENV)/.stamp ## install and start the server with its embedded model
	@exec $(VENV)/bin/dragoman up $(ARGS)

test: $(DEV)/.stamp ## run the tests (TESTS=path ARGS="-k name")
	$(DEV)/bin/python -m pytest $(SIDE_BY_SIDE) $(TESTS) $(ARGS)

test-lowest: $(MIN)/.stamp ## run the tests on the lowest versions that pyproject.toml allows
	$(MIN)/bin/python -m pytest $(SIDE_BY_SIDE) $(LOWEST_TESTS) $(ARGS)

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
	$(DEV)/bin/python -m compileall -q $(CODE)
	$(DEV)/bin/python -m benchmarks $(ARGS)

budget: $(DEV)/.stamp ## measure, and fail above the budgets
	$(DEV)/bin/python -m compileall -q $(CODE)
	$(DEV)/bin/python -m benchmarks --budget $(ARGS)

environments: $(DEV)/.stamp $(MIN)/.stamp $(GEN)/.stamp ## make all environments (-j makes them side by side)

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
	$(@D)/bin/python -m compileall -q $(CODE)
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
