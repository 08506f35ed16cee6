# `make demo` and `make test` are all a newcomer needs; each builds .venv first where it is absent or out of date.
.DEFAULT_GOAL := help
.NOTPARALLEL:

# The first interpreter that is new enough; `make PYTHON=/path/to/python3.11 …` names another.
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3.11 python3; do $$python -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$python && break; done)
BIN := .venv/bin
INSTALLED := .venv/.installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Where it is set, each of the hundreds of processes that tests start would compile our own modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / { printf "  %-14s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: .venv
.venv: $(INSTALLED) ## Build the virtual environment from constraints.txt

$(INSTALLED): pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --no-compile -c constraints.txt -e '.[server,dev]'
	@# On all cores, where pip takes one. Hundreds of models that no test has, and other packages' tests, are a third of it:
	@# they are compiled if they are imported. Some files are no Python of this version, which pip passes over too.
	$(BIN)/python -m compileall -qq -j 0 -x '/(tests|rllib)/|/transformers/models/(?!auto|llama|gpt2|qwen3)' .venv/lib || true
	@touch $@

$(BIN)/python:
	@'$(PYTHON)' -c '$(NEW_ENOUGH)' 2>/dev/null || { \
	  echo "Peelbound needs Python 3.11 or newer; found: '$(PYTHON)'. Name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@# Without Debian's python3-venv an interpreter without pip is left, which the next make would take as done.
	'$(PYTHON)' -m venv .venv || { rm -rf .venv; \
	  echo "No virtual environment could be made; on Debian and Ubuntu install python3-venv." >&2; exit 1; }

.PHONY: demo
demo: $(INSTALLED) ## Train two small models, one with a frozen block, and audit their checkpoints (about 7 minutes)
	$(BIN)/python -m bench.demo

.PHONY: test
test: lint unit-fuzz integration-faults ## Everything that CI checks

.PHONY: lint
lint: $(INSTALLED) ## Style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers $(TEST_PROCESSES)
	$(BIN)/lint-imports

# One thread: results are compared bit by bit, and several processes share the machine's cores.
unit integration faults chaos fuzz-short fuzz unit-fuzz integration-faults: export OMP_NUM_THREADS := 1

# Processes that share the tests; each has servers of its own, and takes some two gigabytes.
TEST_PROCESSES ?= 2

# Two runs at once, so that no process waits for the last test of the other's.
.PHONY: unit-fuzz
unit-fuzz: $(INSTALLED) ## `unit` and `fuzz-short` in one run
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist worksteal tests/unit tests/fuzz

.PHONY: integration-faults
integration-faults: $(INSTALLED) debian ## `integration` and `faults` in one run
	$(BIN)/pytest -n $(TEST_PROCESSES) --no-loadscope-reorder tests/integration tests/faults

.PHONY: unit
unit: $(INSTALLED) ## Fast tests, no servers
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist worksteal tests/unit

.PHONY: integration
integration: $(INSTALLED) debian ## Tests against real PostgreSQL, S3, Ray and Chromium
	$(BIN)/pytest -n $(TEST_PROCESSES) --no-loadscope-reorder tests/integration

.PHONY: faults
faults: $(INSTALLED) debian ## The production topology on this machine, broken eight times while it works
	$(BIN)/pytest tests/faults

.PHONY: chaos
chaos: ROUNDS ?= 20
chaos: SEED ?= 1
chaos: $(INSTALLED) ## The same for longer: make chaos ROUNDS=n SEED=s
	$(BIN)/pytest -s tests/faults --rounds $(ROUNDS) --seed $(SEED)

.PHONY: fuzz-short
fuzz-short: $(INSTALLED) ## Some hundred damaged checkpoints, and made-up requests to the API
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile tests/fuzz

.PHONY: fuzz
fuzz: export FUZZ_ROUNDS ?= 10000
fuzz: export FUZZ_EXAMPLES ?= 200
fuzz: $(INSTALLED) ## The same with FUZZ_ROUNDS checkpoints and FUZZ_EXAMPLES requests a route, from FUZZ_SEED (half an hour)
	$(BIN)/pytest tests/fuzz -s

.PHONY: debian
debian: ## Install what the tests need from Debian
	scripts/install-debian.sh

.PHONY: format
format: $(INSTALLED) ## Rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: openapi
openapi: $(INSTALLED) ## Write the API's description to docs/openapi.json
	$(BIN)/python -m peelbound.api.openapi docs/openapi.json

.PHONY: settings
settings: $(INSTALLED) ## Write the table of settings to docs/operations.md
	$(BIN)/python -m peelbound.service.settings_table docs/operations.md

.PHONY: clean
clean: ## Remove caches and outputs; .venv stays
	rm -rf build dist *.egg-info demo-output .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
