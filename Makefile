# make demo   street pipeline on a generated clip, or on VIDEO=path; results in demo-out/
# make test   the whole check: lint, types, tests
# make bench  speed on this machine, results in benchmarks/results/; with DATA=folder of clips/ and camvid/, reuse, compression and quality too

# The first interpreter that starts (a shim of a version that is not active does not).
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c "" 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint types tests bench clean

demo: $(INSTALLED)
	$(BIN)/sharedbb demo --out demo-out $(if $(VIDEO),--video "$(VIDEO)")

test: lint types tests

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

tests: $(INSTALLED)
	$(BIN)/python -m pytest

bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench,compress]'
	$(BIN)/python -m benchmarks.dense
	$(BIN)/python -m benchmarks.overhead
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.merge
	$(if $(DATA),$(BIN)/python -m benchmarks.reuse --data "$(DATA)")
	$(if $(DATA),$(BIN)/python -m benchmarks.compress --data "$(DATA)")
	$(if $(DATA),$(BIN)/python -m benchmarks.quality --data "$(DATA)")

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,compress,train]'
	touch $@

clean:
	rm -rf $(VENV) demo-out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
