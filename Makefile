# `make demo` and `make test` set up everything they need in .venv; nothing but python3 (3.11 or newer) and make is asked for.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-all lint wheel fuzz measure bench samples clean

demo: $(VENV)/.demo
	$(BIN)/python -m acccmp.demo

test: $(VENV)/.all
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The suite, every long measurement that fits, and a list of what was not tried (hours).
test-all: $(VENV)/.all
	$(BIN)/python .ci/test_all.py

# Style, types, and names that nothing uses.
lint: $(VENV)/.all
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python .ci/dead_code.py

# The package as users get it: built, installed with nothing but what it asks for, used.
wheel: $(VENV)/.made
	.ci/wheel $(BIN)/python

# 20,000 damaged files of every kind through the command (about an hour); COUNT and SEED make it another run.
fuzz: $(VENV)/.all
	$(BIN)/python benchmarks/fuzz.py --count $(or $(COUNT),20000) --seed $(or $(SEED),1)

# The long measurements behind the figures in the documentation (an hour or so).
measure: $(VENV)/.all
	$(BIN)/python benchmarks/measure.py

bench: $(VENV)/.all
	$(BIN)/python -m pytest benchmarks --benchmark-only

# Makes sample_dumps/ anew from its committed weights, byte for byte.
samples: $(VENV)/.all
	$(BIN)/python sample_dumps/make_samples.py

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "acccmp needs Python 3.11 or newer, $(PYTHON) is `$(PYTHON) --version`; try: make PYTHON=python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Enough for ONNX models: no TensorFlow, no OpenCV.
$(VENV)/.demo: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) -e '.[ort]'
	@touch $@

$(VENV)/.all: $(VENV)/.made pyproject.toml constraints.txt
	$(PIP) -e '.[all,dev]'
	@touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) build *.egg-info
