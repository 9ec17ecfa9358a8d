#!/usr/bin/env bash
# Sees to .venv: `scripts/venv.sh runtime` for what jobd and jobc need, `dev` for checks and tests too.
# Does nothing when it is as the lock files say. PYTHON chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

what=${1:?runtime or dev}
stamp=.venv/.installed-$what

# One at a time: a second `make` in this checkout waits for the first.
exec 9<"requirements/$what.lock"
flock 9

# works PYTHON: it starts (a version manager's stand-in may not), is new enough and has all that is needed.
works() {
	"$1" -c 'import sys; assert sys.version_info >= (3, 11); import ensurepip, sqlite3, ssl, venv' 2>/dev/null
}

version() {
	"$1" -c 'import sys; print(*sys.version_info[:3], sep=".")' 2>/dev/null || true
}

choose_python() {
	local candidate
	for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
		if works "$candidate"; then
			echo "$candidate"
			return
		fi
	done
	local tried=${PYTHON:-python3} found
	found=$(version "$tried")
	case $found in
	"") echo "cannot make .venv: there is no $tried; install Python 3.11 or newer (Debian: apt-get install python3-venv)" ;;
	[012].* | 3.[0-9].* | 3.10.*) echo "cannot make .venv: $tried is Python $found, and 3.11 or newer is needed; install one, or name it: make PYTHON=/path/to/python3" ;;
	*) echo "cannot make .venv: $tried (Python $found) lacks one of the modules venv, ensurepip, ssl, sqlite3; install them (Debian: apt-get install python3-venv)" ;;
	esac >&2
	exit 1
}

# What was installed from where: a changed lock file or a moved checkout installs anew.
wanted=$({
	pwd
	cat pyproject.toml "requirements/$what.lock"
} | sha256sum)

if works .venv/bin/python && { [ -z "${PYTHON:-}" ] || [ "$(version "$PYTHON")" = "$(version .venv/bin/python)" ]; }; then
	[ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || exit 0
else
	python=$(choose_python)
	echo "== making .venv with $python ($(version "$python"))"
	rm -rf .venv
	"$python" -m venv .venv
fi

echo "== installing the $what requirements into .venv"
pip=(.venv/bin/python -m pip --quiet --quiet --disable-pip-version-check --no-input)
"${pip[@]}" install --require-hashes -r "requirements/$what.lock"
"${pip[@]}" install --no-deps --no-build-isolation --editable .
rm -f .venv/.installed-*
echo "$wanted" >"$stamp"
if [ "$what" = dev ]; then
	# The dev requirements include the runtime's, in the same versions.
	{
		pwd
		cat pyproject.toml requirements/runtime.lock
	} | sha256sum >.venv/.installed-runtime
fi
