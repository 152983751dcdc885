# Every target makes .venv first, from requirements.txt or, for tests and checks, requirements-dev.txt.
PYTHON ?= python3
RUN := .venv/bin/python
# On a CPU, large pages for the arrays of a step: a tenth to a fifth faster (RESULTS.md).
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1
# With more memory for new objects, basedpyright collects garbage less often and takes an eighth less time.
PYRIGHT := NODE_OPTIONS=--max-semi-space-size=256 $(RUN) -m basedpyright --level error

.PHONY: help demo check lint types test-types layers test test-slow bench onnx

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv/installed  ## train the main model at reduced width on a synthetic dataset, in about two minutes
	@echo "training configs/unet_shapes.py into runs/demo"
	@$(RUN) main.py --config=configs/unet_shapes.py --workdir=runs/demo --tfds_data_dir=data --mode=train
	@$(RUN) -m experiments.compare runs/demo --html=runs/demo/page.html > runs/demo/table.txt
	@echo "a page of curves, classes and images, for a browser: runs/demo/page.html"
	@echo "or go on with:"
	@echo "  $(RUN) main.py --config=configs/mask_rcnn_shapes.py --workdir=runs/mask_rcnn --tfds_data_dir=data  # a detector: 5 minutes"
	@echo "  $(RUN) main.py --mode=datacheck --config=configs/masks.py --config.data.folder.root=DIR  # your own images: README.md"

check: .venv/installed-dev  ## lint, types, layering, English and every config, in less than a minute
	@$(MAKE) --no-print-directory --jobs 3 --output-sync lint types layers

lint: .venv/installed-dev  ## ruff
	@$(RUN) -m ruff check . && $(RUN) -m ruff format --check .

types: .venv/installed-dev  ## basedpyright on the code
	@$(PYRIGHT) *.py configs experiments input_pipeline launch models

test-types: .venv/installed-dev  ## basedpyright on benchmarks and on tests; their functions without annotations are not checked
	@$(PYRIGHT) benchmarks tests

layers: .venv/installed-dev  ## who imports whom, how docstrings begin, and what each config builds
	@# With lower priority than basedpyright, which takes longer.
	@nice $(RUN) -m pytest -n 0 tests/test_layering.py tests/test_english.py tests/test_array_shapes.py tests/test_configs.py \
		-m "not slow" -k "not remat and not history"

test: .venv/installed-dev  ## the tests, without the slow ones
	@# More processes than cores, because many tests wait for files and other processes.
	@$(RUN) -m pytest -m "not slow" -n 3 --dist loadscope --no-loadscope-reorder

test-slow: .venv/installed-dev  ## all tests, compiled as in a run: hours
	@JAX_DISABLE_MOST_OPTIMIZATIONS=0 XLA_FLAGS= $(RUN) -m pytest -n 2 --dist loadscope --no-loadscope-reorder

bench: .venv/installed  ## print JSON lines: training steps of the main model and of two detectors, and box operations
	@$(RUN) -m benchmarks.train_step --config=configs/unet_pets.py --batch_size=16
	@$(RUN) -m benchmarks.train_step --config=configs/yolov1_shapes.py --batch_size=16
	@$(RUN) -m benchmarks.train_step --config=configs/ssd_shapes.py --batch_size=16
	@$(RUN) -m benchmarks.box_operations

onnx: .venv-onnx/installed  ## convert an export to ONNX and check it: make onnx EXPORT=runs/x/export/NAME
	@.venv-onnx/bin/python -m experiments.onnx $(EXPORT)

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is needed, \
	$(PYTHON) is " + sys.version.split()[0] + "; call make with PYTHON=python3.11")'
	@$(PYTHON) -m venv .venv

.venv/installed: requirements.txt | .venv/bin/python
	@echo "installing requirements.txt into .venv"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv/installed-dev: requirements-dev.txt requirements-report.txt requirements-sweep.txt .venv/installed
	@echo "installing requirements-dev.txt into .venv"
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

.venv-onnx/installed: requirements-onnx.txt | .venv/bin/python
	@echo "installing requirements-onnx.txt into .venv-onnx"
	@$(PYTHON) -m venv .venv-onnx
	@.venv-onnx/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-onnx.txt
	@touch $@
