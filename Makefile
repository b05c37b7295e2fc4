# Every target works from a fresh clone; `make demo` is the place to start.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip

.PHONY: venv demo docs test test-slow lint wardrobe clean
.DELETE_ON_ERROR:

venv: .venv/.stamp

# torch first and alone: left to a resolver, another package may bring another build of it.
.venv/.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --quiet $$(grep '^torch==' constraints.txt)
	$(PIP) install --quiet -c constraints.txt -e '.[dev]'
	@$(BIN)/python -c "import torch; torch.version.cuda and not torch.cuda.is_available() and print('note: this torch was built for CUDA', torch.version.cuda, 'and finds no device; a CPU build takes several gigabytes less')"
	@touch $@

demo: venv
	$(BIN)/vestige audit --model wardrobe --concept sneaker --unlearner uce --attack memora --suite quick --out runs/demo

# The site's generator is no part of `venv`: it comes when it is first asked for.
.venv/.docs: .venv/.stamp
	$(PIP) install --quiet -c constraints.txt -e '.[docs]'
	@touch $@

# A warning fails. Open site/index.html; no server and no network is needed.
docs: .venv/.docs
	$(BIN)/python tools/website

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A process a core, each of one thread: two threads are far from twice as fast on networks this small.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal -m "not slow and not gpu and not network"

test-slow: venv
	$(BIN)/pytest -m "slow and not gpu and not network"

# Trains the embedded world again from the public data set; hours on a laptop.
wardrobe: venv
	bash tools/wardrobe/build.sh

clean:
	rm -rf dist site build/site build/site-read .mypy_cache .ruff_cache .pytest_cache src/*.egg-info
	find src studies tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
