#!/usr/bin/env bash
# Sees to the Debian packages that the tests need: installs what is missing as root, else says how to.
set -euo pipefail

missing=()
command -v openssl >/dev/null || missing+=(openssl)
command -v node >/dev/null || missing+=(nodejs)
command -v npm >/dev/null || missing+=(npm)
command -v ps >/dev/null || missing+=(procps)
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
