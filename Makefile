# `make train` and `make test` need Python 3.11+ and nothing else: each installs what it needs into .venv first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One torch thread a worker: more only get in each other's way.
TEST := env OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: help install train test coverage benchmark docs check format build clean

help:
	@echo "make train    train a slimmable network on the digits and print its table (overrides: ARGS='seed=1')"
	@echo "make test     ruff, mypy and all tests"
	@echo "make coverage every model of torchvision's and timm's lists, each compared with its masked original (an hour)"
	@echo "make benchmark  prepare times against the peers, in environments of their own; writes benchmarks/RESULTS.md"
	@echo "make docs     the documentation site, in build/docs; its pictures are drawn anew from the tracer"
	@echo "make check    ruff and mypy"
	@echo "make format   let ruff rewrite the sources"
	@echo "make build    wheel and sdist, in dist/"
	@echo "make clean    remove the environment, caches and builds"

install: $(STAMP)

# One resolution for everything, so that torch and torchvision always fit each other.
$(STAMP): pyproject.toml
	@echo "installing into $(VENV): a few minutes and some GB the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,examples]'
	@touch $@

train: install
	$(BIN)/python examples/train.py experiment=digits_slimmable $(ARGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: check
	$(TEST)

# The tests measure every model; the second command finds their rows, and checks the averages and writes the table.
coverage: install
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev,examples,coverage]'
	$(TEST) -m coverage tests/coverage
	$(BIN)/python benchmarks/coverage.py --family classification --family segmentation --family timm \
		--family attention --family huggingface

benchmark: install
	$(BIN)/python benchmarks/prepare.py $(ARGS)

# Any warning fails it. The tests build the site too, and run what its pages show.
docs: install
	$(BIN)/python docs/draw.py
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "open build/docs/index.html"

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

build: install
	$(BIN)/python -m build

clean:
	rm -rf $(VENV) .venv-peers build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
