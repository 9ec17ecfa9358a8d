# Every target installs what it needs into the checkout (.venv, node_modules) and is quiet about it.
# make PYTHON=/path/to/python3 chooses the interpreter of .venv.

export PYTHON
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

.PHONY: help
help: ## Show this help
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-22s %s\n", $$1, $$2 }'

.PHONY: demo
demo: runtime ## Show it at work: a server, some jobs, their logs and their ends
	@scripts/demo.sh

.PHONY: test
test: ## Check and test everything (10 to 15 minutes)
	@scripts/test.sh

.PHONY: test-long
test-long: ## The same with the long tests, in full size
	@JOBRUNTIME_LONG=1 scripts/test.sh -m "long or not long" --timeout 3600

.PHONY: test-systemd
test-systemd: ## Test it as a service of a real systemd, in a guest with a Debian of its own
	@scripts/test-systemd.sh

.PHONY: check
check: dev ## Format, lint, types, imports, proto, generated files
	@scripts/node.sh
	@scripts/check.sh

.PHONY: bench
bench: runtime ## Measure, each number beside its baseline
	@.venv/bin/python -m bench

.PHONY: format
format: dev ## Format the code
	@.venv/bin/ruff format --quiet .
	@.venv/bin/ruff check --quiet --fix --select I .

.PHONY: proto
proto: dev ## Write src/jobruntime/rpc/gen from proto/
	@scripts/gen_proto.sh

.PHONY: docs
docs: dev ## Write docs/states.md from the transition table
	@.venv/bin/python scripts/gen_states.py

.PHONY: lock
lock: dev ## Write requirements/*.lock from pyproject.toml
	@scripts/lock.sh

.PHONY: runtime
runtime: ## Install what the server and its clients need
	@scripts/venv.sh runtime

.PHONY: dev
dev:
	@scripts/venv.sh dev

.PHONY: clean
clean: ## Remove what was installed and made here
	@rm -rf .venv .demo build dist tests/e2e/node/node_modules \
		.hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
