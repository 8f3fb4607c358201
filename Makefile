# Everything from a bare clone: needs Python 3.11 to 3.14, a C library and make. No compiler, no ffmpeg.
#   make demo    the main job on a small synthetic corpus
#   make test    all tests
#   make lint    ruff, import layers, dependencies        make types    basedpyright

PYTHON ?= python3
DEMO ?= demo
PIP = .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint types clean

demo: .venv/.demo
	.venv/bin/unheard demo --out $(DEMO)

test: .venv/.test
	OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadfile

lint: .venv/.dev
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/lint-imports
	.venv/bin/deptry .

types: .venv/.dev
	.venv/bin/basedpyright

clean:
	rm -rf .venv $(DEMO) .pytest_cache .ruff_cache .hypothesis .import_linter_cache

.venv/bin/python:
	$(PYTHON) -m venv .venv

# A stamp an installation; it is made again when what is installed changes.
.venv/.demo: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e ".[demo,track]"
	touch $@

.venv/.test: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e ".[demo,track,test]"
	touch $@ .venv/.demo

.venv/.dev: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e ".[demo,track,test,dev]"
	touch $@ .venv/.demo .venv/.test
