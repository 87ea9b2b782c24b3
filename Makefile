# Everything starts here: each target works in an empty clone, and makes what it needs first.
#   make setup    .venv with the command `habitus`, versions as in constraints.txt (TORCH_INDEX=URL: take torch from there)
#   make demo     a real log down the whole road; leaves demo/
#   make test     checks, then the tests
#   make bench    side-by-side measurements; appends to benchmarks/results.csv (SIZE=small|full, ONLY="ingest loader")

SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install -q --no-compile --disable-pip-version-check
HABITUS := $(BIN)/habitus
SIZE ?= small
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup demo test check docs bench
help:
	@sed -n '2,5s/^# *//p' Makefile

setup: $(STAMP)

# torch first: TORCH_INDEX may name where its CPU build lies; the default build for Linux brings gigabytes of CUDA
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"habitus needs Python 3.11 or newer, found {v[0]}.{v[1]}; try: make $(MAKECMDGOALS) PYTHON=python3.11")'
	@echo "installing into $(VENV): one to three minutes, about 3 GB on disk"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --no-deps -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@$(PIP) -c constraints.txt -e '.[dev,sql,search,serve,llm,graph,recsys,ray]'
	@touch $(STAMP)

demo: setup
	rm -rf demo
	$(HABITUS) ingest online_retail --out demo/online_retail.store
	$(HABITUS) train recipes/online_retail_demo.toml --store demo/online_retail.store --out demo/run
	$(HABITUS) evaluate demo/run
	$(HABITUS) predict demo/run --cutoff 2011-11-10 --out demo/predictions.parquet
	$(HABITUS) whatif demo/run --cutoff 2011-11-10 --calendar recipes/calendars/base.csv --edit recipes/calendars/add_holiday.csv --out demo/whatif.parquet
	$(HABITUS) report demo/run --out demo/report.html
	@echo "look at demo/report.html; the model is demo/run/artifact, the forecasts demo/predictions.parquet"

test: check
	$(BIN)/python -m pytest -q

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache --no-logo

docs: setup
	$(BIN)/python -m pytest -q tests/test_docs.py

bench: setup
	$(BIN)/python -m benchmarks --size $(SIZE) $(ONLY)
