#if defined(__x86_64__)

#include <immintrin.h>

#include <cstring>
#include <utility>

#include "products.hpp"

#define KVQUILT_BF16 __attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16")))

namespace kvquilt::products {
namespace {

// All sums stay in registers: 8 x 3 of the 32.
template <size_t kRows, size_t kVectors>
KVQUILT_BF16 void tile_of(const Tile& tile) {
  const auto* x = static_cast<const uint16_t*>(tile.x);
  const size_t in_last = tile.columns - (kVectors - 1) * kVector;
  const auto last = static_cast<__mmask16>((1u << in_last) - 1);
  __m512 sums[kRows][kVectors];
#pragma GCC unroll 8
  for (size_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 3
    for (size_t i = 0; i < kVectors; ++i) {
      const __mmask16 mask = i + 1 < kVectors ? static_cast<__mmask16>(0xffff) : last;
      sums[row][i] = tile.added.values == nullptr
                         ? _mm512_setzero_ps()
                         : _mm512_maskz_loadu_ps(mask, tile.added.values + row * tile.added.stride + i * kVector);
    }
  }
  const uint16_t* panel = tile.panel;
  for (size_t pair = 0; pair < tile.pairs; ++pair, panel += 2 * kVectors * kVector) {
    __m512i factors[kVectors];
#pragma GCC unroll 3
    for (size_t i = 0; i < kVectors; ++i) {
      factors[i] = _mm512_load_si512(panel + 2 * i * kVector);
    }
#pragma GCC unroll 8
    for (size_t row = 0; row < kRows; ++row) {
      int both;
      std::memcpy(&both, x + 2 * (row * tile.pairs + pair), sizeof both);
      const auto spread = (__m512bh)_mm512_set1_epi32(both);
#pragma GCC unroll 3
      for (size_t i = 0; i < kVectors; ++i) {
        sums[row][i] = _mm512_dpbf16_ps(sums[row][i], spread, (__m512bh)factors[i]);
      }
    }
  }
#pragma GCC unroll 8
  for (size_t row = 0; row < kRows; ++row) {
#pragma GCC unroll 3
    for (size_t i = 0; i < kVectors; ++i) {
      const __mmask16 mask = i + 1 < kVectors ? static_cast<__mmask16>(0xffff) : last;
      _mm512_mask_storeu_ps(tile.out + row * tile.out_stride + i * kVector, mask, sums[row][i]);
    }
  }
}

using Kernel = void (*)(const Tile&);

template <size_t... kRows>
void run(const Tile& tile, std::index_sequence<kRows...>) {
  static constexpr Kernel kKernels[][3] = {{tile_of<kRows + 1, 1>, tile_of<kRows + 1, 2>, tile_of<kRows + 1, 3>}...};
  kKernels[tile.rows - 1][tile.width / kVector - 1](tile);
}

}  // namespace

void tile_avx512(const Tile& tile) { run(tile, std::make_index_sequence<kRowsAvx512>{}); }

KVQUILT_BF16 void round_avx512(const float* x, size_t count, uint16_t* rounded) {
  for (size_t i = 0; i < count; i += kVector) {
    const __mmask16 mask = count - i < kVector ? static_cast<__mmask16>((1u << (count - i)) - 1) : 0xffff;
    const __m256bh words = _mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, x + i));
    _mm256_mask_storeu_epi16(rounded + i, mask, (__m256i)words);
  }
}

}  // namespace kvquilt::products

#endif
