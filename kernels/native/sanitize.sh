#!/bin/sh
# Build the entropy coder with AddressSanitizer and UBSan, and decode damaged blocks: sanitize.sh [CASES [SEED]]
set -eu
cd "$(dirname "$0")"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
sources=$(ls rans_*.cpp | grep -v bindings)
# shellcheck disable=SC2086
"${CXX:-c++}" -std=c++20 -O1 -g -Wall -Wextra -ffp-contract=off -fsanitize=address,undefined,float-cast-overflow \
  -fno-sanitize-recover=all -Wno-maybe-uninitialized fuzz_rans.cpp $sources -o "$folder/fuzz_rans"
"$folder/fuzz_rans" "$@"
