# Two commands set everything up on a fresh machine with Python 3.10 or newer and pip:
#   make profile    measure two built-in models on every CPU engine
#   make test       run the tests
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: profile test lint bench schema clean

profile: $(READY)
	$(BIN)/hwbench profile resnet50 --output hwbench-results/resnet50 --force
	$(BIN)/hwbench profile mobilenet_v2 --output hwbench-results/mobilenet_v2 --force
	$(BIN)/hwbench report hwbench-results/resnet50 hwbench-results/mobilenet_v2 --output hwbench-results/report.html

# A worker a core; a file stays with one worker, whose fixtures it shares. PYTEST_ARGS="-n 0" runs them in one process.
test: $(READY)
	$(BIN)/python -m pytest -n logical --dist loadfile $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only -s $(PYTEST_ARGS)

# The published schema follows the records; a test holds the two together.
schema: $(READY)
	$(BIN)/hwbench schema > docs/schemas/profile-result.v1.json

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install -e '.[cpu,plan,dev]'
	touch $(READY)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .benchmarks
