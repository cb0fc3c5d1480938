#if defined(__x86_64__)

#include "rans_avx512.hpp"

namespace kvquilt::rans {
namespace avx512 {
namespace {

// Of 32 lanes: the frequency of the symbol, the slot's distance from the symbol's start, and the symbol itself.
struct Found {
  __m512i frequency;
  __m512i distance;
  __m512i symbol;
};

// Search by comparison, alphabets up to 16. A key is (start << 4) - k, so `slot << 4` minus the key of symbol k holds
// the distance and k if the symbol begins at or below the slot, and wraps to a large number if it begins above. The
// smallest difference thus belongs to the slot's symbol and the largest to the next one, and frequency and symbol
// come with them.
template <int kThresholds, bool kContexts>
struct Compare {
  alignas(64) uint16_t keys[(kContexts ? kMaxContexts : 1) * kThresholds * kMaxLanes];

  KVQUILT_AVX512_INLINE void prepare(const Group& group) { arrange(group.tables.keys, group, kThresholds, keys); }

  KVQUILT_AVX512_INLINE Found find(const Group& group, size_t vector, const Contexts<kContexts>& contexts,
                                   __m512i low) const {
    const uint16_t* key = keys + vector * kThresholds * kWidth;
    const __m512i slot = _mm512_srli_epi16(_mm512_slli_epi16(low, 5), 1);
    const __m512i end = _mm512_sub_epi16(slot, _mm512_set1_epi16(static_cast<int16_t>(kTotal << 4)));
    __m512i nearest = slot;
    __m512i next = end;
    if constexpr (kThresholds == 15) {
      // Two steps of bisection, then the three keys that are left.
      const __m512i to8 = _mm512_sub_epi16(slot, load(key + 7 * kWidth));
      const __mmask32 below8 = _mm512_movepi16_mask(to8);
      nearest = _mm512_mask_mov_epi16(to8, below8, slot);
      next = _mm512_mask_mov_epi16(end, below8, to8);
      const __m512i key4 = _mm512_mask_mov_epi16(load(key + 11 * kWidth), below8, load(key + 3 * kWidth));
      const __m512i to4 = _mm512_sub_epi16(slot, key4);
      const __mmask32 below4 = _mm512_movepi16_mask(to4);
      nearest = _mm512_min_epu16(nearest, to4);
      next = _mm512_max_epu16(next, to4);
#pragma GCC unroll 3
      for (int k = 0; k < 3; ++k) {
        const uint16_t* from = key + k * kWidth;
        const __m512i lower = _mm512_mask_mov_epi16(load(from + 8 * kWidth), below8, load(from));
        const __m512i upper = _mm512_mask_mov_epi16(load(from + 12 * kWidth), below8, load(from + 4 * kWidth));
        const __m512i difference = _mm512_sub_epi16(slot, _mm512_mask_mov_epi16(upper, below4, lower));
        nearest = _mm512_min_epu16(nearest, difference);
        next = _mm512_max_epu16(next, difference);
      }
    } else {
#pragma GCC unroll 7
      for (int k = 0; k < kThresholds; ++k) {
        const size_t stride = group.lanes * kThresholds;
        const __m512i difference = _mm512_sub_epi16(slot, contexts.select(key + k * kWidth, stride, group.contexts));
        nearest = _mm512_min_epu16(nearest, difference);
        next = _mm512_max_epu16(next, difference);
      }
    }
    const __m512i distance = _mm512_srli_epi16(nearest, 4);
    return {_mm512_sub_epi16(distance, _mm512_srai_epi16(next, 4)), distance, nearest};
  }

  // The symbol is the low four bits; those above are of the distance.
  static KVQUILT_AVX512_INLINE __m512i symbol(__m512i found) { return _mm512_and_si512(found, _mm512_set1_epi16(15)); }
};

// Search by slot table, any alphabet.
template <bool kContexts>
struct Gather {
  alignas(64) uint16_t ids[(kContexts ? kMaxContexts : 1) * kMaxLanes];

  KVQUILT_AVX512_INLINE void prepare(const Group& group) { arrange_ids(group, ids); }

  KVQUILT_AVX512_INLINE Found find(const Group& group, size_t vector, const Contexts<kContexts>& contexts,
                                   __m512i low) const {
    const int* slots = reinterpret_cast<const int*>(group.tables.slots.data());
    const __m512i table = contexts.select(ids + vector * kWidth, group.lanes, group.contexts);
    const __m512i slot = _mm512_and_si512(low, _mm512_set1_epi16(kTotal - 1));
    const __m512i evens = _mm512_or_si512(_mm512_slli_epi32(even(table), kBits), even(slot));
    const __m512i odds = _mm512_or_si512(_mm512_slli_epi32(odd(table), kBits), odd(slot));
    const __m512i even_entries = _mm512_i32gather_epi32(evens, slots, 4);
    const __m512i odd_entries = _mm512_i32gather_epi32(odds, slots, 4);
    const __m512i first = low_halves(even_entries, odd_entries);
    const __m512i second = high_halves(even_entries, odd_entries);
    return {_mm512_and_si512(second, _mm512_set1_epi16(0xfff)),
            _mm512_and_si512(first, _mm512_set1_epi16(kTotal - 1)),
            _mm512_or_si512(_mm512_srli_epi16(first, 11), _mm512_slli_epi16(_mm512_srli_epi16(second, 12), 5))};
  }

  static KVQUILT_AVX512_INLINE __m512i symbol(__m512i found) { return found; }
};

// Values of up to kSymbols symbols, 16 bits each: two vectors for every 64 symbols.
template <int kSymbols>
struct Values16 {
  alignas(64) uint16_t values[kSymbols < 64 ? 32 : kSymbols];

  KVQUILT_AVX512_INLINE void prepare() {
    // The search by comparison leaves a bit of the distance above the symbol's four.
    if constexpr (kSymbols == 16) {
      std::memcpy(values + 16, values, 32);
    }
  }

  KVQUILT_AVX512_INLINE __m512i of(__m512i symbol) const {
    if constexpr (kSymbols == 16) {
      return _mm512_permutexvar_epi16(symbol, load(values));
    }
    const __m512i first = _mm512_permutex2var_epi16(load(values), symbol, load(values + 32));
    if constexpr (kSymbols == 64) {
      return first;
    }
    const __m512i second = _mm512_permutex2var_epi16(load(values + 64), symbol, load(values + 96));
    const __m512i third = _mm512_permutex2var_epi16(load(values + 128), symbol, load(values + 160));
    const __m512i fourth = _mm512_permutex2var_epi16(load(values + 192), symbol, load(values + 224));
    const __mmask32 bit6 = _mm512_test_epi16_mask(symbol, _mm512_set1_epi16(64));
    const __mmask32 bit7 = _mm512_test_epi16_mask(symbol, _mm512_set1_epi16(128));
    return _mm512_mask_mov_epi16(_mm512_mask_mov_epi16(first, bit6, second), bit7,
                                 _mm512_mask_mov_epi16(third, bit6, fourth));
  }
};

template <Kind kind, int kSymbols>
struct Writer {
  Values16<kSymbols> low;
  Values16<kSymbols> high;

  KVQUILT_AVX512_INLINE void prepare(const void* values, size_t alphabet) {
    for (size_t i = 0; i < alphabet; ++i) {
      if constexpr (kind == Kind::words16) {
        low.values[i] = static_cast<const uint16_t*>(values)[i];
      } else if constexpr (kind == Kind::words32) {
        low.values[i] = static_cast<uint16_t>(static_cast<const uint32_t*>(values)[i]);
        high.values[i] = static_cast<uint16_t>(static_cast<const uint32_t*>(values)[i] >> 16);
      }
    }
    low.prepare();
    high.prepare();
  }

  template <typename Search>
  KVQUILT_AVX512_INLINE void write(__m512i found, void* data, size_t at) const {
    if constexpr (kind == Kind::symbols) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(static_cast<uint8_t*>(data) + at),
                          _mm512_cvtepi16_epi8(Search::symbol(found)));
    } else if constexpr (kind == Kind::words16) {
      _mm512_storeu_si512(static_cast<uint16_t*>(data) + at, low.of(found));
    } else {
      const __m512i lows = low.of(found);
      const __m512i highs = high.of(found);
      const __m512i order =
          _mm512_set_epi32(0x2f000f, 0x2e000e, 0x2d000d, 0x2c000c, 0x2b000b, 0x2a000a, 0x290009, 0x280008,  //
                           0x270007, 0x260006, 0x250005, 0x240004, 0x230003, 0x220002, 0x210001, 0x200000);
      const __m512i rest = _mm512_add_epi16(order, _mm512_set1_epi16(16));
      uint32_t* to = static_cast<uint32_t*>(data) + at;
      _mm512_storeu_si512(to, _mm512_permutex2var_epi16(lows, order, highs));
      _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi16(lows, rest, highs));
    }
  }
};

template <int kVectors, typename Search, bool kContexts, typename Write>
KVQUILT_AVX512 bool decode_tokens(const Group& group, Words& words, const GroupOutput& output, const Search& search,
                                  const Write& writer) {
  __m512i high[kVectors];
  __m512i low[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    load_states(group.states + v * kWidth, high[v], low[v]);
  }
  for (size_t token = 0; token < group.tokens; ++token) {
    if (!words.ready(group.lanes)) {
      return false;
    }
    const uint8_t* at = words.at;
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      Contexts<kContexts> contexts;
      if constexpr (kContexts) {
        contexts.read(group.context + token * group.context_stride + v * kWidth, group.contexts);
      }
      const Found found = search.find(group, v, contexts, low[v]);
      writer.template write<Search>(found.symbol, output.data, token * output.stride + v * kWidth);
      // frequency * (state >> 11) + distance, in halves.
      const __m512i shifted_low = _mm512_shldi_epi16(high[v], low[v], 16 - kBits);
      const __m512i shifted_high = _mm512_srli_epi16(high[v], kBits);
      const __m512i next_low = _mm512_add_epi16(_mm512_mullo_epi16(found.frequency, shifted_low), found.distance);
      const __mmask32 carry = _mm512_cmplt_epu16_mask(next_low, found.distance);
      const __m512i next_high = _mm512_add_epi16(_mm512_mulhi_epu16(found.frequency, shifted_low),
                                                 _mm512_mullo_epi16(found.frequency, shifted_high));
      high[v] = _mm512_mask_sub_epi16(next_high, carry, next_high, _mm512_set1_epi16(-1));
      const __mmask32 need = _mm512_testn_epi16_mask(high[v], high[v]);
      high[v] = _mm512_mask_mov_epi16(high[v], need, next_low);
      low[v] = _mm512_mask_expand_epi16(next_low, need, load(at));
      at += 2 * static_cast<size_t>(_mm_popcnt_u32(need));
    }
    words.at = at;
  }
  for (int v = 0; v < kVectors; ++v) {
    store_states(high[v], low[v], group.states + v * kWidth);
  }
  return true;
}

template <Kind kind, typename Search, int kSymbols, bool kContexts>
KVQUILT_AVX512 bool decode_with(const Group& group, Words& words, const GroupOutput& output) {
  Search search;
  search.prepare(group);
  Writer<kind, kSymbols> writer;
  writer.prepare(output.values, group.tables.alphabet);
  switch (group.lanes) {
    case 32:
      return decode_tokens<1, Search, kContexts>(group, words, output, search, writer);
    case 64:
      return decode_tokens<2, Search, kContexts>(group, words, output, search, writer);
    default:
      return decode_tokens<4, Search, kContexts>(group, words, output, search, writer);
  }
}

template <Kind kind>
bool decode_kind(const Group& group, Words& words, const GroupOutput& output) {
  const size_t alphabet = group.tables.alphabet;
  if (group.context == nullptr) {
    if (alphabet <= 4) {
      return decode_with<kind, Compare<3, false>, 16, false>(group, words, output);
    }
    if (alphabet <= 8) {
      return decode_with<kind, Compare<7, false>, 16, false>(group, words, output);
    }
    if (alphabet <= 16) {
      return decode_with<kind, Compare<15, false>, 16, false>(group, words, output);
    }
    return alphabet <= 64 ? decode_with<kind, Gather<false>, 64, false>(group, words, output)
                          : decode_with<kind, Gather<false>, 256, false>(group, words, output);
  }
  if constexpr (kind == Kind::symbols) {
    if (group.contexts <= kMaxContexts) {
      return alphabet <= 3 ? decode_with<kind, Compare<2, true>, 16, true>(group, words, output)
                           : decode_with<kind, Gather<true>, 256, true>(group, words, output);
    }
  }
  return decode_group_portable(group, words, output);
}

}  // namespace
}  // namespace avx512

bool decode_group_avx512(const Group& group, Words& words, const GroupOutput& output) {
  switch (output.kind) {
    case Kind::symbols:
      return avx512::decode_kind<Kind::symbols>(group, words, output);
    case Kind::words16:
      return avx512::decode_kind<Kind::words16>(group, words, output);
    default:
      return avx512::decode_kind<Kind::words32>(group, words, output);
  }
}

}  // namespace kvquilt::rans

#endif
