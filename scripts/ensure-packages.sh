#!/usr/bin/env bash
# Sees to the Debian packages that the tests need, with `guest` those of a guest with cgroup v2,
# with `systemd` what makes a guest with systemd:
# installs what is missing as root, else says how to.
set -euo pipefail

missing=()
PATH=$PATH:/usr/sbin:/sbin

# need PROGRAM PACKAGE
need() {
	command -v "$1" >/dev/null || missing+=("$2")
}

case ${1:-tests} in
tests)
	need openssl openssl
	need node nodejs
	need npm npm
	need ps procps
	need bwrap bubblewrap
	;;
guest) # tests/bed
	need linux.uml user-mode-linux
	need mkfs.ext4 e2fsprogs
	need dmsetup dmsetup
	;;
systemd) # scripts/test-systemd.sh
	need debootstrap debootstrap
	;;
esac
[ ${#missing[@]} -gt 0 ] || exit 0

if ! command -v apt-get >/dev/null; then
	echo "cannot install ${missing[*]}: there is no apt-get; install them by this system's own means" >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "cannot install ${missing[*]} without root: run 'sudo apt-get update && sudo apt-get install --yes --no-install-recommends ${missing[*]}'" >&2
	exit 1
fi
echo "== installing Debian packages: ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install --yes --no-install-recommends "${missing[@]}" >/dev/null
