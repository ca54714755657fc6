# Everything goes into .venv, which is made anew when PYTHON or EXTRA changes and brought up to date when
# pyproject.toml or constraints.txt does.

PYTHON = python3
EXTRA =
SCALE = quick
OUT = out/$(SCALE)

VERSION := $(shell $(PYTHON) -c 'import platform; print(platform.python_version())')
VENV := .venv/made-$(VERSION)$(EXTRA:%=-%)

.DEFAULT_GOAL := help
.PHONY: help compare test test-slow test-aot test-aot-cuda lint

help:
	@echo 'make compare   run the comparison and write its report to $(OUT)'
	@echo 'make test      run the tests, but for the long ones'
	@echo 'make test-slow run the long ones'
	@echo 'make test-aot  compile kernels and steps with the real TPU compiler; no TPU is needed'
	@echo 'make lint      check style, formatting and types'
	@echo
	@echo 'PYTHON=$(PYTHON)   the interpreter, 3.11 or later'
	@echo 'EXTRA=$(EXTRA)          cuda, tpu, tensorflow; none for a CPU'
	@echo 'SCALE=$(SCALE)     smoke, quick, laptop; gpu_hour, gpu and pod are for those'
	@echo 'OUT=$(OUT)   where runs and reports go'

compare: $(VENV)-run
	.venv/bin/python -m launch.compare --scale=$(SCALE) --out=$(OUT)

test: $(VENV)-dev
	.venv/bin/python -m pytest -m 'not slow' -n 2 --dist worksteal

test-slow: $(VENV)-dev
	.venv/bin/python -m pytest -m slow -n 2 --dist worksteal

# In an environment of its own: with libtpu in .venv every JAX program would look for a TPU.
test-aot: .venv-aot/made-$(VERSION)
	.venv-aot/bin/python -m pytest tests/test_aot.py -n 2 --dist worksteal

# By hand: CUDA is 4 GB. A GPU is not needed.
test-aot-cuda: .venv-aot-cuda/made-$(VERSION)
	.venv-aot-cuda/bin/python -m pytest tests/test_aot_cuda.py -n 2

.venv-aot/made-$(VERSION): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv-aot
	.venv-aot/bin/python -m pip install -c constraints.txt -e '.[dev,tpu]'
	touch $@

.venv-aot-cuda/made-$(VERSION): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv-aot-cuda
	.venv-aot-cuda/bin/python -m pip install -c constraints.txt -e '.[dev,cuda]'
	touch $@

lint: $(VENV)-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright --pythonpath .venv/bin/python

# Clearing takes the stamps of any other Python or extra away with the rest.
$(VENV):
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or later is wanted: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear .venv
	touch $@

$(VENV)-run: $(VENV) pyproject.toml constraints.txt
	.venv/bin/python -m pip install -c constraints.txt -e '.$(EXTRA:%=[%])'
	touch $@

$(VENV)-dev: $(VENV) pyproject.toml constraints.txt
	.venv/bin/python -m pip install -c constraints.txt -e '.[dev$(EXTRA:%=,%)]'
	touch $(VENV)-run $@
