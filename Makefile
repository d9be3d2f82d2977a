# Trimtab: `make demo` and `make test` do everything, set-up included.
SHELL := /bin/bash
PY := .venv/bin/python

.PHONY: setup demo demo-production kafka kafka-soak siege postgres kubernetes soak storm simulate test check ci docs proto planted histories bench bench-check clean

setup: .venv/ready  ## the virtual environment, locked and hashed

.venv/ready: requirements/dev.txt pyproject.toml
	@bash deploy/setup.sh

soak: setup  ## kills a Trimtab at named points and at random; SEEDS=0:1000 JOBS=2
	$(PY) -m tests.e2e.plug.soak --seeds $(or $(SEEDS),0:1000) --jobs $(or $(JOBS),1) --points

siege: setup  ## besieges a fleet on Kafka and PostgreSQL, about thirty kills a seed; SEEDS=0:36 KIND=kills|brokers|zombies|database|storm
	$(PY) -m tests.e2e.siege.siege --seeds $(or $(SEEDS),0:36) --kind $(or $(KIND),kills)

kafka-soak: setup  ## kills and stops engines and brokers of Kafka under load; SEEDS=0:10 ROUNDS=12 BROKERS=1|3
	$(PY) -m tests.e2e.kafka_soak --seeds $(or $(SEEDS),0:10) --rounds $(or $(ROUNDS),12) --brokers $(or $(BROKERS),1)

simulate: setup  ## schedules of faults in virtual time, each repeatable from its seed; SEEDS=0:1000
	@$(PY) -m tests.simulation --seeds $(or $(SEEDS),0:1000)

storm: setup  ## kills a process that only writes, some ten times a second; KILLS=10000
	$(PY) -m tests.e2e.plug.storm --kills $(or $(KILLS),10000)

demo: setup  ## the main job on real data, embedded; EXIT=1 ends instead of leaving the pages running
	@$(PY) -m services demo $(if $(EXIT),--exit,)

demo-production: setup  ## the same on Kafka and PostgreSQL, with two engines and two action workers of which some are killed; EXIT=1 ends
	@$(PY) deploy/demo_production.py $(if $(EXIT),--exit,)

kafka: setup  ## Apache Kafka on loopback until Ctrl-C; prints its address. BROKERS=1|3
	@$(PY) deploy/kafka/broker.py --brokers $(or $(BROKERS),1)

postgres: setup  ## PostgreSQL on loopback until Ctrl-C; prints its address
	@$(PY) deploy/postgres/server.py

kubernetes: setup  ## helm, kubeconform, kube-apiserver and etcd, which the chart is tested with; built once, by Go
	@$(PY) deploy/kubernetes/programs.py --fetch

test: setup  ## the tests; what needs a part that is missing is skipped with its reason
	$(PY) -m pytest -n 2 -m "not slow" tests

check: setup  ## lint, types, walls
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

planted: setup  ## plant bugs, each must turn a test red; PART=2/3 every third, from the second on
	$(PY) tests/planted.py $(PART)

histories: setup  ## derive the decisions of the stored histories again; ADR=nnnn names the new record that tells why they changed
	$(PY) -m tests.histories renew $(ADR)

bench: setup .venv-bench/ready  ## every figure side by side in one run; ONLY=ingest one benchmark, JSON=1 a line of JSON a figure
	@JSON=$(JSON) $(PY) -m benchmarks $(ONLY)

.venv-bench/ready: requirements/bench.txt  # what the engine is measured against; without it those are skipped, and said to be
	-@bash deploy/setup.sh .venv-bench bench >&2

bench-check: setup  ## this tree and the commit before in turns; names what got slower than 0.9, and what it did not compare
	@$(PY) -m benchmarks against $(or $(AGAINST),HEAD~1) $(ONLY)

docs: setup  ## regenerate the parts of docs/ that the code itself says
	$(PY) deploy/generate_docs.py
	$(PY) deploy/grafana/generate.py

proto: setup  ## regenerate the contracts' code
	$(PY) deploy/generate_proto.py

ci:  ## what CI runs: install, check, test with every part required
	bash deploy/ci.sh

clean:
	rm -rf .venv .venv-bench var build dist *.egg-info
