# make demo, make test, make lint, make bench: each makes .venv from requirements.txt first.
PYTHON ?= python3
RUN := .venv/bin/python
# On a CPU, large pages for the arrays of a step: a tenth to a fifth faster (RESULTS.md).
export GLIBC_TUNABLES := glibc.malloc.hugetlb=1

.PHONY: demo test test-slow lint bench

.venv/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "error: Python 3.11 or newer is needed, \
	$(PYTHON) is " + sys.version.split()[0] + "; call make with PYTHON=python3.11")'
	@echo "making .venv and installing requirements.txt"
	@$(PYTHON) -m venv .venv
	@$(RUN) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

demo: .venv/installed  ## trains the main model at reduced width on made images, in about two minutes
	@echo "training configs/unet_shapes.py into runs/demo"
	@$(RUN) main.py --config=configs/unet_shapes.py --workdir=runs/demo --tfds_data_dir=data --mode=train

test: .venv/installed  ## the tests, without the slow ones
	@$(RUN) -m pytest -m "not slow" -n 2 --dist loadscope

test-slow: .venv/installed  ## all tests
	@$(RUN) -m pytest -n 2 --dist loadscope

lint: .venv/installed  ## ruff
	@$(RUN) -m ruff check . && $(RUN) -m ruff format --check .

bench: .venv/installed  ## JSON lines: training steps of the main model and of two detectors, and box operations
	@$(RUN) -m benchmarks.train_step --config=configs/unet_pets.py --batch_size=16
	@$(RUN) -m benchmarks.train_step --config=configs/yolov1_shapes.py --batch_size=16
	@$(RUN) -m benchmarks.train_step --config=configs/ssd_shapes.py --batch_size=16
	@$(RUN) -m benchmarks.box_operations
