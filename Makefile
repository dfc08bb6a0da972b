# make          after every change: format, lint, types, the tests
# make check    before a change is handed in: the exhaustive tests, and the planted defects too
PYTHON := $(if $(wildcard .venv/bin/python),.venv/bin/python,python)
export OMP_NUM_THREADS ?= 1

.PHONY: test check style types page docs release modules defects

test: style types page
	$(PYTHON) -m pytest -q -n auto

check: style types page defects
	$(PYTHON) -m pytest -q -n auto -m ""

style:
	$(PYTHON) -m ruff format .
	$(PYTHON) -m ruff check --fix .

types:
	$(PYTHON) -m pyright --pythonpath $(PYTHON)

# docs/explanation/architecture.md, from the code.
page:
	$(PYTHON) docs/architecture.py

# The site, into docs/_build/html/index.html; what did not change is not run again.
docs:
	$(PYTHON) -m sphinx -W --keep-going -b html docs docs/_build/html
	@echo "look at docs/_build/html/index.html"

# dist/: wheel and source archive, and the wheel tried in an environment of its own, without the source.
release:
	rm -rf dist
	$(PYTHON) -m build
	$(PYTHON) tests/try_release.py dist/*.whl

# docs/reference/modules.md: what one may do with a module, tried.
modules:
	$(PYTHON) tests/module_operations.py

# make defects WORDS="beta": those that have the words in them.
defects:
	$(PYTHON) tests/planted_defects.py $(WORDS)
