// What decoder and encoder share on AVX2: as rans_avx512.hpp, with vectors of 16 lanes and whole elements as masks.
#pragma once

#include <immintrin.h>

#include "rans_group.hpp"

#define KVQUILT_AVX2 __attribute__((target("avx2,popcnt")))
#define KVQUILT_AVX2_INLINE KVQUILT_AVX2 __attribute__((always_inline)) inline

namespace kvquilt::rans::avx2 {

constexpr size_t kWidth = 16;
// With more contexts the portable code does the work.
constexpr size_t kMaxContexts = 8;
constexpr size_t kMaxVectors = kMaxLanes / kWidth;

KVQUILT_AVX2_INLINE __m256i load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
KVQUILT_AVX2_INLINE __m128i load_words(const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); }
KVQUILT_AVX2_INLINE void store_words(void* to, __m128i words) { _mm_storeu_si128(static_cast<__m128i*>(to), words); }
KVQUILT_AVX2_INLINE void store(void* to, __m256i value) { _mm256_storeu_si256(static_cast<__m256i*>(to), value); }

KVQUILT_AVX2_INLINE __m256i select(__m256i otherwise, __m256i mask, __m256i chosen) {
  return _mm256_blendv_epi8(otherwise, chosen, mask);
}

// Elements 0, 2, 4, ... of 16 bits, widened to 32; and 1, 3, 5, ...
KVQUILT_AVX2_INLINE __m256i even(__m256i words) { return _mm256_and_si256(words, _mm256_set1_epi32(0xffff)); }
KVQUILT_AVX2_INLINE __m256i odd(__m256i words) { return _mm256_srli_epi32(words, 16); }

// The low or the high halves of the even and odd elements, in order again.
KVQUILT_AVX2_INLINE __m256i low_halves(__m256i evens, __m256i odds) {
  return _mm256_blend_epi16(evens, _mm256_slli_epi32(odds, 16), 0xaa);
}
KVQUILT_AVX2_INLINE __m256i high_halves(__m256i evens, __m256i odds) {
  return _mm256_blend_epi16(_mm256_srli_epi32(evens, 16), odds, 0xaa);
}

// A bit for each of 16 elements of a mask.
KVQUILT_AVX2_INLINE uint32_t bits_of(__m256i mask) {
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(mask), _mm256_extracti128_si256(mask, 1));
  return static_cast<uint32_t>(_mm_movemask_epi8(bytes));
}

// States of all lanes in halves.
struct States {
  alignas(32) uint16_t high[kMaxLanes];
  alignas(32) uint16_t low[kMaxLanes];

  KVQUILT_AVX2_INLINE void read(const uint32_t* states, size_t lanes) {
    for (size_t i = 0; i < lanes; ++i) {
      high[i] = static_cast<uint16_t>(states[i] >> 16);
      low[i] = static_cast<uint16_t>(states[i]);
    }
  }

  KVQUILT_AVX2_INLINE void write(uint32_t* states, size_t lanes) const {
    for (size_t i = 0; i < lanes; ++i) {
      states[i] = static_cast<uint32_t>(high[i]) << 16 | low[i];
    }
  }
};

// Which of 16 lanes have each context from 1 on; without contexts, none.
template <bool kContexts>
struct Contexts {
  __m256i is[kContexts ? kMaxContexts : 1];

  KVQUILT_AVX2_INLINE void read(const uint8_t* from, size_t contexts) {
    const __m256i context = _mm256_cvtepu8_epi16(load_words(from));
    for (size_t i = 1; i < contexts; ++i) {
      is[i] = _mm256_cmpeq_epi16(context, _mm256_set1_epi16(static_cast<int16_t>(i)));
    }
  }

  // One vector a context, `stride` elements apart: for each lane that of its context.
  KVQUILT_AVX2_INLINE __m256i choose(const uint16_t* vectors, size_t stride, size_t contexts) const {
    __m256i result = load(vectors);
    if constexpr (kContexts) {
      for (size_t i = 1; i < contexts; ++i) {
        result = select(result, is[i], load(vectors + i * stride));
      }
    }
    return result;
  }
};

// Thresholds as [contexts][lanes / 16][thresholds][16].
KVQUILT_AVX2_INLINE void arrange(const std::vector<uint16_t>& columns, const Group& group, size_t thresholds,
                                 uint16_t* out) {
  for (size_t context = 0; context < group.contexts; ++context) {
    for (size_t first = 0; first < group.lanes; first += kWidth) {
      const uint8_t* ids = group.ids + context * kMaxLanes + first;
      for (size_t k = 0; k < thresholds; ++k) {
        for (size_t i = 0; i < kWidth; ++i) {
          *out++ = columns[k * Tables::kColumn + ids[i]];
        }
      }
    }
  }
}

// Table ids as 16-bit elements, [contexts][lanes].
KVQUILT_AVX2_INLINE void arrange_ids(const Group& group, uint16_t* out) {
  for (size_t context = 0; context < group.contexts; ++context) {
    for (size_t lane = 0; lane < group.lanes; ++lane) {
      *out++ = group.ids[context * kMaxLanes + lane];
    }
  }
}

// Byte shuffles of eight words for each set of them: `expand` moves the first words to the places of the set and zeros
// to the others, `compress` moves the words of the set to the top.
struct Shuffles {
  alignas(16) uint8_t expand[256][16];
  alignas(16) uint8_t compress[256][16];

  constexpr Shuffles() : expand(), compress() {
    for (unsigned set = 0; set < 256; ++set) {
      unsigned size = 0;
      for (unsigned i = 0; i < 8; ++i) {
        size += (set >> i) & 1u;
      }
      unsigned rank = 0;
      for (unsigned i = 0; i < 8; ++i) {
        const bool member = ((set >> i) & 1u) != 0;
        for (unsigned byte = 0; byte < 2; ++byte) {
          expand[set][2 * i + byte] = static_cast<uint8_t>(member ? 2 * rank + byte : 0x80);
          if (member) {
            compress[set][2 * (8 - size + rank) + byte] = static_cast<uint8_t>(2 * i + byte);
          }
        }
        rank += member ? 1 : 0;
      }
    }
  }
};

inline constexpr Shuffles kShuffles;

KVQUILT_AVX2_INLINE __m128i shuffled(__m128i words, const uint8_t* shuffle) {
  return _mm_shuffle_epi8(words, _mm_load_si128(reinterpret_cast<const __m128i*>(shuffle)));
}

}  // namespace kvquilt::rans::avx2
