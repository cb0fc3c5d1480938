#if defined(__x86_64__)

#include "rans_avx512.hpp"

namespace kvquilt::rans {
namespace avx512 {
namespace {

// Where the symbols of 32 lanes start, and their frequencies.
struct Interval {
  __m512i start;
  __m512i frequency;
};

// Alphabets up to 16: a tree of selections by the symbol's bits. It chooses the start of the symbol from starts 0 to
// n - 1, and its end from starts 1 to n.
template <int kThresholds, bool kContexts>
struct Select {
  static constexpr int kLeaves = kThresholds < 4 ? 4 : kThresholds + 1;
  alignas(64) uint16_t starts[(kContexts ? kMaxContexts : 1) * kThresholds * kMaxLanes];

  KVQUILT_AVX512_INLINE void prepare(const Group& group) { arrange(group.tables.starts, group, kThresholds, starts); }

  KVQUILT_AVX512_INLINE Interval find(const Group& group, size_t vector, const Contexts<kContexts>& contexts,
                                      __m512i symbol) const {
    const size_t stride = group.lanes * kThresholds;
    __m512i bound[kLeaves + 1];
    bound[0] = _mm512_setzero_si512();
#pragma GCC unroll 16
    for (int k = 1; k <= kLeaves; ++k) {
      bound[k] = k <= kThresholds
                     ? contexts.select(starts + (vector * kThresholds + k - 1) * kWidth, stride, group.contexts)
                     : _mm512_set1_epi16(kTotal);
    }
    __m512i end[kLeaves];
    __m512i start[kLeaves];
#pragma GCC unroll 16
    for (int k = 0; k < kLeaves; ++k) {
      start[k] = bound[k];
      end[k] = bound[k + 1];
    }
    int bit = 1;
#pragma GCC unroll 4
    for (int left = kLeaves / 2; left > 0; left /= 2, bit *= 2) {
      const __mmask32 upper = _mm512_test_epi16_mask(symbol, _mm512_set1_epi16(static_cast<int16_t>(bit)));
#pragma GCC unroll 8
      for (int k = 0; k < left; ++k) {
        start[k] = _mm512_mask_mov_epi16(start[2 * k], upper, start[2 * k + 1]);
        end[k] = _mm512_mask_mov_epi16(end[2 * k], upper, end[2 * k + 1]);
      }
    }
    return {start[0], _mm512_sub_epi16(end[0], start[0])};
  }
};

// Any alphabet: one gather for every 16 lanes from the tables of entries.
template <bool kContexts>
struct Gather {
  alignas(64) uint16_t ids[(kContexts ? kMaxContexts : 1) * kMaxLanes];

  KVQUILT_AVX512_INLINE void prepare(const Group& group) { arrange_ids(group, ids); }

  KVQUILT_AVX512_INLINE Interval find(const Group& group, size_t vector, const Contexts<kContexts>& contexts,
                                      __m512i symbol) const {
    const uint32_t* intervals = &group.tables.entries.data()->interval;
    const __m512i table = contexts.select(ids + vector * kWidth, group.lanes, group.contexts);
    const __m512i alphabet = _mm512_set1_epi16(static_cast<int16_t>(group.tables.alphabet));
    const __m512i entry = _mm512_add_epi16(_mm512_mullo_epi16(table, alphabet), symbol);  // below 65 * 256
    const __m512i evens = even(entry);
    const __m512i odds = odd(entry);
    const __m512i even_entries = _mm512_i32gather_epi32(_mm512_add_epi32(evens, evens), intervals, 8);
    const __m512i odd_entries = _mm512_i32gather_epi32(_mm512_add_epi32(odds, odds), intervals, 8);
    return {high_halves(even_entries, odd_entries), low_halves(even_entries, odd_entries)};
  }
};

template <Kind kind>
struct Reader {
  __m512 inverse;
  __m512i largest;

  KVQUILT_AVX512_INLINE void prepare(const Group& group, float scale) {
    inverse = _mm512_set1_ps(scale);
    largest = _mm512_set1_epi32(static_cast<int>((group.tables.alphabet - 2) / 2));
  }

  // `quantise` and `symbol_of` of 16 values. Maximum and minimum take their second operand if one is a NaN.
  KVQUILT_AVX512_INLINE __m512i quantised(const float* from) const {
    const __m512 limit = _mm512_set1_ps(static_cast<float>(kLargestQuantum));
    const __m512 product = _mm512_mul_ps(_mm512_loadu_ps(from), inverse);
    const __m512 above = _mm512_max_ps(product, _mm512_set1_ps(-static_cast<float>(kLargestQuantum)));
    const __m512i quantum =
        _mm512_cvt_roundps_epi32(_mm512_min_ps(above, limit), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512i escape = _mm512_add_epi32(_mm512_add_epi32(largest, largest), _mm512_set1_epi32(1));
    return _mm512_min_epu32(_mm512_add_epi32(quantum, largest), escape);
  }

  KVQUILT_AVX512_INLINE __m512i read(const void* data, size_t at) const {
    if constexpr (kind == Kind::symbols) {
      const uint8_t* from = static_cast<const uint8_t*>(data) + at;
      return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    } else {
      const float* from = static_cast<const float*>(data) + at;
      const __m256i first = _mm512_cvtepi32_epi16(quantised(from));
      const __m256i second = _mm512_cvtepi32_epi16(quantised(from + 16));
      return _mm512_inserti64x4(_mm512_castsi256_si512(first), second, 1);
    }
  }
};

// ((x / f) << 11) + x % f + c of 16 states below f * 2^21, exactly. The reciprocal is made too small by 2^-22 of
// itself, which is more than the roundings of its Newton step, of x and of the product together (3.1 * 2^-24), so that
// the quotient is the right one or one less, and the remainder says which. Checked once for the first and the last
// state of every quotient of every frequency; in between nothing can differ, since every operation is monotonic.
KVQUILT_AVX512_INLINE __m512i step(__m512i state, __m512i frequency, __m512i start) {
  const __m512 divisor = _mm512_cvtepi32_ps(frequency);
  const __m512 estimate = _mm512_rcp14_ps(divisor);
  const __m512 error = _mm512_fnmadd_ps(divisor, estimate, _mm512_set1_ps(1.0f - 0x1p-22f));
  const __m512 reciprocal = _mm512_fmadd_ps(estimate, error, estimate);
  const __m512i quotient = _mm512_cvttps_epi32(_mm512_mul_ps(_mm512_cvtepu32_ps(state), reciprocal));
  const __m512i remainder = _mm512_sub_epi32(state, _mm512_mullo_epi32(quotient, frequency));
  const __mmask16 one_less = _mm512_cmpge_epu32_mask(remainder, frequency);
  const __m512i next = _mm512_add_epi32(_mm512_slli_epi32(quotient, kBits), _mm512_add_epi32(remainder, start));
  const __m512i correction = _mm512_sub_epi32(_mm512_set1_epi32(kTotal), frequency);
  return _mm512_mask_add_epi32(next, one_less, next, correction);
}

// From element n on: the indices that rotate n elements at the bottom of a vector to its top.
struct Rotations {
  alignas(64) uint16_t indices[2 * kWidth];

  constexpr Rotations() : indices() {
    for (size_t i = 0; i < 2 * kWidth; ++i) {
      indices[i] = static_cast<uint16_t>(i % kWidth);
    }
  }
};

constexpr Rotations kRotations;

template <int kVectors, bool kContexts, typename Search, typename Read>
KVQUILT_AVX512 uint8_t* encode_tokens(const Group& group, const GroupInput& input, uint8_t* end, const Search& search,
                                      const Read& reader) {
  __m512i high[kVectors];
  __m512i low[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    load_states(group.states + v * kWidth, high[v], low[v]);
  }
  for (size_t token = group.tokens; token-- > 0;) {
#pragma GCC unroll 4
    for (int v = kVectors - 1; v >= 0; --v) {
      Contexts<kContexts> contexts;
      if constexpr (kContexts) {
        contexts.read(group.context + token * group.context_stride + v * kWidth, group.contexts);
      }
      const __m512i symbol = reader.read(input.data, token * input.stride + v * kWidth);
      const Interval interval = search.find(group, v, contexts, symbol);
      const __mmask32 full = _mm512_cmpge_epu16_mask(_mm512_srli_epi16(high[v], 16 - kBits), interval.frequency);
      // The words end at `end`: they are packed at the bottom of a vector, then rotated to its top. (Storing a mask's
      // elements only would be slower.)
      const size_t count = static_cast<size_t>(_mm_popcnt_u32(full));
      const __m512i packed = _mm512_maskz_compress_epi16(full, low[v]);
      _mm512_storeu_si512(end - 64, _mm512_permutexvar_epi16(load(kRotations.indices + count), packed));
      end -= 2 * count;
      const __m512i rest_low = _mm512_mask_mov_epi16(low[v], full, high[v]);
      const __m512i rest_high = _mm512_mask_mov_epi16(high[v], full, _mm512_setzero_si512());
      const __m512i evens = step(low_halves(rest_low, rest_high), even(interval.frequency), even(interval.start));
      const __m512i odds = step(high_halves(rest_low, rest_high), odd(interval.frequency), odd(interval.start));
      low[v] = low_halves(evens, odds);
      high[v] = high_halves(evens, odds);
    }
  }
  for (int v = 0; v < kVectors; ++v) {
    store_states(high[v], low[v], group.states + v * kWidth);
  }
  return end;
}

template <Kind kind, typename Search, bool kContexts>
KVQUILT_AVX512 uint8_t* encode_with(const Group& group, const GroupInput& input, uint8_t* end) {
  Search search;
  search.prepare(group);
  Reader<kind> reader;
  reader.prepare(group, input.inverse);
  switch (group.lanes) {
    case 32:
      return encode_tokens<1, kContexts>(group, input, end, search, reader);
    case 64:
      return encode_tokens<2, kContexts>(group, input, end, search, reader);
    default:
      return encode_tokens<4, kContexts>(group, input, end, search, reader);
  }
}

template <Kind kind>
uint8_t* encode_kind(const Group& group, const GroupInput& input, uint8_t* end) {
  const size_t alphabet = group.tables.alphabet;
  if (group.context == nullptr) {
    if (alphabet <= 4) {
      return encode_with<kind, Select<3, false>, false>(group, input, end);
    }
    if (alphabet <= 8) {
      return encode_with<kind, Select<7, false>, false>(group, input, end);
    }
    if (alphabet <= 16) {
      return encode_with<kind, Select<15, false>, false>(group, input, end);
    }
    return encode_with<kind, Gather<false>, false>(group, input, end);
  }
  if constexpr (kind == Kind::symbols) {
    if (group.contexts <= kMaxContexts) {
      return alphabet <= 3 ? encode_with<kind, Select<2, true>, true>(group, input, end)
                           : encode_with<kind, Gather<true>, true>(group, input, end);
    }
  }
  return encode_group_portable(group, input, end);
}

}  // namespace
}  // namespace avx512

uint8_t* encode_group_avx512(const Group& group, const GroupInput& input, uint8_t* end) {
  return input.kind == Kind::symbols ? avx512::encode_kind<Kind::symbols>(group, input, end)
                                     : avx512::encode_kind<Kind::words32>(group, input, end);
}

}  // namespace kvquilt::rans

#endif
