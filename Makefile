# make demo | test | lint | bench: each sets up what it needs, from nothing but Python 3.11.
PYTHON ?= python3.11
DATASET ?= synthetic
DATA_DIR ?=
WORK ?= work/$(DATASET)
PORT ?= 8500
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint bench clean

$(READY): setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

# The main job end to end: a log -> TFRecords -> training -> SavedModels -> gRPC -> report.
demo: $(READY)
	@PATH="$(CURDIR)/$(BIN):$$PATH" DATASET=$(DATASET) DATA_DIR="$(DATA_DIR)" WORK=$(WORK) PORT=$(PORT) sh demo.sh

# Two processes share the processors, so an operation has one thread; files of few and long tests do not
# come last, as they would by their number of tests.
test: lint
	TF_NUM_INTRAOP_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	for file in benchmarks/bench_*.py benchmarks/pipeline.py benchmarks/train.py benchmarks/tables.py benchmarks/retrieval.py; do $(BIN)/python $$file || exit 1; done

clean:
	rm -rf $(VENV) work build *.egg-info
