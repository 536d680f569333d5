# Sets Scanmill up, shows it, tests it. `make help` lists the targets.

# `make TORCH=cpu` alone makes the environment so; `make` alone lists the targets.
CHOSEN = $(findstring command,$(origin TORCH) $(origin DETECTRON2) $(origin PYTHON))
.DEFAULT_GOAL := $(if $(CHOSEN),env,help)
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

# What the environment was made with is remembered: after `make env TORCH=cpu`, `make demo` does
# not fetch another torch. What the command line says comes first.
-include .venv/choices.mk
PYTHON ?= python3
DETECTRON2 ?= pypi
# A compiled Detectron2 works with the torch it was compiled for, and with no other.
TORCH ?= $(if $(filter installed,$(DETECTRON2)),installed,pypi)

# Holds the choices in its name: other choices, another stamp.
STAMP = .venv/made-$(TORCH)-$(DETECTRON2)-$(subst /,_,$(PYTHON))
# `broken` where the environment's Python is gone, or belongs to a folder that was moved.
STATE = $(shell .venv/bin/python -c "import os, scanmill as s; \
	os.path.samefile(s.__path__[0], 'scripts/scanmill') or exit(1)" 2>/dev/null || echo broken)
# The doctor must speak also where there is no environment.
DOCTOR_PYTHON = $(shell .venv/bin/python -c "" 2>/dev/null && echo .venv/bin/python || echo $(PYTHON))
IN_ENV = . .venv/bin/activate &&

.PHONY: help env demo test test-packages test-slurm fuzz lint format doctor benchmark benchmark-rendering \
	benchmark-reliability benchmark-memory benchmark-disk benchmark-accuracy benchmark-growth \
	benchmark-scale benchmark-ocr benchmark-exports benchmark-flags benchmark-report synthesis-packages \
	train-shipped-model test-bare-machine clean check-python broken

help:  ## list the targets
	@echo "make TARGET [PYTHON=python3.12] [TORCH=pypi|cpu|cu126] [DETECTRON2=pypi|installed]"
	@echo
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) \
		| awk -F'|' '{ printf "%-22s %s\n", $$1, $$2 }'
	@echo
	@echo "In force: PYTHON=$(PYTHON) TORCH=$(TORCH) DETECTRON2=$(DETECTRON2)."
	@echo "TORCH=cu126 is for drivers older than 580, TORCH=cpu saves 5 GB where there is no GPU,"
	@echo "DETECTRON2=installed keeps the one (and the torch) that PYTHON or .venv has."

env: $(STAMP)  ## make or update the environment in .venv; install Poppler and jpegtran if that needs no password

$(STAMP): envs/requirements.txt envs/development.txt envs/torch.txt envs/detectron2.txt envs/timm.txt \
		pyproject.toml $(STATE)
	@$(MAKE) check-python
	@$(PYTHON) scripts/make_environment.py \
		--torch $(TORCH) --detectron2 $(DETECTRON2) --python $(PYTHON)
	@touch $@

check-python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed. Scanmill needs \
	Python 3.11 or later (on Debian: apt-get install python3 python3-venv)." >&2; exit 1; }
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { \
	echo "$(PYTHON) is `$(PYTHON) -V 2>&1`; Scanmill needs 3.11 or later. If another Python is \
	installed, name it: make PYTHON=python3.12" >&2; exit 1; }

demo: env demo/archive  ## run the workflow on an archive made for it; show what came out
	$(IN_ENV) snakemake --cores all --directory demo/run --config archive=../archive 'crops={store: files}'
	$(IN_ENV) python scripts/show_results.py --directory demo/run

demo/archive: | env
	$(IN_ENV) python scripts/make_demo_archive.py --output demo

test-packages:  ## install what some tests need beside the environment, where that needs no password: Chromium, Slurm, Tesseract
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then { apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
		apt-get -qq install -y --no-install-recommends chromium fontconfig fonts-dejavu fonts-liberation \
		munge slurm-client slurmctld slurmd tesseract-ocr tesseract-ocr-eng tesseract-ocr-deu; } || echo "They cannot be installed: tests that need them are skipped."; \
	else echo "Not root, or no apt-get: tests that need Chromium, Slurm or Tesseract are skipped unless they are there."; fi

test: env  ## run the tests, those of three files side by side
	$(IN_ENV) pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder --durations 30

test-slurm: env test-packages  ## as root: run archives through profiles/slurm on a cluster of one node, twice
	$(IN_ENV) pytest tests/workflow/test_slurm.py

fuzz: env  ## damage PDFs in many ways and make page images of them [CASES=2000]
	$(IN_ENV) FUZZ_CASES=$(or $(CASES),2000) pytest -s tests/unit/test_fuzzing.py

lint: env  ## check style: ruff, snakefmt, snakemake --lint
	$(IN_ENV) ruff check
	$(IN_ENV) ruff format --check
	$(IN_ENV) snakefmt --check Snakefile rules
	$(IN_ENV) snakemake --lint

format: env  ## bring the code into shape
	$(IN_ENV) ruff check --fix
	$(IN_ENV) ruff format
	$(IN_ENV) snakefmt Snakefile rules

doctor: check-python  ## say what this machine has, what is wrong, and the remedy
	@$(DOCTOR_PYTHON) scripts/doctor.py

benchmark: env  ## pages/s: DefaultPredictor, the bare model, Scanmill, the workflow [MODEL= BENCHMARK="--pages 300 ..."]
	$(IN_ENV) python scripts/benchmark.py --model $(or $(MODEL),scanmill-layout) --workflow $(BENCHMARK)

benchmark-rendering: env demo/archive  ## page images beside pdf2image's, by kind of page [ARCHIVE=folder]
	$(IN_ENV) python tests/benchmarks/rendering.py $(or $(ARCHIVE),demo/archive)

benchmark-reliability: env demo/archive  ## page images of broken PDFs, and what each engine makes alone [ARCHIVE=folder]
	$(IN_ENV) python tests/benchmarks/reliability.py $(or $(ARCHIVE),demo/archive)

benchmark-memory: env  ## peak memory of every job over 500 pages, in one document and in 500 (15 minutes)
	$(IN_ENV) python tests/benchmarks/memory.py

benchmark-disk: env  ## peak of the disk that page images take, kept and not kept, over 40 documents (5 minutes)
	$(IN_ENV) python tests/benchmarks/disk.py

benchmark-accuracy: env  ## box AP of scaled decoding and of every precision over demo archives [SEEDS=3]
	$(IN_ENV) python tests/benchmarks/accuracy.py --seeds $(or $(SEEDS),3)

benchmark-growth: env  ## memory of one detector over 5000 pages of 30 sizes (15 minutes) [PAGES=5000]
	$(IN_ENV) python tests/benchmarks/growth.py --pages $(or $(PAGES),5000)

benchmark-scale: env  ## planning, unchanged archives, one more document at 10^3 to 10^6 documents (an hour, 20 GB) [DOCUMENTS="1000 10000"]
	$(IN_ENV) python tests/benchmarks/scale.py $(DOCUMENTS)

benchmark-exports: env  ## seconds and memory of each export of 100 000 regions (5 minutes) [REGIONS=100000]
	$(IN_ENV) python tests/benchmarks/exports.py --regions $(or $(REGIONS),100000)

benchmark-flags: env  ## which planted pages are flagged, and which ordinary ones are (5 minutes) [SEED=1]
	$(IN_ENV) python tests/benchmarks/flags.py --seed $(or $(SEED),1)

benchmark-report: env  ## seconds and memory of the report on a large run [ROWS=100000]
	$(IN_ENV) python tests/benchmarks/report.py --rows $(or $(ROWS),100000)

benchmark-ocr: demo  ## wrong characters and regions/s of each OCR engine, on pages whose PDFs have the text [RUN=demo/run]
	$(IN_ENV) python tests/benchmarks/ocr.py $(or $(RUN),demo/run)

synthesis-packages:  ## as root, on Debian 12: Chromium, typefaces, texts and pictures that synthetic pages are made of (5 GB)
	scripts/install_synthesis_packages.sh

train-shipped-model: env  ## make the shipped model again: from nothing, on synthetic pages [RUN=shipped-model CORES=2] (days on 2 cores)
	mkdir -p $(or $(RUN),shipped-model)
	$(IN_ENV) snakemake train --cores $(or $(CORES),2) --directory $(or $(RUN),shipped-model) \
		--configfile config/shipped-model.yaml

test-bare-machine:  ## as root: both commands of the README in a bare Debian (30 minutes, 20 GB)
	tests/bare_machine.sh

clean:  ## remove the demo and all caches (the environment: rm -r .venv)
	rm -rf demo .pytest_cache .ruff_cache .snakemake build scripts/scanmill.egg-info
	find scripts tests -name __pycache__ -prune -exec rm -r {} +
