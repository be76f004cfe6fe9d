# `make demo` and `make test` install all they need on a fresh Debian or Ubuntu machine, and are safe to repeat.

SUDO := $(if $(filter-out 0,$(shell id -u)),sudo)
PYTHON ?= python3
BIN := .venv/bin
REPORT = $(if $(REPORTS),--junitxml=$(REPORTS)/$@.xml)

.PHONY: needs help demo test test-all lint unit lab-parts lab-test test-faults test-real test-vm test-browser test-newest update example bench bench-balancer bench-gateway bench-many bench-roll bench-vip bench-week clean

help: ## What can be made
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

needs:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "this needs Python 3.11 or newer: set PYTHON=..."; exit 1; }
	@command -v apt-get >/dev/null || { echo "this needs Debian or Ubuntu (apt-get)"; exit 1; }
	@missing=; for pair in curl:curl gpg:gnupg; do \
	  command -v $${pair%:*} >/dev/null || missing="$$missing $${pair#*:}"; done; \
	$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	test -z "$$missing" || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy $$missing; }

.venv/installed: pyproject.toml requirements.lock | needs
	$(PYTHON) -m venv --clear .venv
	$(PYTHON) -m tests.requirements install .venv
	touch $@

update: needs ## Write requirements.lock from the newest versions that pyproject.toml allows
	$(PYTHON) -m tests.requirements update

test-newest: needs ## Unit tests with the newest versions that pyproject.toml allows, in an environment of their own
	$(PYTHON) -m venv --clear .venv-newest
	$(PYTHON) -m tests.requirements newest .venv-newest
	nice .venv-newest/bin/pytest -q -n 4 tests/unit tests/contract

demo: .venv/installed ## Two bare (simulated) GPU hosts become a verified, balanced endpoint
	$(SUDO) $(BIN)/provision lab demo

test: needs ## Everything that CI runs: lint, types, unit and lab tests with a slice of the faults (made to take less than 25 minutes on two cores)
	@$(SUDO) true
	@$(PYTHON) -m tests.parts $(MAKE)

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.prose
	$(BIN)/python -m tests.prose --added

# nice: what the lab is made of takes longer
unit: .venv/installed ## Tests that need no lab
	nice $(BIN)/pytest -q -n 4 $(REPORT) tests/unit tests/contract

lab-parts: .venv/installed
	$(SUDO) $(BIN)/provision lab prepare --install

lab-test: lab-parts ## Tests on real hosts, with a sample and a slice of the faults; fails where no lab can be started
	slice=$${PROVISION_SLICE:-$$($(PYTHON) -m tests.slices)} && $(SUDO) env PROVISION_REQUIRE_LAB=1 PROVISION_SLICE=$$slice \
	  $(BIN)/pytest -q -n 3 --dist loadscope --no-loadscope-reorder --durations=25 $(REPORT) tests/lab tests/faults \
	  -m "sample or slice or not (faults or matrix)"

test-all: test-faults test-browser ## Every fault and every long lab test; make test runs a part of them, and everything else (about 70 minutes)

test-faults: .venv/installed ## Every fault at every place, and the longest of the lab tests; writes docs/reliability.md (about 70 minutes; CLASS="apt disk" for some)
	$(SUDO) $(BIN)/python -m tests.faults $(CLASS)

test-real: .venv/installed ## The contract, our scripts, balancer and clients against a real Ollama on the CPU (PARTS="contract clients" for some)
	$(SUDO) $(BIN)/python -m tests.real $(PARTS)

test-vm: .venv/installed ## Virtual machines: make demo on cgroup v2, hosts with kernels of their own; installs QEMU (2.5 hours where QEMU emulates; PARTS="demo lab" for some)
	$(SUDO) $(BIN)/python -m tests.vm $(PARTS)

test-browser: .venv/installed ## The pages of load tests in a real browser; installs Debian's chromium (2 minutes; PROVISION_SCREENSHOTS=FOLDER keeps pictures)
	command -v chromium >/dev/null || { $(SUDO) apt-get update -q && $(SUDO) apt-get install -qy --no-install-recommends chromium; }
	nice $(BIN)/pytest -q $(REPORT) tests/browser

example: .venv/installed ## Write inventory/example.yaml from the roles' settings, docs/json.md from the schema
	$(BIN)/python -m tests.example > inventory/example.yaml
	$(BIN)/python -m tests.json_page > docs/json.md

bench: .venv/installed ## Against the peers on the same hosts; writes docs/performance.md (ARGS="--hosts 1,4 --rtt 0 --rounds 2")
	$(SUDO) $(BIN)/python -m tests.bench.peers $(ARGS)

bench-balancer: .venv/installed ## Our balancer against the guide's; writes docs/balancer.md (10 minutes)
	$(SUDO) $(BIN)/python -m tests.bench.balancer $(ARGS)

bench-gateway: .venv/installed ## The gateway against plain nginx and LiteLLM; writes docs/performance.md (8 minutes; ARGS="--small" for a look)
	$(SUDO) $(BIN)/python -m tests.bench.gateway $(ARGS)

bench-many: .venv/installed ## The controller alone with up to 200 hosts; writes docs/performance.md
	$(SUDO) $(BIN)/python -m tests.bench.many $(ARGS)

bench-roll: .venv/installed ## Instances replaced and killed under load; writes docs/reliability.md (10 minutes)
	$(SUDO) $(BIN)/python -m tests.bench.roll $(ARGS)

bench-vip: .venv/installed ## What takes the common address from its balancer; writes docs/reliability.md (8 minutes)
	$(SUDO) $(BIN)/python -m tests.bench.vip $(ARGS)

bench-week: .venv/installed ## Real clients through the common address in a week of faults; writes docs/reliability.md (an hour; ARGS="--minutes 15")
	$(SUDO) $(BIN)/python -m tests.bench.week $(ARGS)

clean: ## Take every lab of this machine down, and forget the virtual environment
	-$(SUDO) $(BIN)/provision lab down --all
	rm -rf .venv .venv-newest
