PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := .ci/constraints.txt
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS)

.PHONY: demo study test lint slow clean

demo: $(VENV)/.installed
	$(BIN)/jkofilter run scenarios/sine_1d.py --seeds 2 --filters jko,particle-kde,dual-jko --out out/sine_1d

study: $(VENV)/.installed
	$(BIN)/jkofilter run scenarios/sine_1d.py --out out/sine_1d_study

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy jkofilter

slow: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --slow -m slow

clean:
	rm -rf $(VENV) out build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch is asked for by its exact version, first and alone: a range would take the newest build, gigabytes of it.
$(VENV)/.torch: $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch==2.13.0
	touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml
	$(INSTALL) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.torch pyproject.toml
	$(INSTALL) --editable '.[dev]'
	touch $@ $(VENV)/.installed
