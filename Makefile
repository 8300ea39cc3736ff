# make env | test | audit | demo | lint | clean        STACK=onedl (default) or openmmlab
STACK ?= onedl
PYTHON ?= python3
SEEDS ?= 3
LEARNED ?=
WORKERS ?= 2
PYTEST_ARGS ?=
AUDIT_ARGS ?=

VENV := .venv/$(STACK)
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PINS := constraints/$(STACK).txt
PIP := $(PY) -m pip install -c $(PINS)
EXTRAS := timm,export,demo,tests

# What the pins of each stack were made for.
PYTHONS_onedl := 3.11 3.12
PYTHONS_openmmlab := 3.11
ifeq ($(PYTHONS_$(STACK)),)
$(error STACK=$(STACK) is unknown: choose onedl or openmmlab)
endif

.PHONY: env test audit demo lint clean
.DELETE_ON_ERROR:

env: $(STAMP)

# Safe to interrupt and run again: the stamp comes last, and pip skips what is already there.
$(STAMP): $(PINS) setup.cfg
	@found=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); \
	case " $(PYTHONS_$(STACK)) " in *" $${found:-none} "*) ;; *) \
	echo "make env: STACK=$(STACK) needs Python $(subst $() , or ,$(PYTHONS_$(STACK)))," \
	"'$(PYTHON)' is $${found:-missing}; name another with PYTHON=..." >&2; exit 1;; esac
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make env: '$(PYTHON)' has no" \
	"venv module; install it (on Debian: python3-venv)" >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || { echo "Creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	$(PIP) pip
	$(MAKE) --no-print-directory install-$(STACK)
	@touch $@

.PHONY: install-onedl install-openmmlab

# Sources are built apart: where onedl-mmcv's finds torch, it compiles ops that nothing here needs.
install-onedl:
	$(PIP) --build-constraint $(PINS) -e '.[onedl,$(EXTRAS)]'

# mmcv's ops are compiled against the torch that is already there, for the CPU unless FORCE_CUDA=1.
# A wheel that pip kept from a build without ops, or for another torch, is built anew.
FORCE_CUDA ?= 0
MMCV := CUDA_VISIBLE_DEVICES= FORCE_CUDA=$(FORCE_CUDA) MMCV_WITH_OPS=1 MAX_JOBS=$(WORKERS) \
	$(PIP) --no-build-isolation
install-openmmlab:
	$(PIP) setuptools wheel ninja numpy torch torchvision
	@echo "Building mmcv's ops: about 12 minutes on 2 cores, unless pip has kept the wheel"
	$(MMCV) mmcv
	@$(PY) -c 'import mmcv.ops' 2>/dev/null || { echo "The kept wheel of mmcv does not work here"; \
	$(MMCV) --no-cache-dir --force-reinstall --no-deps mmcv; }
	@$(PY) -c 'import mmcv.ops'
	$(PIP) --no-build-isolation -e '.[openmmlab,$(EXTRAS)]'

test: env
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(WORKERS) --dist loadfile $(PYTEST_ARGS)

# Every backbone again; fails if one that passed in docs/backbones.md no longer does.
# AUDIT_ARGS=--sample-if-unchanged: a sample, unless what the results depend on has changed.
audit: env
	OMP_NUM_THREADS=1 $(PY) -m benchmarks.backbones.run --check --jobs $(WORKERS) $(AUDIT_ARGS)

demo: env
	$(PY) -m benchmarks.demo.run --seeds $(SEEDS) $(if $(filter-out 0,$(LEARNED)),--learned)

lint: env
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# Leaves the environments: remove .venv yourself, one of them takes long to build.
clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +
