# make serve PORT=8001 CONFIG=unified MODEL=/models/mine ARGS="--set engine.max_running=16"
export PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup serve test check fmt lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' Makefile

setup: ## Make .venv and prepare the embedded model (once; PYTHON= chooses the interpreter)
	@exec scripts/setup.sh

serve: setup ## Serve the embedded model (PORT=, CONFIG=, MODEL=, ARGS=)
	@exec $(BIN)/streamserve serve $(if $(MODEL),"$(MODEL)") $(if $(CONFIG),--config "$(CONFIG)") \
		$(if $(PORT),--set "server.port=$(PORT)") $(ARGS)

test: setup ## Run every test (ARGS="-m 'not live'" leaves out those on real engines)
	$(BIN)/pytest $(ARGS)

check: setup ## Run what CI runs: format, lint, types, imports, tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest $(ARGS)

fmt: setup ## Format, and fix what ruff can fix
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

lock: setup ## Renew requirements/cpu.txt from requirements/cpu.in (ARGS=--upgrade)
	$(BIN)/uv pip compile requirements/cpu.in --overrides requirements/overrides.txt -o requirements/cpu.txt --quiet \
		--python-version 3.11 --python-platform x86_64-manylinux_2_31 --custom-compile-command "make lock" $(ARGS)

clean: ## Remove the environment and what the tools cached (not the prepared model)
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist *.egg-info
	find . -name __pycache__ -prune -exec rm -rf {} +
