# Two commands set everything up on a fresh machine with Python 3.10 or newer and pip:
#   make profile    measure two built-in models on every CPU engine
#   make test       run the tests
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
TESTED := $(VENV)/.ready-to-test

.PHONY: profile test lint bench gpu-bench schema clean

profile: $(READY)
	$(BIN)/hwbench profile resnet50 --output hwbench-results/resnet50 --force
	$(BIN)/hwbench profile mobilenet_v2 --output hwbench-results/mobilenet_v2 --force
	$(BIN)/hwbench report hwbench-results/resnet50 hwbench-results/mobilenet_v2 --output hwbench-results/report.html

# A worker a core, each with a half of the files; who is done takes of the other's. (--dist loadfile hangs at the end
# when a worker has crashed: pytest-xdist 1378.) PYTEST_ARGS="-n 0" runs them in one process.
test: $(TESTED)
	$(BIN)/python -m pytest -n logical --dist worksteal $(PYTEST_ARGS)

lint: $(TESTED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(TESTED)
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only -s $(PYTEST_ARGS)

# On a machine with an NVIDIA GPU: verifies, measures, writes gpu-bench.json. In the environment that PYTHON is of
# (PYTHON=.venv/bin/python for the one above); nothing is installed. GPU_ARGS="--only parity" runs a part of it.
gpu-bench:
	$(PYTHON) tests/gpu/bench.py $(GPU_ARGS)

# The published schema follows the records; a test holds the two together.
schema: $(READY)
	$(BIN)/hwbench schema > docs/schemas/profile-result.v1.json

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install -e '.[cpu,plan,dev]'
	touch $(READY)

# What NVIDIA's parts are tested with where there is no GPU; other systems than Linux on x86 do without, and tests skip.
$(TESTED): $(READY)
	$(BIN)/python -m pip install -e '.[gpu-tests]' || echo "tests of NVIDIA's parts will be skipped"
	touch $(TESTED)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .benchmarks
