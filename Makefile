# All commands for newcomers and CI; `make help` lists them.

PYTHON ?= python3
# Build of torch: cpu (default) or cuda (from PyPI, several GB).
TORCH ?= cpu
# Number of pytest processes, of one thread each.
TEST_JOBS ?= 2
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# Options of `make words`.
PATHS ?=
# Options of `make bench-coarse`.
SEED ?= 1
DRAWS ?= 200
# Options of `make fuzz`; another seed each time.
SCHEDULES ?= 5000
SCHEDULE_SEED ?= $(shell date +%s)
# Options of `make bench-accuracy`, for example METHODS="default sift-dis" TABLES="comparison ablation claims" BENCH=--docs;
# see docs/accuracy.md. GPUS is for `make bench-multi-gpu`, BENCH for all of them.
SEEDS ?= 3
GPUS ?= 1 2
JOBS ?= 1
TABLES ?= comparison
METHODS ?=
BENCH ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(TORCH)
BENCH_STAMP := $(VENV)/.installed-bench
# A CPU build of torch comes from a local folder of wheels if PIP_FIND_LINKS is set, else from PyTorch's own CPU index.
TORCH_SOURCE_cpu = $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)",--torch-backend cpu)
TORCH_SOURCE_cuda =
SUDO = $(if $(filter 0,$(shell id -u)),,sudo)

.DEFAULT_GOAL := help
.PHONY: help env demo quick test test-browser test-napari test-faults fuzz test-slurm test-compose bench-coarse bench-accuracy bench-sequence bench-spoilt bench-fix \
	challenge bench-scale bench-import bench-gpu bench-e2e bench-multi-gpu bench-cpu lint words test-minimal wheel docs site test-docs pictures format clean

##@ Begin

help:  ## Show this list
	@grep -hE '^[a-z0-9-]+:.*##|^##@' $(MAKEFILE_LIST) | sed -E 's/^##@ (.*)/\n\1/; s/^([a-z0-9-]+):[^#]*## /  \1\t/' | expand -t 18

env: $(STAMP)  ## Make .venv with everything in it (TORCH=cuda for NVIDIA GPUs)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ssem_dask needs Python 3.11 or newer; set PYTHON=…")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(TORCH_SOURCE_$(TORCH)) --compile-bytecode --editable '.[all,dev]'
	@touch $@

demo: env  ## Align a synthetic volume with known truth; prints the error before and after, and a picture
	$(BIN)/ssem-dask demo --dir demo

##@ Check

lint: env words  ## Check style, types, layers and wording, as CI does
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

words: env  ## Check wording (docs/words.txt), spelling and long lines of documents (PATHS="docs ssem_dask/cli")
	$(BIN)/python tools/check_words.py $(PATHS)
	git ls-files -z -- $(PATHS) | xargs -0 $(BIN)/codespell

format: env  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

quick: env  ## Run the laws and the quick unit tests, in less than a minute
	$(PYTEST) -n $(TEST_JOBS) --dist worksteal -m "not slow" tests/laws tests/unit

test: env  ## Run all tests but those of browser, faults and clusters, with coverage
	@rm -f .coverage .coverage.*
	$(PYTEST) -n $(TEST_JOBS) --dist worksteal --durations=20 --cov --cov-report term:skip-covered

# The extra `test` and not `dev`: of the tools of `make lint`, some do not go with dependencies that are this old.
# Warnings do not fail here, since most are those of old packages about each other.
test-minimal: $(STAMP)  ## Run laws, unit tests and the demo with the oldest dependencies that pyproject.toml allows
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-minimal
	$(BIN)/uv pip install --quiet --python $(VENV)-minimal/bin/python --resolution lowest-direct $(TORCH_SOURCE_$(TORCH)) \
	  --editable '.[all,test]'
	OMP_NUM_THREADS=1 $(VENV)-minimal/bin/python -m pytest -n $(TEST_JOBS) --dist worksteal -W default tests/laws \
	  tests/unit/cli tests/unit/storage tests/unit/field tests/unit/registration tests/unit/volumes tests/unit/test_extras.py
	$(VENV)-minimal/bin/ssem-dask demo --dir demo

wheel: $(STAMP)  ## Build dist/*.whl, check it, install it into a fresh environment and run the demo there
	rm -rf dist
	$(BIN)/uv build --quiet --out-dir dist
	$(BIN)/twine check --strict dist/*.whl dist/*.tar.gz
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-wheel
	$(BIN)/uv pip install --quiet --python $(VENV)-wheel/bin/python $(TORCH_SOURCE_$(TORCH)) "$$(ls dist/*.whl)[report]"
	$(VENV)-wheel/bin/ssem-dask --version
	cd dist && ../$(VENV)-wheel/bin/ssem-dask demo --sections 8 --size 256

test-browser: env  ## Open report and viewer in Chromium; installs Debian's package if it is missing
	@command -v chromium > /dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq chromium; }
	$(PYTEST) -n $(TEST_JOBS) --dist loadfile tests/browser

# An environment of its own: napari's plugin for pytest would be loaded by every other test. A window on a virtual screen,
# since napari draws with OpenGL, which Qt has on no platform without a screen.
test-napari: $(STAMP)  ## Open the plugin of napari in a real window on a virtual screen; installs Debian's packages if missing
	@command -v Xvfb > /dev/null && ldconfig -p | grep -q xcb-cursor || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq \
	  xvfb xauth libegl1 libgl1 libdbus-1-3 libxcb-cursor0 libxcb-icccm4 libxcb-image0 libxcb-keysyms1 libxcb-randr0 \
	  libxcb-render-util0 libxcb-shape0 libxkbcommon-x11-0; }
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-napari
	$(BIN)/uv pip install --quiet --python $(VENV)-napari/bin/python $(TORCH_SOURCE_$(TORCH)) --editable '.[napari,test]'
	OMP_NUM_THREADS=1 xvfb-run -a -s "-screen 0 1280x1024x24" $(VENV)-napari/bin/python -m pytest -W default --disable-warnings tests/napari

test-faults: env  ## Kill processes, tear files, fill disks, fail S3 requests; prints what was recomputed and what differs
	$(PYTEST) -n $(TEST_JOBS) --dist worksteal tests/faults

fuzz: env  ## Try random schedules of two drivers and two workers (SCHEDULES=5000; SCHEDULE_SEED=… repeats them)
	seed=$(SCHEDULE_SEED) && echo "SCHEDULE_SEED=$$seed" && SCHEDULES=$(SCHEDULES) SCHEDULE_SEED=$$seed $(PYTEST) --timeout 0 tests/faults/test_schedules.py

test-slurm: env  ## Run the tests of batch jobs on a real SLURM of this machine (as root on Debian: installs it)
	tests/service/slurm/run.sh

test-compose: env  ## Run the tests of docker-compose.yml on a real engine (as root on Debian: installs one if it is missing)
	tests/service/compose/run.sh

##@ Documents

docs: env  ## Make docs/configuration.md, the list of arrays in docs/conventions.md, the figure of layers in docs/architecture.md
	$(BIN)/python -m ssem_dask.cli.configuration_page > docs/configuration.md
	$(BIN)/python -m ssem_dask.cli.arrays_page docs/conventions.md
	$(BIN)/python -m ssem_dask.cli.glossary_page docs/failures.md docs/glossary.md
	$(BIN)/python tools/layer_figure.py

# An environment of its own, as the builder and its themes have many dependencies.
site: $(STAMP)  ## Build the documents as web pages into site/; any warning, such as a broken link, is an error
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-docs
	$(BIN)/uv pip install --quiet --python $(VENV)-docs/bin/python 'mkdocs-material==9.8.2' 'mkdocstrings[python]==1.0.8'
	$(BIN)/python -m typer ssem_dask.cli.app utils docs --name ssem-dask --title Commands --output docs/cli.md
	NO_MKDOCS_2_WARNING=1 $(VENV)-docs/bin/mkdocs build --quiet --strict

test-docs: site  ## Build the site, run the commands of README and tutorial
	$(BIN)/python -m tools.run_documented_commands

pictures: env  ## Make the pictures of the README, docs/bad-section.md and docs/how-it-works.md (needs chromium)
	$(BIN)/python -m docs.images.make_figures
	$(BIN)/python docs/images/make.py
	$(BIN)/python -m docs.images.make_fix

##@ Measure

bench-coarse: env  ## Measure how often the coarse stage recovers random rotations and shifts of real sections (SEED=…, DRAWS=…)
	$(BIN)/python -m benchmarks.coarse --seed $(SEED) --draws $(DRAWS) --json coarse.json

bench-sequence: env  ## Measure jitter, drift and label overlap against the number of sections (BENCH="--sections 20 200 --modes default")
	$(BIN)/python -m benchmarks.sequence $(BENCH)

bench-spoilt: env  ## Spoil one section of a real stack in 21 ways: harm to the others, return of the section (SEEDS=…, JOBS=…, BENCH="--data vnc")
	$(BIN)/python -m benchmarks.spoilt --seeds $(SEEDS) --jobs $(JOBS) --data vnc fibsem1 --json spoilt.json $(BENCH)

bench-fix: env  ## What a person does about one spoilt section, kind by kind: keys, clicks, seconds, error before and after (BENCH="--data vnc")
	$(BIN)/python -m benchmarks.fix $(BENCH)

bench-gpu: env  ## Measure pair solver, features and window on one GPU, beside plain PyTorch (BENCH="--side 4096")
	$(BIN)/python -m benchmarks.gpu $(BENCH)

bench-e2e: env  ## Time a whole run beside the best copy with pyramid, on one GPU (BENCH="--sections 104 --side 4096")
	$(BIN)/python -m benchmarks.e2e --dir bench/e2e --gpus 1 --json bench/e2e.json $(BENCH)

bench-multi-gpu: env  ## Time a whole run on one GPU and on several of this machine (GPUS="1 2 4")
	$(BIN)/python -m benchmarks.e2e --dir bench/e2e --gpus $(GPUS) --json bench/multi-gpu.json $(BENCH)

bench-cpu: env  ## Time a whole run on the cores of this machine: 20 sections of 1024² at 5 nm
	$(BIN)/python -m benchmarks.e2e --dir bench/cpu --gpus 0 --sections 20 --side 1024 --pixel-size 5 \
	  --json bench/cpu.json $(BENCH)

bench-import: env  ## Time the import of TIFF files beside the best copy with pyramid, in turns (BENCH="--sections 32")
	$(BIN)/python -m benchmarks.import_rate $(BENCH)

bench-scale: env  ## Take a petabyte through plan, ledger and driver on simulated workers (BENCH="--sections 25000" for all of it)
	$(BIN)/python -m benchmarks.scale $(BENCH)

bench-accuracy: env $(BENCH_STAMP)  ## Compare our modes with other aligners on real sections; needs SSEM_DATA_DIR, hours the first time
	$(BIN)/python -m benchmarks.accuracy --work bench --seeds $(SEEDS) --jobs $(JOBS) --tables $(TABLES) \
	  $(if $(METHODS),--methods $(METHODS)) $(BENCH)

challenge: env $(BENCH_STAMP)  ## All methods on the same sections, as one page: bench/challenge/challenge.html (BENCH="--size small --adapter mine.py")
	$(BIN)/python -m benchmarks.challenge --jobs $(JOBS) $(BENCH)

# A peer that cannot be installed does not stop the others: the table says "not installed".
$(BENCH_STAMP): $(STAMP)
	@for peer in stackreg opencv elastix feabas; do \
	  $(BIN)/uv pip install --quiet --python $(BIN)/python $(TORCH_SOURCE_$(TORCH)) --editable ".[bench-$$peer]" \
	    || echo "bench-$$peer could not be installed; its rows will say so"; \
	done
	@touch $@

##@ Clean

clean:  ## Remove the environment and everything that was made
	rm -rf $(VENV) $(VENV)-minimal $(VENV)-wheel $(VENV)-docs dist demo bench site docs/cli.md .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
