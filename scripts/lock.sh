#!/usr/bin/env bash
# Writes requirements/*.lock: exact versions with hashes, for every supported Python on Linux.
# Keeps what is locked already where it still fits; `scripts/lock.sh --upgrade` takes the newest.
set -euo pipefail
cd "$(dirname "$0")/.."

uv=${UV:-.venv/bin/uv}

# compile NAME OPTION...: writes requirements/NAME.lock; an index or path of this host stays out of it.
compile() {
	"$uv" pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command "make lock" --output-file "requirements/$1.lock" "${@:2}" >/dev/null
	echo "wrote requirements/$1.lock"
}

compile runtime --group build "$@"
compile dev --group dev --constraint requirements/runtime.lock "$@"
