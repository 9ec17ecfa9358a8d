#!/usr/bin/env bash
# Tests jobd under a real systemd: a Debian of its own (build/debian, made once) that boots in a guest (tests/bed).
set -euo pipefail
cd "$(dirname "$0")/.."

tree=$PWD/build/debian
packages=systemd,systemd-sysv,dbus,dbus-user-session,libpam-systemd,iproute2,procps,kmod,polkitd,python3,bubblewrap
if [ "$(cat "$tree/.made" 2>/dev/null)" != "$packages" ]; then
	[ "$(id -u)" = 0 ] || {
		echo "cannot make $tree: debootstrap needs root" >&2
		exit 1
	}
	scripts/ensure-packages.sh systemd
	echo "== making a Debian with systemd in build/debian (300 MB, some minutes)"
	rm -rf "$tree"
	mkdir -p build
	debootstrap --variant=minbase --include="$packages" bookworm "$tree" >build/debootstrap.log || {
		tail -n 20 build/debootstrap.log >&2
		exit 1
	}
	echo "$packages" >"$tree/.made"
fi
scripts/ensure-packages.sh guest
scripts/venv.sh dev
echo "== testing under systemd, in a guest"
exec .venv/bin/python -m tests.bed.uml --root "$tree" --systemd --timeout 1200 \
	--ro "$PWD" --ro "$(.venv/bin/python -c 'import sys; print(sys.base_prefix)')" \
	-- sh -c 'cd "$1" && shift && exec .venv/bin/python -m pytest -v --no-header -p no:cacheprovider -n0 -m systemd \
		-o timeout=600 tests/systemd "$@"' sh "$PWD" "$@"
