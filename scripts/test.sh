#!/usr/bin/env bash
# Checks and tests all there is; what is given goes to pytest (scripts/test.sh tests/unit -k cursor).
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/venv.sh dev
scripts/node.sh
scripts/check.sh
echo "== testing"
exec .venv/bin/python -m pytest -q --color=no -n 2 --dist worksteal "$@"
