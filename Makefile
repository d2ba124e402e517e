# Everyday commands. `make` alone lists them; ARGS is passed on: make serve ARGS="--port 8000"

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pip shows its progress here; constraints.txt makes every install the one that the tests ran with.
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help serve whisper test coverage lint format bench soak constraints clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(VENV)/.serve ## start the server on http://localhost:7860, this folder being its home
	@$(BIN)/dia-server serve --home . $(ARGS)

whisper: $(VENV)/.whisper ## add transcription by Whisper to what `make serve` starts

# They start hundreds of processes, each of which would compile everything anew where no bytecode may be kept. Tests wait
# for much, so that two processors serve three at a time; threads that multiply matrices would be in each other's way.
test: $(VENV)/.test ## run all tests, which ends with why some were skipped
	@PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder $(ARGS)

coverage: ## run all tests, and tell what of dia_server they run; takes a fifth longer
	@$(MAKE) --no-print-directory test ARGS="--cov $(ARGS)"

lint: $(VENV)/.lint ## check style, types, the layers, the Dockerfile and the generated files
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/hadolint Dockerfile
	@$(BIN)/python scripts/settings_reference.py --check

format: $(VENV)/.lint ## format the code, mend what can be mended, write the generated files anew
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .
	@$(BIN)/python scripts/settings_reference.py

bench: $(VENV)/.test ## measure; docs/benchmarks.md tells what
	@$(BIN)/python scripts/bench.py $(ARGS)

soak: $(VENV)/.test ## run the long forms of the chaos tests
	@$(BIN)/python -m pytest -m soak -o faulthandler_timeout=0 $(ARGS)

constraints: ## resolve all dependencies anew into constraints.txt, with the oldest Python that is supported
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
		{ echo 'Pins must suit Python 3.11 too: make constraints PYTHON=python3.11'; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)-constraints
	$(VENV)-constraints/bin/python -m pip install --disable-pip-version-check --editable '.[test,lint]'
	@{ grep -E '^(#|torch==)' constraints.txt; \
		$(VENV)-constraints/bin/python -m pip freeze --exclude-editable | grep -v '^torch=='; } > constraints.new
	@mv constraints.new constraints.txt
	@rm -rf $(VENV)-constraints

clean: ## remove .venv and all caches; what the server keeps in this folder stays
	rm -rf $(VENV) $(VENV)-constraints .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find dia_server scripts tests -name __pycache__ -prune -exec rm -rf {} +

# A stamp is made last, so a finished step costs nothing. pip, when interrupted, leaves packages that it takes for whole:
# a .venv without the stamp of `serve` is made anew.
$(VENV)/.serve: pyproject.toml constraints.txt
	@[ -e $@ ] || $(create)
	@rm -f $@
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.whisper $(VENV)/.test $(VENV)/.lint: $(VENV)/.%: $(VENV)/.serve
	@mv $< $<.aside
	$(INSTALL) --editable '.[$*]'
	@mv $<.aside $<
	@touch $@

define create
{ \
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo 'dia-server needs Python 3.11 or newer; "$(PYTHON)" is not. Name another: make PYTHON=python3.12 $(MAKECMDGOALS)'; \
		exit 1; }; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo 'This Python lacks its venv module. On Debian and Ubuntu: sudo apt install python3-venv'; \
		exit 1; }; \
	echo 'Installing into $(VENV), once: about 140 MB to download.'; \
	$(PYTHON) -m venv --clear $(VENV); }
endef
