#!/usr/bin/env bash
# Sees to tests/e2e/node/node_modules: the Node client's packages and buf, as package-lock.json says.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/ensure-packages.sh
cd tests/e2e/node
exec 9<package-lock.json
flock 9

stamp=node_modules/.installed
wanted=$(sha256sum <package-lock.json)
[ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || exit 0
echo "== installing the Node packages"
npm ci --ignore-scripts --no-audit --no-fund --no-update-notifier --loglevel=error >/dev/null
echo "$wanted" >"$stamp"
