// Packs the matrices and cuts a product into tiles; the portable tile.
#include "products.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>

namespace kvquilt::products {
namespace {

// Rows of x that are rounded at a time: they stay in the cache.
constexpr size_t kBlock = 96;
constexpr size_t kRowsPortable = 4;

Words allocate(size_t count) {
  return Words(static_cast<uint16_t*>(::operator new[](count * sizeof(uint16_t), std::align_val_t{64})));
}

// To nearest, ties to even; a NaN stays one.
inline uint32_t rounded_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t nearest = bits + 0x7fffu + (bits >> 16 & 1u);
  return ((bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x400000u : nearest) & 0xffff0000u;
}

void round_portable(const float* x, size_t count, float* rounded) {
  for (size_t i = 0; i < count; ++i) {
    const uint32_t bits = rounded_bits(x[i]);
    std::memcpy(rounded + i, &bits, sizeof bits);
  }
}

// Vectors that every CPU of this build has.
constexpr size_t kLanes = 4;
typedef float Floats __attribute__((vector_size(16)));
typedef uint32_t Pairs __attribute__((vector_size(16)));

Floats as_floats(Pairs bits) {
  Floats floats;
  std::memcpy(&floats, &bits, sizeof floats);
  return floats;
}

void tile_portable(const Tile& tile) {
  const auto* x = static_cast<const float*>(tile.x);
  for (size_t row = 0; row < tile.rows; ++row, x += 2 * tile.pairs) {
    for (size_t column = 0; column < tile.columns; column += kVector) {
      const size_t bytes = std::min(kVector, tile.columns - column) * sizeof(float);
      Floats sums[kVector / kLanes] = {};
      if (tile.added.values != nullptr) {
        std::memcpy(sums, tile.added.values + row * tile.added.stride + column, bytes);
      }
      const uint16_t* from = tile.panel + 2 * column;
      for (size_t pair = 0; pair < tile.pairs; ++pair, from += 2 * tile.width) {
        for (size_t i = 0; i < kVector / kLanes; ++i) {
          Pairs both;
          std::memcpy(&both, from + 2 * kLanes * i, sizeof both);
          sums[i] += x[2 * pair] * as_floats(both << 16);
          sums[i] += x[2 * pair + 1] * as_floats(both & 0xffff0000u);
        }
      }
      std::memcpy(tile.out + row * tile.out_stride + column, sums, bytes);
    }
  }
}

struct Kernel {
  size_t tile_rows;
  size_t element;  // bytes
  void (*tile)(const Tile&);
};

Kernel kernel_of([[maybe_unused]] rans::Isa isa) {
#if defined(__x86_64__)
  if (isa == rans::Isa::avx512 && __builtin_cpu_supports("avx512bf16")) {
    return {kRowsAvx512, sizeof(uint16_t), tile_avx512};
  }
  if (isa != rans::Isa::portable && __builtin_cpu_supports("fma")) {
    return {kRowsAvx2, sizeof(float), tile_avx2};
  }
#endif
  return {kRowsPortable, sizeof(float), tile_portable};
}

// Rows of x as the kernel takes them, padded to whole pairs.
void round_rows(const Kernel& kernel, const float* x, size_t rows, size_t width, uint16_t* to) {
  const size_t padded = width + width % 2;
  for (size_t row = 0; row < rows; ++row, x += width) {
#if defined(__x86_64__)
    if (kernel.element == sizeof(uint16_t)) {
      to[padded - 1] = 0;
      round_avx512(x, width, to);
      to += padded;
      continue;
    }
#endif
    auto* floats = reinterpret_cast<float*>(to);
    floats[padded - 1] = 0.0f;
    round_portable(x, width, floats);
    to += padded * kernel.element / sizeof(uint16_t);
  }
}

}  // namespace

Matrix::Matrix(const float* values, size_t rows, size_t columns)
    : rows(rows), columns(columns), pairs(rows / 2 + rows % 2), padded_((columns + kVector - 1) / kVector * kVector) {
  if (rows == 0 || columns == 0) {
    throw std::invalid_argument("expected a matrix of at least one row and one column");
  }
  if (pairs > std::numeric_limits<size_t>::max() / 8 / padded_) {
    throw std::invalid_argument("expected a matrix that memory can hold");
  }
  packed_ = allocate(2 * pairs * padded_);
  std::fill_n(packed_.get(), 2 * pairs * padded_, uint16_t{0});
  for (size_t row = 0; row < rows; ++row) {
    for (size_t column = 0; column < columns; ++column) {
      const size_t begin = column / kPanel * kPanel;
      const size_t at = 2 * (pairs * begin + row / 2 * width(begin) + column - begin) + row % 2;
      packed_[at] = static_cast<uint16_t>(rounded_bits(values[row * columns + column]) >> 16);
    }
  }
}

void multiply(rans::Isa isa, const float* x, size_t x_rows, const Matrix& matrix, const Added& added, float* out) {
  const Kernel kernel = kernel_of(isa);
  const size_t row_words = 2 * matrix.pairs * kernel.element / sizeof(uint16_t);
  const Words rounded = allocate(std::min(kBlock, x_rows) * row_words);
  for (size_t block = 0; block < x_rows; block += kBlock) {
    const size_t block_rows = std::min(kBlock, x_rows - block);
    round_rows(kernel, x + block * matrix.rows, block_rows, matrix.rows, rounded.get());
    for (size_t column = 0; column < matrix.columns; column += kPanel) {
      for (size_t row = 0; row < block_rows; row += kernel.tile_rows) {
        const size_t at = block + row;
        const float* start = added.values == nullptr ? nullptr : added.values + at * added.stride + column;
        kernel.tile({rounded.get() + row * row_words, std::min(kernel.tile_rows, block_rows - row), matrix.pairs,
                     matrix.panel(column), matrix.width(column), std::min(kPanel, matrix.columns - column),
                     {start, added.stride}, out + at * matrix.columns + column, matrix.columns});
      }
    }
  }
}

}  // namespace kvquilt::products
