# One command per intent. Each makes .venv first when it is missing or stale (see scripts/venv.sh
# for PYTHON, TORCH_SPEC and TORCH_INDEX). ARGS go to the command: make demo ARGS="--full".
#
#   make demo     the whole story on a real model: upload, watermark, fine-tune, deploy, verify
#   make test     every test, on real embedded servers
#   make check    lint, format, types, and the rooms' import rules
#   make up       the stack, until Ctrl-C

BIN := .venv/bin
ARGS ?=
# Lanes of tests; 0 runs them one after the other in one process.
WORKERS ?= 2
export PYTHON TORCH_SPEC TORCH_INDEX

.PHONY: help demo test check up venv lock format clean
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

demo: venv
	@exec $(BIN)/doublei demo $(ARGS)

up: venv
	@exec $(BIN)/doublei up $(ARGS)

test: venv
	@exec $(BIN)/python -m pytest -n $(WORKERS) --dist loadscope --no-loadscope-reorder $(ARGS)

check: venv
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/architecture
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

venv:
	@sh scripts/venv.sh

lock:
	@sh scripts/lock.sh

clean:
	rm -rf .venv .venv.lock build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
