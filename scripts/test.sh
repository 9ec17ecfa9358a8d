#!/usr/bin/env bash
# Checks and tests all there is; what is given goes to pytest (scripts/test.sh tests/unit -k cursor).
# With --v2 as the first argument: only the tests that need cgroup v2 (scripts/test.sh --v2 -k memory).
set -euo pipefail
cd "$(dirname "$0")/.."

only_v2=()
if [ "${1:-}" = --v2 ]; then
	only_v2=(--required)
	shift
fi

marks="not long" arguments=()
while [ $# -gt 0 ]; do
	case $1 in
	-m) marks=${2:?-m needs an expression} && shift ;;
	-m?*) marks=${1#-m} ;;
	*) arguments+=("$1") ;;
	esac
	shift
done

scripts/venv.sh dev
normal=5 v2=0 # 5: nothing was selected (pytest)
if [ ${#only_v2[@]} = 0 ]; then
	scripts/node.sh
	scripts/check.sh
	echo "== testing"
	.venv/bin/python -m pytest -q --color=no -n 2 --dist worksteal \
		-m "($marks) and not v2 and not systemd" "${arguments[@]}" && normal=0 || normal=$?
fi
.venv/bin/python -m tests.bed.run "${only_v2[@]}" -m "($marks) and v2" "${arguments[@]}" || v2=$?

[ "$normal" = 0 ] || [ "$normal" = 5 ] || exit "$normal"
[ "$v2" = 5 ] && exit "$normal"
exit "$v2"
