#include "int8.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

namespace kvquilt {
namespace {

float scale_from_bits(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

// The smallest bfloat16 at or above a non-negative float: with a scale rounded down, the largest value of the row
// would need a code above 127.
uint16_t bfloat16_at_or_above(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t truncated = bits >> 16;
  const uint32_t rounded = (bits & 0xffffu) != 0 ? truncated + 1 : truncated;
  return static_cast<uint16_t>(std::min(rounded, 0x7f7fu));
}

}  // namespace

void quantise_rows(const float* values, size_t rows, size_t width, int8_t* codes, uint16_t* scales) {
  for (size_t row = 0; row < rows; ++row) {
    const float* in = values + row * width;
    int8_t* out = codes + row * width;
    float largest = 0.0f;
    for (size_t i = 0; i < width; ++i) {
      largest = std::max(largest, std::fabs(in[i]));
    }
    scales[row] = bfloat16_at_or_above(largest / 127.0f);
    const float scale = scale_from_bits(scales[row]);
    for (size_t i = 0; i < width; ++i) {
      // A row of zeros has scale 0: its codes are 0.
      const float code = scale == 0.0f ? 0.0f : std::nearbyint(in[i] / scale);
      out[i] = static_cast<int8_t>(std::clamp(code, -127.0f, 127.0f));
    }
  }
}

void dequantise_rows(const int8_t* codes, const uint16_t* scales, size_t rows, size_t width, float* values) {
  for (size_t row = 0; row < rows; ++row) {
    const float scale = scale_from_bits(scales[row]);
    const int8_t* in = codes + row * width;
    float* out = values + row * width;
    for (size_t i = 0; i < width; ++i) {
      out[i] = static_cast<float>(in[i]) * scale;
    }
  }
}

}  // namespace kvquilt
