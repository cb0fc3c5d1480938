#!/usr/bin/env bash
# Generates the Python stubs from proto/kvquilt_proto/v1/*.proto into DIR (default: beside the .proto files).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here}
python=${PYTHON:-python3}
export PATH="$(dirname "$(command -v "$python")"):$PATH"   # the mypy-protobuf plug-ins live beside the interpreter
"$python" -m grpc_tools.protoc -I "$here" --python_out="$out" --grpc_python_out="$out" --mypy_out="$out" \
  --mypy_grpc_out="$out" "$here"/kvquilt_proto/v1/*.proto
