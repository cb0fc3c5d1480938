#!/bin/sh
# Build the kernels with AddressSanitizer and UBSan, decode damaged blocks and floats, and multiply odd matrices: sanitize.sh [CASES [SEED]]
set -eu
cd "$(dirname "$0")"
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
sources="floats.cpp $(ls rans_*.cpp products*.cpp | grep -v bindings)"
for program in fuzz_rans fuzz_floats fuzz_products; do
  # shellcheck disable=SC2086
  "${CXX:-c++}" -std=c++20 -O1 -g -Wall -Wextra -ffp-contract=off -fsanitize=address,undefined,float-cast-overflow \
    -fno-sanitize-recover=all -Wno-maybe-uninitialized "$program.cpp" $sources -o "$folder/$program"
  "$folder/$program" "$@"
done
