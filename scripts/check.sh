#!/usr/bin/env bash
# Checks what can be checked without running anything: all checks, even after one that failed.
set -euo pipefail
cd "$(dirname "$0")/.."

bin=.venv/bin
buf=(tests/e2e/node/node_modules/@bufbuild/buf-linux-*/bin/buf) # only the one for this machine is installed
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed=()

# check NAME REMEDY COMMAND...: one line when it passes; its output and the remedy when it does not.
check() {
	local name=$1 remedy=$2
	if "${@:3}" >"$scratch/output" 2>&1; then
		printf '   %-16s ok\n' "$name"
	else
		printf '   %-16s FAILED\n' "$name"
		cat "$scratch/output"
		[ -z "$remedy" ] || echo "   -> $remedy"
		failed+=("$name")
	fi
}

generated_code_is_committed() {
	local room=jobruntime/rpc/gen file
	scripts/gen_proto.sh "$scratch/gen"
	for file in service_pb2.py service_pb2.pyi service_pb2_grpc.py; do
		diff -u "src/$room/$file" "$scratch/gen/$room/$file"
	done
}

echo "== checking"
check format "make format" "$bin/ruff" format --check --quiet .
check lint "" "$bin/ruff" check --quiet --output-format concise .
check types "" "$bin/mypy" --no-error-summary
check imports "" env PYTHONPATH=src "$bin/lint-imports" --no-cache --no-logo
check proto "" "${buf[0]}" lint
check "generated code" "make proto" generated_code_is_committed
check docs/states.md "make docs" "$bin/python" scripts/gen_states.py --check

if [ ${#failed[@]} -gt 0 ]; then
	(IFS=,; echo "check failed: ${failed[*]}" >&2)
	exit 1
fi
