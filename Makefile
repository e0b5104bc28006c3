# make demo   street pipeline on a generated clip, or on VIDEO=path; results in demo-out/
# make test   the whole check: lint, types, tests
# make bench  is it worth it here: ten minutes, results and report in bench-out/; with DATA=folder of clips/ and camvid/, on real clips
# make bench-full   every suite, peers and all: about an hour and a half; most suites need DATA

# The first interpreter that starts (a shim of a version that is not active does not).
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c "" 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint types tests bench bench-full bench-packages clean

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

RESULTS ?= bench-out
KEPT = --out "$(RESULTS)"
OURS = $(KEPT) $(if $(DATA),--data "$(DATA)")

bench: bench-packages
	$(BIN)/python -m benchmarks.headline $(OURS) --rounds 1 --frames 400
	$(BIN)/python -m benchmarks.dense $(KEPT)
	$(BIN)/python -m benchmarks.overhead --frames 2000 $(KEPT)
	$(BIN)/python -m benchmarks.startup --rounds 2 $(KEPT)
	$(BIN)/python -m benchmarks.report --results "$(RESULTS)"

bench-full: bench-packages
	$(BIN)/python -m benchmarks.limits $(OURS)
	$(BIN)/python -m benchmarks.headline $(OURS)
	$(BIN)/python -m benchmarks.dense $(KEPT)
	$(BIN)/python -m benchmarks.peers $(OURS) --envs "$(VENV)/peers"
	$(BIN)/python -m benchmarks.overhead $(KEPT)
	$(BIN)/python -m benchmarks.startup $(KEPT)
	$(BIN)/python -m benchmarks.memory $(OURS)
	$(BIN)/python -m benchmarks.scaling $(KEPT)
	$(BIN)/python -m benchmarks.merge $(KEPT)
	$(BIN)/python -m benchmarks.compress_costs --anew $(KEPT)
	$(BIN)/python -m benchmarks.gpu $(OURS)
	$(if $(DATA),$(BIN)/python -m benchmarks.transforms $(OURS))
	$(if $(DATA),$(BIN)/python -m benchmarks.reuse $(OURS))
	$(if $(DATA),$(BIN)/python -m benchmarks.compress $(OURS))
	$(if $(DATA),$(BIN)/python -m benchmarks.quality $(OURS))
	$(BIN)/python -m benchmarks.report --results "$(RESULTS)"

bench-packages: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench,compress]'

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,compress,train]'
	touch $@

clean:
	rm -rf $(VENV) demo-out bench-out build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
