#!/usr/bin/env bash
# Fails if the committed stubs are not what the .proto files generate.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
"$here/generate.sh" "$scratch" 2>"$scratch/log" || { cat "$scratch/log"; exit 1; }
for made in "$scratch"/kvquilt_proto/v1/*; do
  cmp "$made" "$here/kvquilt_proto/v1/$(basename "$made")" || { echo "stubs differ: run make proto"; exit 1; }
done
echo "stubs match the .proto files"
