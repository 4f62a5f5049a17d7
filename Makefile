# SPDX-License-Identifier: GPL-2.0-or-later
#
# make demo    set everything up and boot a real guest to its shell
# make setup   the set-up alone; leaves .venv/bin/xg
# make test    set everything up, check the source, run all tests
# make bench   the benchmarks, beside QEMU where it's installed
# make check   format, lint, types and import rules
# make clean   remove what the set-up made

PYTHON ?= $(firstword $(foreach p,python3.11 python3 python3.12 python3.13,$(shell command -v $(p) 2>/dev/null)) python3)
BIN := .venv/bin
SETUP := $(PYTHON) tools/bootstrap.py
PYTEST_ARGS ?= -n 2

.DEFAULT_GOAL := help
.PHONY: help setup dev demo test check format bench clean

help:
	@sed -n 's/^# make /make /p' Makefile

setup:
	@$(SETUP)

dev:
	@$(SETUP) --dev

demo: setup
	@$(BIN)/xg demo

check: dev
	@$(SETUP) --check

format: dev
	$(BIN)/ruff check --fix --quiet
	$(BIN)/ruff format --quiet

test: check
	$(BIN)/python -m pytest $(PYTEST_ARGS)

bench: dev
	@$(BIN)/python -m bench

clean:
	rm -rf .venv build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src -name '*.so' -o -name '*.egg-info' -prune | xargs rm -rf
