# make demo   a real Envoy, eight simulated engines and epp, compared with round robin; ARGS=--exit leaves at once
# make test   lint, types, layers, all tests
# make bench  the gateway benchmark: plain Envoy, a logic-free picker, epp
# make lock   resolve the dependencies again
.DELETE_ON_ERROR:
.PHONY: demo test lint types layers unit bench lock setup clean
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

setup: $(VENV)/.ready

$(VENV)/bin/uv:
	@py=$$(.ci/find-python) && echo "using $$py" && "$$py" -m venv $(VENV)
	@$(BIN)/python -m pip --disable-pip-version-check -q install uv

$(VENV)/.ready: $(VENV)/bin/uv pyproject.toml requirements.lock
	@$(BIN)/uv pip sync -q --python $(BIN)/python requirements.lock
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

demo: $(VENV)/.ready
	@$(BIN)/epp demo $(ARGS)

test: lint types layers unit

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready
	$(BIN)/mypy

layers: $(VENV)/.ready
	$(BIN)/lint-imports

unit: $(VENV)/.ready
	$(BIN)/pytest -q -n auto --dist loadfile $(ARGS)

bench: $(VENV)/.ready
	$(BIN)/python bench/gateway.py $(ARGS)

lock: $(VENV)/bin/uv
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --group dev --generate-hashes --no-emit-index-url pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
