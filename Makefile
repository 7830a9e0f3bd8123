# The commands. Each sets up what it needs first, so a fresh machine needs nothing but Python 3.11 and make.

PYTHON ?= python3
VENV := .venv/bin
CODE := $(wildcard src tests examples benchmarks tools)
WORKERS ?= 3
SERVER_WORKERS ?= 4
# Where tests use servers; to collect the others takes each worker some seconds.
SERVER_TESTS := tests/contract tests/drills tests/integration tests/ledger

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test test-fast test-servers check bench drill drill-mutants soak fuzz docs lock clean
.PHONY: check-lint check-mypy check-pyright check-contracts

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## Create .venv from the locks (the other targets do it by themselves)
	@$(PYTHON) tools/bootstrap.py

demo: setup  ## Save users and move money while faults hit, unprotected, with tenacity and with Holdfast
	@$(VENV)/python -m examples.ledger.demo

serve: setup  ## Start the reference service on SQLite, or on DATABASE_URL
	@$(VENV)/python -m examples.ledger

test: test-fast test-servers  ## Run every test: first those that need no server, then those on real servers

test-fast: setup  ## Run the tests that need no server
	$(VENV)/python -m pytest -m "not servers" --ignore tests/integration -n $(WORKERS) --dist worksteal --durations=5

test-servers:  ## Run the tests on real MariaDB, PostgreSQL and MySQL servers, which they start themselves
	@$(PYTHON) tools/bootstrap.py --servers
	$(VENV)/python -m pytest -m servers $(SERVER_TESTS) -n $(SERVER_WORKERS) --dist loadfile --no-loadscope-reorder --durations=5

check: setup  ## Lint, format, types (mypy and pyright) and import contracts
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target check-lint check-mypy check-pyright check-contracts

check-lint:
	$(VENV)/ruff check $(CODE)
	$(VENV)/ruff format --check $(CODE)

check-mypy:
	$(VENV)/mypy $(CODE)

check-pyright:
	$(VENV)/pyright

check-contracts:
	$(VENV)/lint-imports

bench: setup  ## Measure side by side with the peers
	@$(VENV)/python -m benchmarks

drill:  ## Run the long drills, in pieces that add up (DRILLS=pattern, MINUTES=n), and write docs/drills/RESULTS.md
	@$(PYTHON) tools/bootstrap.py --servers
	@$(VENV)/python tools/drill.py

drill-mutants:  ## Plant each bug that a checker has to find, and show that it does
	@$(PYTHON) tools/bootstrap.py --servers
	@$(VENV)/python -m tests.drills.mutants

soak: setup  ## Send the reference service 100,000 requests, watch its memory, and write it down; some 15 minutes
	@$(VENV)/python -m tests.ledger.soak --write

fuzz: setup  ## Look for what the reference service and its OpenAPI document disagree on; some minutes
	@$(VENV)/python -m tests.ledger.fuzz

docs: setup  ## Bring the tables of the documents up to date, run every example, and build the site in site/
	$(VENV)/python tools/dialect_tables.py
	$(VENV)/python -m pytest tests/docs -q
	$(VENV)/zensical build --strict --clean

lock: setup  ## Write the locks anew after a change of dependencies in pyproject.toml
	@tools/lock.sh

clean:  ## Remove what the other targets made
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .cache dist build site
	find src tests examples benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
