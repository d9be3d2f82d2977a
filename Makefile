# Trimtab: `make demo` and `make test` do everything, set-up included.
SHELL := /bin/bash
PY := .venv/bin/python
export PYTHONDONTWRITEBYTECODE := 1

.PHONY: setup demo test check ci docs proto planted bench bench-check clean

setup: .venv/ready  ## the virtual environment, locked and hashed

.venv/ready: requirements/dev.txt pyproject.toml
	@bash deploy/setup.sh

demo: setup  ## the main job on real data, embedded; EXIT=1 ends instead of leaving the pages running
	@$(PY) -m services demo $(if $(EXIT),--exit,)

test: setup  ## the tests; what needs a part that is missing is skipped with its reason
	$(PY) -m pytest -n 2 -m "not slow" tests

check: setup  ## lint, types, walls
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

planted: setup  ## plant bugs, each must turn a test red
	$(PY) tests/planted.py

bench: setup .venv-bench/ready  ## every figure side by side in one run; ONLY=ingest one benchmark, JSON=1 a line of JSON a figure
	@JSON=$(JSON) $(PY) -m benchmarks $(ONLY)

.venv-bench/ready: requirements/bench.txt  # what the engine is measured against; without it those are skipped, and said to be
	-@bash deploy/setup.sh .venv-bench bench >&2

bench-check: setup  ## this tree and the commit before in turns; names what got slower than 0.9
	@$(PY) -m benchmarks against $(or $(AGAINST),HEAD~1) $(ONLY)

docs: setup  ## regenerate the parts of docs/ that the code itself says
	$(PY) deploy/generate_docs.py

proto: setup  ## regenerate the contracts' code
	$(PY) deploy/generate_proto.py

ci:  ## what CI runs: install, check, test with every part required
	bash deploy/ci.sh

clean:
	rm -rf .venv .venv-bench var build dist *.egg-info
