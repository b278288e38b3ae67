# Everything happens in an environment of the project's own; nothing but Python >= 3.10 and a C++
# compiler is needed beforehand. Another torch: make TORCH="torch==2.13.0" test
PYTHON ?= python3
TORCH  ?= torch
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMPS := $(VENV)/stamps

# `make gpu` runs on a Python that has torch with CUDA and installs nothing: the active environment's.
PYTHON_GPU ?= $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV)/bin/python,python3)

# What the wheel is built from: a change there builds and installs it anew.
SOURCES := CMakeLists.txt pyproject.toml README.md LICENSE $(shell find cmake csrc python stmixer_ops \
             -type f -not -path '*/__pycache__/*' 2>/dev/null)

# Tests run side by side; each has one thread, unless it is about threads.
WORKERS ?= 2
TESTS   := cd tests && ../$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup

.PHONY: demo quick test test-all bench gpu lint sanitize format clean help

help:
	@echo "make demo      train a small STMixer on digits and run it in the C++ engine"
	@echo "make quick     the tests that neither compile, train nor interpret: 140 s on two cores"
	@echo "make test      the tests against the installed package: 8 minutes, the first time 13"
	@echo "make test-all  every combination: for releases and changes to kernels; an hour"
	@echo "make bench     time the ops and the engine against their peers"
	@echo "make gpu       on a GPU: build, test, measure, in eight minutes and without network;"
	@echo "               GPU=--rehearse does it in small on the CPU"
	@echo "make lint      ruff, clang-format and mypy"
	@echo "make sanitize  run the C++ under the address and undefined-behaviour sanitizers"
	@echo "make clean     remove the environment and what was built"

demo: $(STAMPS)/package
	$(BIN)/stmixer demo $(DEMO)

# The tests run from another folder, so that they see the installed package and not the sources.
quick: $(STAMPS)/test
	$(TESTS) -m "not (compiles or trains or interprets or slow)" --ignore gpu --ignore bench $(PYTEST)

test: $(STAMPS)/test
	$(TESTS) $(PYTEST)

test-all: $(STAMPS)/test
	$(TESTS) --full $(PYTEST)

# A folder run as a program sees the installed package, not the sources beside it.
bench: $(STAMPS)/bench
	$(BIN)/python -m bench $(BENCH)

gpu:
	$(PYTHON_GPU) bench/gpu_stages.py $(GPU)

lint: $(STAMPS)/lint
	PATH="$(abspath $(BIN)):$$PATH" pre-commit run --all-files --show-diff-on-failure

format: $(STAMPS)/lint
	-$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format --quiet .
	$(BIN)/clang-format -i $$(git ls-files '*.h' '*.cpp' '*.cu')

sanitize: $(STAMPS)/test
	PYTHON=$(abspath $(BIN)/python) bash tests/sanitize.sh

clean:
	rm -rf $(VENV) build dist

$(STAMPS)/venv:
	$(PYTHON) -m venv $(VENV)
	mkdir -p $(STAMPS)
	touch $@

$(STAMPS)/torch: $(STAMPS)/venv
	$(BIN)/pip install --quiet "$(TORCH)"
	touch $@

# The wheel is built once; what the other targets need beside it comes later.
WHEEL := $$(echo build/wheel/*.whl)

$(STAMPS)/package: $(STAMPS)/torch $(SOURCES)
	rm -rf build/wheel
	$(BIN)/pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(BIN)/pip install --quiet --no-deps --force-reinstall build/wheel/*.whl
	$(BIN)/pip install --quiet "$(TORCH)" "$(WHEEL)[train]"
	touch $@

$(STAMPS)/test: $(STAMPS)/package
	$(BIN)/pip install --quiet "$(TORCH)" "$(WHEEL)[test,augment]"
	touch $@

# SpikingJelly asks for torchaudio and more, which the neurons that are timed here never touch.
$(STAMPS)/bench: $(STAMPS)/test
	$(BIN)/pip install --quiet --no-deps "spikingjelly>=2"
	$(BIN)/pip install --quiet loguru tqdm scipy "$(TORCH)" "$(WHEEL)[bench]"
	touch $@

$(STAMPS)/lint: $(STAMPS)/package pyproject.toml
	$(BIN)/pip install --quiet "$(WHEEL)[lint]"
	touch $@
