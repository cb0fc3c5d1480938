// What decoder and encoder share on AVX-512. Vectors hold 32 lanes as 16-bit elements: a state is a pair of them, its
// high and its low halves. Functions carry the target attribute themselves: a flag for the whole file would let the
// linker take its copy of some inline function of the standard library for the rest of the module too.
#pragma once

#include <immintrin.h>

#include "rans_group.hpp"

#define KVQUILT_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi2,popcnt")))
#define KVQUILT_AVX512_INLINE KVQUILT_AVX512 __attribute__((always_inline)) inline

namespace kvquilt::rans::avx512 {

constexpr size_t kWidth = 32;
// With more contexts the portable code does the work.
constexpr size_t kMaxContexts = 8;

KVQUILT_AVX512_INLINE __m512i load(const void* from) { return _mm512_loadu_si512(from); }

// Elements 0, 2, 4, ... of 16 bits, widened to 32; and 1, 3, 5, ...
KVQUILT_AVX512_INLINE __m512i even(__m512i words) { return _mm512_and_si512(words, _mm512_set1_epi32(0xffff)); }
KVQUILT_AVX512_INLINE __m512i odd(__m512i words) { return _mm512_srli_epi32(words, 16); }

// The low or the high halves of the even and odd elements, in order again.
KVQUILT_AVX512_INLINE __m512i low_halves(__m512i evens, __m512i odds) {
  return _mm512_mask_blend_epi16(0xaaaaaaaau, evens, _mm512_slli_epi32(odds, 16));
}
KVQUILT_AVX512_INLINE __m512i high_halves(__m512i evens, __m512i odds) {
  return _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(evens, 16), odds);
}

KVQUILT_AVX512_INLINE void load_states(const uint32_t* states, __m512i& high, __m512i& low) {
  alignas(64) uint16_t halves[2][kWidth];
  for (size_t i = 0; i < kWidth; ++i) {
    halves[0][i] = static_cast<uint16_t>(states[i] >> 16);
    halves[1][i] = static_cast<uint16_t>(states[i]);
  }
  high = load(halves[0]);
  low = load(halves[1]);
}

KVQUILT_AVX512_INLINE void store_states(__m512i high, __m512i low, uint32_t* states) {
  alignas(64) uint16_t halves[2][kWidth];
  _mm512_store_si512(halves[0], high);
  _mm512_store_si512(halves[1], low);
  for (size_t i = 0; i < kWidth; ++i) {
    states[i] = static_cast<uint32_t>(halves[0][i]) << 16 | halves[1][i];
  }
}

// Which of 32 lanes have each context from 1 on; without contexts, none.
template <bool kContexts>
struct Contexts {
  __mmask32 is[kMaxContexts];

  KVQUILT_AVX512_INLINE void read(const uint8_t* from, size_t contexts) {
    if constexpr (kContexts) {
      const __m256i context = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
      for (size_t i = 1; i < contexts; ++i) {
        is[i] = _mm256_cmpeq_epi8_mask(context, _mm256_set1_epi8(static_cast<char>(i)));
      }
    }
  }

  // One vector a context, `stride` elements apart: for each lane that of its context.
  KVQUILT_AVX512_INLINE __m512i select(const uint16_t* vectors, size_t stride, size_t contexts) const {
    __m512i result = load(vectors);
    if constexpr (kContexts) {
      for (size_t i = 1; i < contexts; ++i) {
        result = _mm512_mask_mov_epi16(result, is[i], load(vectors + i * stride));
      }
    }
    return result;
  }
};

// Thresholds as [contexts][lanes / 32][thresholds][32]: the columns' 64 tables and the idle one, permuted by table ids.
KVQUILT_AVX512_INLINE void arrange(const std::vector<uint16_t>& columns, const Group& group, size_t thresholds,
                                   uint16_t* out) {
  const __mmask32 all = 0xffffffffu;
  for (size_t context = 0; context < group.contexts; ++context) {
    for (size_t first = 0; first < group.lanes; first += kWidth) {
      const uint8_t* from = group.ids + context * kMaxLanes + first;
      const __m512i ids = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
      // A permutation takes the low six bits: id 64 can only be that of idle lanes.
      const __mmask32 idle = _mm512_mask_cmpeq_epi16_mask(all, ids, _mm512_set1_epi16(kMaxTables));
      for (size_t k = 0; k < thresholds; ++k, out += kWidth) {
        const uint16_t* column = columns.data() + k * Tables::kColumn;
        const __m512i values = _mm512_permutex2var_epi16(load(column), ids, load(column + kWidth));
        const __m512i of_idle = _mm512_set1_epi16(static_cast<int16_t>(column[kMaxTables]));
        _mm512_store_si512(out, _mm512_mask_mov_epi16(values, idle, of_idle));
      }
    }
  }
}

// Table ids as 16-bit elements, [contexts][lanes].
KVQUILT_AVX512_INLINE void arrange_ids(const Group& group, uint16_t* out) {
  for (size_t context = 0; context < group.contexts; ++context) {
    for (size_t lane = 0; lane < group.lanes; ++lane) {
      *out++ = group.ids[context * kMaxLanes + lane];
    }
  }
}

}  // namespace kvquilt::rans::avx512
