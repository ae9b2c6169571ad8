# make demo   a real Envoy, simulated engines and epp, compared with round robin; ARGS=--exit leaves at once,
#             ARGS=--overload floods two engines: without queues and with
# make test   lint, types, layers, all tests
# make fuzz   a million malformed messages, bodies and connections for the compiled transport
# make bench  the data path: plain Envoy, a logic-free picker, both transports, open streams, the hand-off; ARGS=--quick
# make lock   resolve the dependencies again
.DELETE_ON_ERROR:
.PHONY: demo test lint types layers native kube fuzz unit bench lock setup clean
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

setup: $(VENV)/.native

$(VENV)/bin/uv:
	@py=$$(.ci/find-python) && echo "using $$py" && "$$py" -m venv $(VENV)
	@$(BIN)/python -m pip --disable-pip-version-check -q install uv

$(VENV)/.ready: $(VENV)/bin/uv pyproject.toml requirements.lock
	@$(BIN)/uv pip sync -q --python $(BIN)/python requirements.lock
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps -e .
	@touch $@

# The compiled transport, where cargo exists. Cargo itself decides what has changed.
$(VENV)/.native: $(VENV)/.ready $(wildcard native/src/*.rs native/src/*/*.rs) native/Cargo.toml native/Cargo.lock native/pyproject.toml
	@.ci/build-native $(VENV)
	@touch $@

demo: $(VENV)/.native
	@$(BIN)/epp demo $(ARGS)

test: lint types layers native unit

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready
	$(BIN)/mypy

layers: $(VENV)/.ready
	$(BIN)/lint-imports

# Rust's own checks, where cargo exists; they need no Python.
native:
	@if command -v cargo >/dev/null 2>&1; then .ci/test-native; else echo "cargo was not found: the compiled transport is not tested"; fi

# A real kube-apiserver with its kubectl and helm, built once into the user's cache, where Go exists.
kube:
	@.ci/build-kube

fuzz:
	cd native && CARGO_TARGET_DIR="$${CARGO_TARGET_DIR:-$${XDG_CACHE_HOME:-$$HOME/.cache}/epp/native}" \
	  EPP_FUZZ_INPUTS="$${EPP_FUZZ_INPUTS:-1000000}" \
	  cargo test --quiet --locked --profile fuzz --no-default-features --test fuzz -- --nocapture --test-threads 1

unit: $(VENV)/.native kube
	$(BIN)/pytest -q -n auto --dist loadfile $(ARGS)

bench: $(VENV)/.native
	$(BIN)/python bench/datapath.py $(ARGS)

lock: $(VENV)/bin/uv
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --group dev --generate-hashes --no-emit-index-url pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
