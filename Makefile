# `make demo` runs a study end to end; `make test` runs all that CI runs. Both set up .venv if it is missing.

PYTHON := $(shell command -v python3.11 || command -v python3 || command -v python)
BIN := .venv/bin
STUDY ?= search_spaces/demo.yaml
STORAGE ?= raystudy-storage
RUN_OPTIONS ?=

.PHONY: demo test slow chaos gpu check format schema constraints clean

demo: .venv/ready
	@echo "== study $(STUDY): plan"
	@$(BIN)/raystudy plan $(STUDY) --storage $(STORAGE)
	@echo "== run: every wanted run that is not on $(STORAGE) yet"
	@$(BIN)/raystudy run $(STUDY) --storage $(STORAGE) $(RUN_OPTIONS)
	@echo "== compare the cheap protocols with the tuned truth"
	@$(BIN)/raystudy compare $(STUDY) --storage $(STORAGE)
	@$(BIN)/raystudy report $(STUDY) --storage $(STORAGE)

test: check
	$(BIN)/python -m pytest -n 2

# Checks that take minutes; each leaves a dated result in docs/results. SLOW="NAME ..." chooses.
slow: .venv/ready
	$(BIN)/python -m tests.slow $(SLOW)

# Faults at random moments, of launches on this machine and (takes root) of jobs on a cluster in its own namespaces.
chaos: .venv/ready
	$(BIN)/python -m tests.slow faults group_faults
	$(BIN)/python -m tests.chaos

# Checks that need a CUDA device (and a build of torch for it); leaves a dated result in docs/results.
gpu: .venv/ready
	$(BIN)/python -m tests.gpu

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tests/check_file_lengths.py
	$(BIN)/python tests/audit.py

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The JSON Schemas that the files in search_spaces/ name, so that editors complete them.
schema: .venv/ready
	@for kind in study catalogue space result; do \
	$(BIN)/python -m raystudy schema $$kind > search_spaces/schema/$$kind.json || exit 1; done

# A virtual environment with everything pinned; made once, made again when the pins change.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || echo \
	"note: python3.11 is not on the path; $$($(PYTHON) --version) is used, for which pip may download other wheels"
	@echo "== setting up .venv with $$($(PYTHON) --version): pip downloads torch, ray and what else constraints.txt pins"
	@echo "   (on Linux PyPI's torch brings CUDA, several GB; the README says how to take the CPU build)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch .venv/ready

# Makes constraints.txt anew: a fresh environment with torch==2.13.0 and the newest of all else, frozen.
constraints:
	@rm -rf .constraints-venv && $(PYTHON) -m venv .constraints-venv
	@.constraints-venv/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 -e '.[dev]'
	@{ echo "# Every package that \`make\` installs, pinned. Made by \`make constraints\` (torch is pinned there)."; \
	.constraints-venv/bin/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } > constraints.txt
	@rm -rf .constraints-venv

clean:
	rm -rf .venv .constraints-venv dist build
