// Symmetric int8 quantisation, one scale a row: see kvquilt_kernels/types.py for the specification.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kvquilt {

// `values`: rows x width float32, finite. `codes`: rows x width. `scales`: rows bfloat16 words.
void quantise_rows(const float* values, size_t rows, size_t width, int8_t* codes, uint16_t* scales);

// values = codes * scale of the row, in float32.
void dequantise_rows(const int8_t* codes, const uint16_t* scales, size_t rows, size_t width, float* values);

}  // namespace kvquilt
