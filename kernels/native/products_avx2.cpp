#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>
#include <utility>

#include "products.hpp"

#define KVQUILT_FMA __attribute__((target("avx2,fma")))

namespace kvquilt::products {
namespace {

constexpr size_t kLanes = 8;
constexpr size_t kColumns = 2 * kLanes;

// Up to 16 columns of a tile, all sums in registers: 6 x 2 of the 16.
template <size_t kRows>
KVQUILT_FMA void columns_of(const Tile& tile, size_t column) {
  const auto* x = static_cast<const float*>(tile.x);
  const size_t count = std::min(kColumns, tile.columns - column);
  __m256i masks[2];
  for (size_t i = 0; i < 2; ++i) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    masks[i] = _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count) - static_cast<int>(i * kLanes)), lanes);
  }
  __m256 sums[kRows][2];
#pragma GCC unroll 6
  for (size_t row = 0; row < kRows; ++row) {
    for (size_t i = 0; i < 2; ++i) {
      const float* added = tile.added.values + row * tile.added.stride + column + i * kLanes;
      sums[row][i] = tile.added.values == nullptr ? _mm256_setzero_ps() : _mm256_maskload_ps(added, masks[i]);
    }
  }
  const uint16_t* panel = tile.panel + 2 * column;
  for (size_t pair = 0; pair < tile.pairs; ++pair, panel += 2 * tile.width) {
    const __m256i words[2] = {_mm256_load_si256(reinterpret_cast<const __m256i*>(panel)),
                              _mm256_load_si256(reinterpret_cast<const __m256i*>(panel + kColumns))};
#pragma GCC unroll 2
    for (size_t half = 0; half < 2; ++half) {
      __m256 factors[2];
#pragma GCC unroll 2
      for (size_t i = 0; i < 2; ++i) {
        factors[i] = _mm256_castsi256_ps(half == 0 ? _mm256_slli_epi32(words[i], 16)
                                                   : _mm256_and_si256(words[i], _mm256_set1_epi32(~0xffff)));
      }
#pragma GCC unroll 6
      for (size_t row = 0; row < kRows; ++row) {
        const __m256 spread = _mm256_broadcast_ss(x + 2 * (row * tile.pairs + pair) + half);
#pragma GCC unroll 2
        for (size_t i = 0; i < 2; ++i) {
          sums[row][i] = _mm256_fmadd_ps(spread, factors[i], sums[row][i]);
        }
      }
    }
  }
#pragma GCC unroll 6
  for (size_t row = 0; row < kRows; ++row) {
    for (size_t i = 0; i < 2; ++i) {
      _mm256_maskstore_ps(tile.out + row * tile.out_stride + column + i * kLanes, masks[i], sums[row][i]);
    }
  }
}

using Kernel = void (*)(const Tile&, size_t);

template <size_t... kRows>
void run(const Tile& tile, std::index_sequence<kRows...>) {
  static constexpr Kernel kKernels[] = {columns_of<kRows + 1>...};
  for (size_t column = 0; column < tile.columns; column += kColumns) {
    kKernels[tile.rows - 1](tile, column);
  }
}

}  // namespace

void tile_avx2(const Tile& tile) { run(tile, std::make_index_sequence<kRowsAvx2>{}); }

}  // namespace kvquilt::products

#endif
