# What one needs: Python 3.11 or newer as $(PYTHON), and make. Everything is installed into .venv, at pinned versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS_INSTALLED := $(VENV)/.installed-docs

# Minutes on two cores: a baseline, the same with one key-value head, and a latent model, on a page that explains them.
# For another run: make run RUN=02, make run RUN="all --profile smoke", ...
RUN ?=

.PHONY: run test lab docs install
.DEFAULT_GOAL := run

run: install
	$(BIN)/newllm $(if $(RUN),run $(RUN),start)

lab: install
	$(BIN)/newllm lab

# The documentation site, into site/, in a minute or more; its search needs a server: python -m http.server -d site.
docs: $(DOCS_INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	NEWLLM_OUTPUTS=$$(mktemp -d) $(BIN)/python -m pytest --numprocesses auto --dist loadfile --nbval-lax --nbval-current-env tests notebooks

install: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'newllm needs Python 3.11 or newer: make PYTHON=python3.12')"
	$(PYTHON) -m venv $(VENV)
	@echo "Installing $$(grep -c == requirements.lock) packages into $(VENV): some minutes, the first time only."
	$(BIN)/pip install --progress-bar off --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(INSTALLED)

$(DOCS_INSTALLED): docs/requirements.lock $(INSTALLED)
	$(BIN)/pip install --quiet --requirement docs/requirements.lock
	touch $(DOCS_INSTALLED)
