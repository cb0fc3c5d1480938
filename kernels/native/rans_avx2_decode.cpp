#if defined(__x86_64__)

#include "rans_avx2.hpp"

namespace kvquilt::rans {
namespace avx2 {
namespace {

// Of 16 lanes: the frequency of the symbol, the slot's distance from the symbol's start, and the symbol itself.
struct Found {
  __m256i frequency;
  __m256i distance;
  __m256i symbol;
};

// Search by comparison, alphabets up to 16: see rans_avx512_decode.cpp.
template <int kThresholds, bool kContexts>
struct Compare {
  alignas(32) uint16_t keys[(kContexts ? kMaxContexts : 1) * kThresholds * kMaxLanes];

  KVQUILT_AVX2_INLINE void prepare(const Group& group) { arrange(group.tables.keys, group, kThresholds, keys); }

  KVQUILT_AVX2_INLINE Found find(const Group& group, size_t vector, const Contexts<kContexts>& contexts,
                                 __m256i low) const {
    const uint16_t* key = keys + vector * kThresholds * kWidth;
    const __m256i slot = _mm256_srli_epi16(_mm256_slli_epi16(low, 5), 1);
    const __m256i end = _mm256_sub_epi16(slot, _mm256_set1_epi16(static_cast<int16_t>(kTotal << 4)));
    __m256i nearest = slot;
    __m256i next = end;
    if constexpr (kThresholds == 15) {
      // Two steps of bisection, then the three keys that are left.
      const __m256i to8 = _mm256_sub_epi16(slot, load(key + 7 * kWidth));
      const __m256i below8 = _mm256_srai_epi16(to8, 15);
      nearest = select(to8, below8, slot);
      next = select(end, below8, to8);
      const __m256i key4 = select(load(key + 11 * kWidth), below8, load(key + 3 * kWidth));
      const __m256i to4 = _mm256_sub_epi16(slot, key4);
      const __m256i below4 = _mm256_srai_epi16(to4, 15);
      nearest = _mm256_min_epu16(nearest, to4);
      next = _mm256_max_epu16(next, to4);
#pragma GCC unroll 3
      for (int k = 0; k < 3; ++k) {
        const __m256i lower = select(load(key + (k + 8) * kWidth), below8, load(key + k * kWidth));
        const __m256i upper = select(load(key + (k + 12) * kWidth), below8, load(key + (k + 4) * kWidth));
        const __m256i difference = _mm256_sub_epi16(slot, select(upper, below4, lower));
        nearest = _mm256_min_epu16(nearest, difference);
        next = _mm256_max_epu16(next, difference);
      }
    } else {
#pragma GCC unroll 7
      for (int k = 0; k < kThresholds; ++k) {
        const size_t stride = group.lanes * kThresholds;
        const __m256i difference = _mm256_sub_epi16(slot, contexts.choose(key + k * kWidth, stride, group.contexts));
        nearest = _mm256_min_epu16(nearest, difference);
        next = _mm256_max_epu16(next, difference);
      }
    }
    const __m256i distance = _mm256_srli_epi16(nearest, 4);
    return {_mm256_sub_epi16(distance, _mm256_srai_epi16(next, 4)), distance,
            _mm256_and_si256(nearest, _mm256_set1_epi16(15))};
  }
};

// Search by slot table, any alphabet.
template <bool kContexts>
struct Gather {
  alignas(32) uint16_t ids[(kContexts ? kMaxContexts : 1) * kMaxLanes];

  KVQUILT_AVX2_INLINE void prepare(const Group& group) { arrange_ids(group, ids); }

  KVQUILT_AVX2_INLINE Found find(const Group& group, size_t vector, const Contexts<kContexts>& contexts,
                                 __m256i low) const {
    const int* slots = reinterpret_cast<const int*>(group.tables.slots.data());
    const __m256i table = contexts.choose(ids + vector * kWidth, group.lanes, group.contexts);
    const __m256i slot = _mm256_and_si256(low, _mm256_set1_epi16(kTotal - 1));
    const __m256i evens = _mm256_or_si256(_mm256_slli_epi32(even(table), kBits), even(slot));
    const __m256i odds = _mm256_or_si256(_mm256_slli_epi32(odd(table), kBits), odd(slot));
    const __m256i even_entries = _mm256_i32gather_epi32(slots, evens, 4);
    const __m256i odd_entries = _mm256_i32gather_epi32(slots, odds, 4);
    const __m256i first = low_halves(even_entries, odd_entries);
    const __m256i second = high_halves(even_entries, odd_entries);
    return {_mm256_and_si256(second, _mm256_set1_epi16(0xfff)),
            _mm256_and_si256(first, _mm256_set1_epi16(kTotal - 1)),
            _mm256_or_si256(_mm256_srli_epi16(first, 11), _mm256_slli_epi16(_mm256_srli_epi16(second, 12), 5))};
  }
};

// Writes symbols, or their values: by byte shuffles for alphabets up to 16, else by gathering.
template <Kind kind, bool kCompared>
struct Writer {
  alignas(32) uint8_t bytes[4][32];  // byte i of the values of 16 symbols, twice
  alignas(32) uint32_t values[kMaxAlphabet];

  KVQUILT_AVX2_INLINE void prepare(const void* from, size_t alphabet) {
    std::memset(bytes, 0, sizeof bytes);
    for (size_t i = 0; i < alphabet && kind != Kind::symbols; ++i) {
      values[i] = kind == Kind::words16 ? static_cast<const uint16_t*>(from)[i] : static_cast<const uint32_t*>(from)[i];
      for (size_t byte = 0; byte < 4 && kCompared; ++byte) {
        bytes[byte][i] = bytes[byte][i + 16] = static_cast<uint8_t>(values[i] >> (8 * byte));
      }
    }
  }

  KVQUILT_AVX2_INLINE __m256i shuffled_values(__m256i symbol, int byte) const {
    // Indices with the top bit set give 0.
    const __m256i low = _mm256_or_si256(symbol, _mm256_set1_epi16(static_cast<int16_t>(0x8000)));
    const __m256i high = _mm256_or_si256(_mm256_slli_epi16(symbol, 8), _mm256_set1_epi16(0x0080));
    return _mm256_or_si256(_mm256_shuffle_epi8(load(bytes[byte]), low),
                           _mm256_shuffle_epi8(load(bytes[byte + 1]), high));
  }

  KVQUILT_AVX2_INLINE void write(__m256i symbol, void* data, size_t at) const {
    const int* table = reinterpret_cast<const int*>(values);
    if constexpr (kind == Kind::symbols) {
      const __m128i packed = _mm_packus_epi16(_mm256_castsi256_si128(symbol), _mm256_extracti128_si256(symbol, 1));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(static_cast<uint8_t*>(data) + at), packed);
    } else if constexpr (kind == Kind::words16 && kCompared) {
      store(static_cast<uint16_t*>(data) + at, shuffled_values(symbol, 0));
    } else if constexpr (kind == Kind::words16) {
      store(static_cast<uint16_t*>(data) + at, low_halves(_mm256_i32gather_epi32(table, even(symbol), 4),
                                                          _mm256_i32gather_epi32(table, odd(symbol), 4)));
    } else {
      __m256i first;
      __m256i second;
      if constexpr (kCompared) {
        const __m256i lows = shuffled_values(symbol, 0);
        const __m256i highs = shuffled_values(symbol, 2);
        first = _mm256_unpacklo_epi16(lows, highs);
        second = _mm256_unpackhi_epi16(lows, highs);
      } else {
        const __m256i evens = _mm256_i32gather_epi32(table, even(symbol), 4);
        const __m256i odds = _mm256_i32gather_epi32(table, odd(symbol), 4);
        first = _mm256_unpacklo_epi32(evens, odds);
        second = _mm256_unpackhi_epi32(evens, odds);
      }
      uint32_t* to = static_cast<uint32_t*>(data) + at;
      store(to, _mm256_permute2x128_si256(first, second, 0x20));
      store(to + 8, _mm256_permute2x128_si256(first, second, 0x31));
    }
  }
};

template <Kind kind, typename Search, bool kCompared, bool kContexts>
KVQUILT_AVX2 bool decode_with(const Group& group, Words& words, const GroupOutput& output) {
  Search search;
  search.prepare(group);
  Writer<kind, kCompared> writer;
  writer.prepare(output.values, group.tables.alphabet);
  States states;
  states.read(group.states, group.lanes);
  for (size_t token = 0; token < group.tokens; ++token) {
    if (!words.ready(group.lanes)) {
      return false;
    }
    const uint8_t* at = words.at;
    for (size_t v = 0; v < group.lanes / kWidth; ++v) {
      const __m256i high = load(states.high + v * kWidth);
      const __m256i low = load(states.low + v * kWidth);
      Contexts<kContexts> contexts;
      if constexpr (kContexts) {
        contexts.read(group.context + token * group.context_stride + v * kWidth, group.contexts);
      }
      const Found found = search.find(group, v, contexts, low);
      writer.write(found.symbol, output.data, token * output.stride + v * kWidth);
      // frequency * (state >> 11) + distance, in halves. Without unsigned comparison: adding carried unless the sum is
      // its own maximum with the summand.
      const __m256i shifted_low = _mm256_or_si256(_mm256_slli_epi16(high, 16 - kBits), _mm256_srli_epi16(low, kBits));
      const __m256i shifted_high = _mm256_srli_epi16(high, kBits);
      const __m256i next_low = _mm256_add_epi16(_mm256_mullo_epi16(found.frequency, shifted_low), found.distance);
      const __m256i no_carry = _mm256_cmpeq_epi16(_mm256_max_epu16(next_low, found.distance), next_low);
      const __m256i product = _mm256_add_epi16(_mm256_mulhi_epu16(found.frequency, shifted_low),
                                               _mm256_mullo_epi16(found.frequency, shifted_high));
      const __m256i next_high = _mm256_add_epi16(product, _mm256_add_epi16(no_carry, _mm256_set1_epi16(1)));
      const __m256i need = _mm256_cmpeq_epi16(next_high, _mm256_setzero_si256());
      const uint32_t bits = bits_of(need);
      const __m128i first = shuffled(load_words(at), kShuffles.expand[bits & 255]);
      at += 2 * static_cast<size_t>(_mm_popcnt_u32(bits & 255));
      const __m128i second = shuffled(load_words(at), kShuffles.expand[bits >> 8]);
      at += 2 * static_cast<size_t>(_mm_popcnt_u32(bits >> 8));
      const __m256i taken = _mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1);
      store(states.high + v * kWidth, _mm256_or_si256(next_high, _mm256_and_si256(need, next_low)));
      store(states.low + v * kWidth, _mm256_or_si256(taken, _mm256_andnot_si256(need, next_low)));
    }
    words.at = at;
  }
  states.write(group.states, group.lanes);
  return true;
}

template <Kind kind>
bool decode_kind(const Group& group, Words& words, const GroupOutput& output) {
  const size_t alphabet = group.tables.alphabet;
  if (group.context == nullptr) {
    if (alphabet <= 4) {
      return decode_with<kind, Compare<3, false>, true, false>(group, words, output);
    }
    if (alphabet <= 8) {
      return decode_with<kind, Compare<7, false>, true, false>(group, words, output);
    }
    if (alphabet <= 16) {
      return decode_with<kind, Compare<15, false>, true, false>(group, words, output);
    }
    return decode_with<kind, Gather<false>, false, false>(group, words, output);
  }
  if constexpr (kind == Kind::symbols) {
    if (group.contexts <= kMaxContexts) {
      return alphabet <= 3 ? decode_with<kind, Compare<2, true>, true, true>(group, words, output)
                           : decode_with<kind, Gather<true>, false, true>(group, words, output);
    }
  }
  return decode_group_portable(group, words, output);
}

}  // namespace
}  // namespace avx2

bool decode_group_avx2(const Group& group, Words& words, const GroupOutput& output) {
  switch (output.kind) {
    case Kind::symbols:
      return avx2::decode_kind<Kind::symbols>(group, words, output);
    case Kind::words16:
      return avx2::decode_kind<Kind::words16>(group, words, output);
    default:
      return avx2::decode_kind<Kind::words32>(group, words, output);
  }
}

}  // namespace kvquilt::rans

#endif
