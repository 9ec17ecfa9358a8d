#!/usr/bin/env bash
# Writes the Python code of proto/service.proto: into src/, or below the directory that is given.
set -euo pipefail
cd "$(dirname "$0")/.."

out=${1:-src}
room=jobruntime/rpc/gen

mkdir -p "$out/$room"
# The virtual path makes the files import each other as `from jobruntime.rpc.gen import ...`.
.venv/bin/python -m grpc_tools.protoc "-I$room=proto" \
	"--python_out=$out" "--pyi_out=$out" "--grpc_python_out=$out" "$room/service.proto"
