# PYTHON  the interpreter to build for (any of 3.8 to 3.13)
# VENV    the folder of the virtual environment
# NUMPY   another NumPy than the one that MXNet's metadata asks for, such as NUMPY='numpy>=2'
# ARGS    further arguments of the demo, the benchmark or pytest, such as ARGS='--epochs 5'
PYTHON ?= python3
VENV ?= .venv
NUMPY ?=
ARGS ?=

INSTALL = $(PYTHON) tools/install.py --venv "$(VENV)" --numpy "$(NUMPY)"
BIN = $(VENV)/bin
PYTHON_SOURCES = gluon_convpool notebooks tests tools docs examples setup.py
NATIVE_SOURCES = $(shell find gluon_convpool/native -name '*.cc' -o -name '*.h')
MODEL_TESTS = tests/test_models_networks.py tests/test_models_gluoncv.py tests/test_models_onnx.py

.DEFAULT_GOAL := help
.PHONY: help demo notebooks notebooks-run bench test test-models docs check format clean

help:  ## Show this list
	@echo "make [PYTHON=python3] [VENV=.venv] [NUMPY='numpy>=2'] [ARGS=…] TARGET"
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/'

demo:  ## Train LeNet on handwritten digits with our layers and with MXNet's own
	@$(INSTALL) --extras demo
	$(BIN)/python -m gluon_convpool demo $(ARGS)

notebooks:  ## Open the notebooks in JupyterLab
	@$(INSTALL) --extras notebooks
	@# A notebook that is not trusted shows its films as stills.
	@$(BIN)/jupyter-trust notebooks/*.ipynb
	@# The kernel is the environment's own, whatever else is installed for this user.
	JUPYTER_PREFER_ENV_PATH=1 $(BIN)/python -m jupyterlab $(ARGS) notebooks

notebooks-run:  ## Execute the notebooks, each from a clean kernel, and save what they show
	@$(INSTALL) --extras notebooks
	$(BIN)/python tools/notebooks.py $(ARGS)

bench:  ## Measure our layers against MXNet's own and other libraries, which it installs in .bench
	@$(INSTALL) --extras bench,onnx
	$(BIN)/python tools/install_peers.py
	$(BIN)/python -m gluon_convpool bench --peers $(ARGS)

test:  ## Run the whole test suite
	@$(INSTALL) --extras test
	@# Workers share the processors, so that a thread that waits must not spin.
	OMP_WAIT_POLICY=passive $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 $(ARGS)

test-models:  ## Compare every network of the model zoos, and run them in ONNX Runtime
	@$(INSTALL) --extras test,models
	$(BIN)/python -m pytest -m "" $(MODEL_TESTS) $(ARGS)

docs:  ## Build the pages and the API reference
	@$(INSTALL) --extras docs
	rm -rf docs/_api docs/_build
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "Built: docs/_build/html/index.html"

check:  ## Check style and types
	@$(INSTALL) --extras dev
	$(BIN)/ruff format --check $(PYTHON_SOURCES)
	$(BIN)/ruff check $(PYTHON_SOURCES)
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(NATIVE_SOURCES)

format:  ## Rewrite the sources in the style that check asks for
	@$(INSTALL) --extras dev
	$(BIN)/ruff format $(PYTHON_SOURCES)
	$(BIN)/ruff check --fix $(PYTHON_SOURCES)
	$(BIN)/clang-format -i $(NATIVE_SOURCES)

clean:  ## Remove the environment and everything that was built
	rm -rf "$(VENV)" .bench build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -rf docs/_api docs/_build
	rm -f gluon_convpool/libconvpool.so gluon_convpool/_build.json
	rm -rf notebooks/.ipynb_checkpoints
	find gluon_convpool tests tools docs examples -name __pycache__ -prune -exec rm -rf {} +
