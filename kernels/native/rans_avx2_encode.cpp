#if defined(__x86_64__)

#include "rans_avx2.hpp"

namespace kvquilt::rans {
namespace avx2 {
namespace {

// Where the symbols of 16 lanes start, and their frequencies.
struct Interval {
  __m256i start;
  __m256i frequency;
};

// Alphabets up to 16: a tree of selections by the symbol's bits, see rans_avx512_encode.cpp.
template <int kThresholds, bool kContexts>
struct Select {
  static constexpr int kLeaves = kThresholds < 4 ? 4 : kThresholds + 1;
  alignas(32) uint16_t starts[(kContexts ? kMaxContexts : 1) * kThresholds * kMaxLanes];

  KVQUILT_AVX2_INLINE void prepare(const Group& group) { arrange(group.tables.starts, group, kThresholds, starts); }

  KVQUILT_AVX2_INLINE Interval find(const Group& group, size_t vector, const Contexts<kContexts>& contexts,
                                    __m256i symbol) const {
    const size_t stride = group.lanes * kThresholds;
    __m256i start[kLeaves];
    __m256i end[kLeaves];
    start[0] = _mm256_setzero_si256();
#pragma GCC unroll 16
    for (int k = 1; k <= kLeaves; ++k) {
      end[k - 1] = k <= kThresholds
                       ? contexts.choose(starts + (vector * kThresholds + k - 1) * kWidth, stride, group.contexts)
                       : _mm256_set1_epi16(kTotal);
      if (k < kLeaves) {
        start[k] = end[k - 1];
      }
    }
    int bit = 0;
#pragma GCC unroll 4
    for (int left = kLeaves / 2; left > 0; left /= 2, ++bit) {
      const __m256i upper = _mm256_srai_epi16(_mm256_slli_epi16(symbol, 15 - bit), 15);
#pragma GCC unroll 8
      for (int k = 0; k < left; ++k) {
        start[k] = select(start[2 * k], upper, start[2 * k + 1]);
        end[k] = select(end[2 * k], upper, end[2 * k + 1]);
      }
    }
    return {start[0], _mm256_sub_epi16(end[0], start[0])};
  }
};

// Any alphabet: one gather for every 8 lanes from the tables of entries.
template <bool kContexts>
struct Gather {
  alignas(32) uint16_t ids[(kContexts ? kMaxContexts : 1) * kMaxLanes];

  KVQUILT_AVX2_INLINE void prepare(const Group& group) { arrange_ids(group, ids); }

  KVQUILT_AVX2_INLINE Interval find(const Group& group, size_t vector, const Contexts<kContexts>& contexts,
                                    __m256i symbol) const {
    const int* intervals = reinterpret_cast<const int*>(&group.tables.entries.data()->interval);
    const __m256i table = contexts.choose(ids + vector * kWidth, group.lanes, group.contexts);
    const __m256i alphabet = _mm256_set1_epi16(static_cast<int16_t>(group.tables.alphabet));
    const __m256i entry = _mm256_add_epi16(_mm256_mullo_epi16(table, alphabet), symbol);  // below 65 * 256
    const __m256i evens = even(entry);
    const __m256i odds = odd(entry);
    const __m256i even_entries = _mm256_i32gather_epi32(intervals, _mm256_add_epi32(evens, evens), 8);
    const __m256i odd_entries = _mm256_i32gather_epi32(intervals, _mm256_add_epi32(odds, odds), 8);
    return {high_halves(even_entries, odd_entries), low_halves(even_entries, odd_entries)};
  }
};

template <Kind kind>
struct Reader {
  __m256 inverse;
  __m256i largest;

  KVQUILT_AVX2_INLINE void prepare(const Group& group, float scale) {
    inverse = _mm256_set1_ps(scale);
    largest = _mm256_set1_epi32(static_cast<int>((group.tables.alphabet - 2) / 2));
  }

  // `quantise` and `symbol_of` of 8 values. Maximum and minimum take their second operand if one is a NaN.
  KVQUILT_AVX2_INLINE __m256i quantised(const float* from) const {
    const __m256 limit = _mm256_set1_ps(static_cast<float>(kLargestQuantum));
    const __m256 product = _mm256_mul_ps(_mm256_loadu_ps(from), inverse);
    const __m256 above = _mm256_max_ps(product, _mm256_set1_ps(-static_cast<float>(kLargestQuantum)));
    const __m256 rounded = _mm256_round_ps(_mm256_min_ps(above, limit), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m256i escape = _mm256_add_epi32(_mm256_add_epi32(largest, largest), _mm256_set1_epi32(1));
    return _mm256_min_epu32(_mm256_add_epi32(_mm256_cvttps_epi32(rounded), largest), escape);
  }

  KVQUILT_AVX2_INLINE __m256i read(const void* data, size_t at) const {
    if constexpr (kind == Kind::symbols) {
      return _mm256_cvtepu8_epi16(load_words(static_cast<const uint8_t*>(data) + at));
    } else {
      const float* from = static_cast<const float*>(data) + at;
      return _mm256_permute4x64_epi64(_mm256_packus_epi32(quantised(from), quantised(from + 8)), 0xd8);
    }
  }
};

// ((x / f) << 11) + x % f + c of 8 states below f * 2^21, exactly: the quotient of floats is made too small by 2^-22 of
// itself, more than the three roundings add (3.1 * 2^-24), so that it is the right one or one less. Checked as on
// AVX-512.
KVQUILT_AVX2_INLINE __m256i step(__m256i state, __m256i frequency, __m256i start) {
  const __m256 high = _mm256_cvtepi32_ps(_mm256_srli_epi32(state, 16));
  const __m256 low = _mm256_cvtepi32_ps(_mm256_and_si256(state, _mm256_set1_epi32(0xffff)));
  const __m256 dividend = _mm256_add_ps(_mm256_mul_ps(high, _mm256_set1_ps(65536.0f)), low);
  const __m256 ratio = _mm256_div_ps(dividend, _mm256_cvtepi32_ps(frequency));
  const __m256i quotient = _mm256_cvttps_epi32(_mm256_mul_ps(ratio, _mm256_set1_ps(1.0f - 0x1p-22f)));
  const __m256i remainder = _mm256_sub_epi32(state, _mm256_mullo_epi32(quotient, frequency));
  const __m256i right = _mm256_cmpgt_epi32(frequency, remainder);
  const __m256i next = _mm256_add_epi32(_mm256_slli_epi32(quotient, kBits), _mm256_add_epi32(remainder, start));
  const __m256i correction = _mm256_sub_epi32(_mm256_set1_epi32(kTotal), frequency);
  return _mm256_add_epi32(next, _mm256_andnot_si256(right, correction));
}

template <Kind kind, typename Search, bool kContexts>
KVQUILT_AVX2 uint8_t* encode_with(const Group& group, const GroupInput& input, uint8_t* end) {
  Search search;
  search.prepare(group);
  Reader<kind> reader;
  reader.prepare(group, input.inverse);
  States states;
  states.read(group.states, group.lanes);
  for (size_t token = group.tokens; token-- > 0;) {
    for (size_t v = group.lanes / kWidth; v-- > 0;) {
      const __m256i high = load(states.high + v * kWidth);
      const __m256i low = load(states.low + v * kWidth);
      Contexts<kContexts> contexts;
      if constexpr (kContexts) {
        contexts.read(group.context + token * group.context_stride + v * kWidth, group.contexts);
      }
      const __m256i symbol = reader.read(input.data, token * input.stride + v * kWidth);
      const Interval interval = search.find(group, v, contexts, symbol);
      const __m256i room = _mm256_cmpgt_epi16(interval.frequency, _mm256_srli_epi16(high, 16 - kBits));
      const uint32_t bits = bits_of(room) ^ 0xffffu;
      const __m128i upper = shuffled(_mm256_extracti128_si256(low, 1), kShuffles.compress[bits >> 8]);
      store_words(end - 16, upper);
      end -= 2 * static_cast<size_t>(_mm_popcnt_u32(bits >> 8));
      const __m128i lower = shuffled(_mm256_castsi256_si128(low), kShuffles.compress[bits & 255]);
      store_words(end - 16, lower);
      end -= 2 * static_cast<size_t>(_mm_popcnt_u32(bits & 255));
      const __m256i rest_low = select(high, room, low);
      const __m256i rest_high = _mm256_and_si256(room, high);
      const __m256i evens = step(low_halves(rest_low, rest_high), even(interval.frequency), even(interval.start));
      const __m256i odds = step(high_halves(rest_low, rest_high), odd(interval.frequency), odd(interval.start));
      store(states.low + v * kWidth, low_halves(evens, odds));
      store(states.high + v * kWidth, high_halves(evens, odds));
    }
  }
  states.write(group.states, group.lanes);
  return end;
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
}  // namespace avx2

uint8_t* encode_group_avx2(const Group& group, const GroupInput& input, uint8_t* end) {
  return input.kind == Kind::symbols ? avx2::encode_kind<Kind::symbols>(group, input, end)
                                     : avx2::encode_kind<Kind::words32>(group, input, end);
}

}  // namespace kvquilt::rans

#endif
