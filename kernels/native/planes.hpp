// Byte planes of rotated floating-point words: see kvquilt_kernels/types.py for the specification.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvquilt {

// `words`: `count` little-endian words of `width` bytes (2 or 4). `planes`: width * count bytes.
void split_planes(const uint8_t* words, size_t count, size_t width, uint8_t* planes);

// The inverse of split_planes.
void merge_planes(const uint8_t* planes, size_t count, size_t width, uint8_t* words);

}  // namespace kvquilt
