#include "floats.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <stdexcept>

namespace kvquilt {
namespace {

static_assert(std::endian::native == std::endian::little, "packed bits are loaded as little-endian integers");

template <typename Word>
[[gnu::always_inline]] inline unsigned exponent_bits(const FloatShape& shape) {
  return 8 * sizeof(Word) - 1 - shape.mantissa_bits;
}

// All ones if `value` is negative. Loops over 16-bit integers without branches are vectorised by the compiler.
[[gnu::always_inline]] inline int16_t if_negative(int16_t value) { return static_cast<int16_t>(value >> 15); }

// The symbol of a sign and exponent, or the escape.
[[gnu::always_inline]] inline int16_t symbol_of(int16_t high, unsigned bits, int16_t top, int16_t flip,
                                                 int16_t octaves) {
  const int16_t octave = static_cast<int16_t>(top - (high & ((1 << bits) - 1)));
  const int16_t outside = if_negative(static_cast<int16_t>(octave | (octaves - 1 - octave)));
  const int16_t symbol = static_cast<int16_t>(2 * octave + ((high >> bits) ^ flip));
  return static_cast<int16_t>((symbol & ~outside) | (2 * octaves & outside));
}

// The symbols of a row. Pointers are restrict, or no loop of bytes would be vectorised.
template <typename Word>
[[gnu::always_inline]] inline void symbols_of(const Word* __restrict words, const FloatShape& shape,
                                                const uint8_t* __restrict tops, const uint8_t* __restrict flips,
                                                uint8_t* __restrict symbols) {
  const unsigned bits = exponent_bits<Word>(shape);
  const unsigned mantissa_bits = shape.mantissa_bits;
  const int16_t octaves = static_cast<int16_t>(shape.octaves);
  const size_t channels = shape.channels;
  for (size_t c = 0; c < channels; ++c) {
    const int16_t high = static_cast<int16_t>(words[c] >> mantissa_bits);
    symbols[c] = static_cast<uint8_t>(symbol_of(high, bits, tops[c], flips[c], octaves));
  }
}

template <typename Word>
[[gnu::always_inline]] inline void split_plane(const Word* __restrict words, size_t channels,
                                                 unsigned mantissa_bits, unsigned shift, uint8_t* __restrict plane) {
  const Word mask = static_cast<Word>((Word{1} << mantissa_bits) - 1);
  for (size_t c = 0; c < channels; ++c) {
    plane[c] = static_cast<uint8_t>((words[c] & mask) >> shift);
  }
}

// The first escape of a row at or after channel `from`, or the number of channels.
size_t next_escape(const uint8_t* symbols, size_t from, const FloatShape& shape) {
  const void* found = std::memchr(symbols + from, static_cast<int>(2 * shape.octaves), shape.channels - from);
  return found == nullptr ? shape.channels : static_cast<size_t>(static_cast<const uint8_t*>(found) - symbols);
}

// Whether all symbols are of the alphabet, and of exponents that there are. Words of escapes are left undefined.
template <typename Word>
[[gnu::always_inline]] inline bool merge_row(const uint8_t* __restrict symbols, const uint8_t* __restrict mantissas,
                                               const FloatShape& shape, const uint8_t* __restrict tops,
                                               const uint8_t* __restrict flips, Word* __restrict words) {
  const unsigned bits = exponent_bits<Word>(shape);
  const unsigned mantissa_bits = shape.mantissa_bits;
  const Word mask = static_cast<Word>((Word{1} << mantissa_bits) - 1);
  const int16_t escape = static_cast<int16_t>(2 * shape.octaves);
  const size_t channels = shape.channels;
  int16_t wrong = 0;
  for (size_t c = 0; c < channels; ++c) {
    const int16_t symbol = symbols[c];
    const int16_t exponent = static_cast<int16_t>(tops[c] - (symbol >> 1));
    const int16_t escaped = if_negative(static_cast<int16_t>(escape - 1 - symbol));
    wrong = static_cast<int16_t>(wrong | ((exponent >> bits) & ~escaped) |
                                 if_negative(static_cast<int16_t>(escape - symbol)));
    const int16_t high = static_cast<int16_t>(exponent | ((symbol & 1) ^ flips[c]) << bits);
    words[c] = static_cast<Word>(static_cast<Word>(static_cast<Word>(high) << mantissa_bits) | (mantissas[c] & mask));
  }
  return wrong == 0;
}

template <typename Word>
[[gnu::always_inline]] inline void merge_plane(const uint8_t* __restrict plane, size_t channels,
                                                 unsigned mantissa_bits, unsigned shift, Word* __restrict words) {
  const Word mask = static_cast<Word>((Word{1} << mantissa_bits) - 1);
  for (size_t c = 0; c < channels; ++c) {
    words[c] = static_cast<Word>(words[c] | (static_cast<Word>(static_cast<Word>(plane[c]) << shift) & mask));
  }
}

// The word of an escape: its sign and exponent, and the mantissa that `word` has.
template <typename Word>
Word escaped_word(uint16_t high, const FloatShape& shape, size_t channel, Word word) {
  const unsigned bits = exponent_bits<Word>(shape);
  const int16_t octaves = static_cast<int16_t>(shape.octaves);
  if (high >> (bits + 1) != 0 || symbol_of(static_cast<int16_t>(high), bits, shape.tops[channel], shape.flips[channel],
                                           octaves) != 2 * octaves) {
    throw std::invalid_argument("expected escapes that are signs and exponents, and that no symbol stands for");
  }
  const Word mask = static_cast<Word>((Word{1} << shape.mantissa_bits) - 1);
  return static_cast<Word>(static_cast<Word>(static_cast<Word>(high) << shape.mantissa_bits) | (word & mask));
}

template <typename Word>
[[gnu::always_inline]] inline void count(const Word* words, const FloatShape& shape, uint32_t* counts) {
  const size_t size = 2 * shape.octaves + 1;
  const std::vector<uint8_t> flips(shape.channels);
  std::vector<uint8_t> symbols(shape.channels);
  for (size_t t = 0; t < shape.tokens; ++t, words += shape.channels) {
    symbols_of(words, shape, shape.tops, flips.data(), symbols.data());
    uint32_t* channel = counts;
    for (size_t c = 0; c < shape.channels; ++c, channel += size) {
      channel[symbols[c]] += 1;
    }
  }
}

template <typename Word>
[[gnu::always_inline]] inline std::vector<uint16_t> split(const Word* words, const FloatShape& shape, uint8_t* symbols,
                                                          uint8_t* mantissas) {
  const size_t plane = shape.tokens * shape.channels;
  std::vector<uint16_t> escapes;
  for (size_t row = 0; row < plane; row += shape.channels) {
    symbols_of(words + row, shape, shape.tops, shape.flips, symbols + row);
    for (unsigned shift = 0; shift < shape.mantissa_bits; shift += 8) {
      split_plane(words + row, shape.channels, shape.mantissa_bits, shift, mantissas + shift / 8 * plane + row);
    }
    for (size_t c = 0; (c = next_escape(symbols + row, c, shape)) < shape.channels; ++c) {
      escapes.push_back(static_cast<uint16_t>(words[row + c] >> shape.mantissa_bits));
    }
  }
  return escapes;
}

template <typename Word>
[[gnu::always_inline]] inline void merge(const uint8_t* symbols, const uint16_t* escapes, size_t escape_count,
                                           const uint8_t* mantissas, const FloatShape& shape, Word* words) {
  const size_t plane = shape.tokens * shape.channels;
  size_t placed = 0;
  for (size_t row = 0; row < plane; row += shape.channels) {
    if (!merge_row(symbols + row, mantissas + row, shape, shape.tops, shape.flips, words + row)) {
      throw std::invalid_argument("expected symbols of the alphabet, and of exponents that there are");
    }
    for (unsigned shift = 8; shift < shape.mantissa_bits; shift += 8) {
      merge_plane(mantissas + shift / 8 * plane + row, shape.channels, shape.mantissa_bits, shift, words + row);
    }
    for (size_t c = 0; (c = next_escape(symbols + row, c, shape)) < shape.channels; ++c) {
      if (placed == escape_count) {
        throw std::invalid_argument("expected as many escapes as there are among the symbols; got fewer");
      }
      words[row + c] = escaped_word(escapes[placed++], shape, c, words[row + c]);
    }
  }
  if (placed != escape_count) {
    throw std::invalid_argument("expected as many escapes as there are among the symbols; got more");
  }
}

// Wide loops where the CPU has AVX2: the same source, compiled once more.
#if defined(__x86_64__)
#define KVQUILT_AVX2 __attribute__((target("avx2")))
#else
#define KVQUILT_AVX2
#endif

template <typename Word>
KVQUILT_AVX2 void count_avx2(const Word* words, const FloatShape& shape, uint32_t* counts) {
  count(words, shape, counts);
}

template <typename Word>
KVQUILT_AVX2 std::vector<uint16_t> split_avx2(const Word* words, const FloatShape& shape, uint8_t* symbols,
                                              uint8_t* mantissas) {
  return split(words, shape, symbols, mantissas);
}

template <typename Word>
KVQUILT_AVX2 void merge_avx2(const uint8_t* symbols, const uint16_t* escapes, size_t escape_count,
                             const uint8_t* mantissas, const FloatShape& shape, Word* words) {
  merge(symbols, escapes, escape_count, mantissas, shape, words);
}

}  // namespace

template <typename Word>
void exponent_counts(const Word* words, const FloatShape& shape, uint32_t* counts) {
  shape.avx2 ? count_avx2(words, shape, counts) : count(words, shape, counts);
}

template <typename Word>
std::vector<uint16_t> split_floats(const Word* words, const FloatShape& shape, uint8_t* symbols, uint8_t* mantissas) {
  return shape.avx2 ? split_avx2(words, shape, symbols, mantissas) : split(words, shape, symbols, mantissas);
}

template <typename Word>
void merge_floats(const uint8_t* symbols, const uint16_t* escapes, size_t escape_count, const uint8_t* mantissas,
                  const FloatShape& shape, Word* words) {
  shape.avx2 ? merge_avx2(symbols, escapes, escape_count, mantissas, shape, words)
             : merge(symbols, escapes, escape_count, mantissas, shape, words);
}

template void exponent_counts(const uint16_t*, const FloatShape&, uint32_t*);
template void exponent_counts(const uint32_t*, const FloatShape&, uint32_t*);
template std::vector<uint16_t> split_floats(const uint16_t*, const FloatShape&, uint8_t*, uint8_t*);
template std::vector<uint16_t> split_floats(const uint32_t*, const FloatShape&, uint8_t*, uint8_t*);
template void merge_floats(const uint8_t*, const uint16_t*, size_t, const uint8_t*, const FloatShape&, uint16_t*);
template void merge_floats(const uint8_t*, const uint16_t*, size_t, const uint8_t*, const FloatShape&, uint32_t*);

namespace {

constexpr uint64_t kEven8 = 0x00ff00ff00ff00ff;
constexpr uint64_t kEven16 = 0x0000ffff0000ffff;
constexpr uint64_t kLow32 = 0xffffffff;

// Eight values of `bits` bits in eight bytes become one integer of 8 * bits bits: pairs first, then pairs of pairs.
uint64_t squeeze(uint64_t x, unsigned bits) {
  x &= 0x0101010101010101 * ((1u << bits) - 1);
  x = (x & kEven8) | (x >> 8 & kEven8) << bits;
  x = (x & kEven16) | (x >> 16 & kEven16) << 2 * bits;
  return (x & kLow32) | (x >> 32) << 4 * bits;
}

uint64_t spread(uint64_t x, unsigned bits) {
  const uint64_t pairs = ((uint64_t{1} << 2 * bits) - 1) * 0x0000000100000001;
  const uint64_t single = ((uint64_t{1} << bits) - 1) * 0x0001000100010001;
  x = (x & ((uint64_t{1} << 4 * bits) - 1)) | (x >> 4 * bits & kLow32) << 32;
  x = (x & pairs) | (x >> 2 * bits & pairs) << 16;
  return (x & single) | (x >> bits & single) << 8;
}

constexpr size_t kGroup = 8;

}  // namespace

// A whole integer is stored or loaded where the array has room for it; of a group, `bits` bytes count.
void pack_bits(const uint8_t* values, size_t count, unsigned bits, uint8_t* packed) {
  const uint8_t* const end = packed + bits * ((count + kGroup - 1) / kGroup);
  for (; count > 0; values += kGroup, packed += bits) {
    const size_t here = std::min(count, kGroup);
    uint64_t group = 0;
    if (here == kGroup && static_cast<size_t>(end - packed) >= sizeof group) {
      std::memcpy(&group, values, sizeof group);
      group = squeeze(group, bits);
      std::memcpy(packed, &group, sizeof group);
    } else {
      std::memcpy(&group, values, here);
      group = squeeze(group, bits);
      std::memcpy(packed, &group, bits);
    }
    count -= here;
  }
}

void unpack_bits(const uint8_t* packed, size_t count, unsigned bits, uint8_t* values) {
  const uint8_t* const end = packed + bits * ((count + kGroup - 1) / kGroup);
  for (; count > 0; values += kGroup, packed += bits) {
    const size_t here = std::min(count, kGroup);
    uint64_t group = 0;
    if (here == kGroup && static_cast<size_t>(end - packed) >= sizeof group) {
      std::memcpy(&group, packed, sizeof group);
      group = spread(group, bits);
      std::memcpy(values, &group, sizeof group);
    } else {
      std::memcpy(&group, packed, bits);
      if (here < kGroup && group >> here * bits != 0) {
        throw std::invalid_argument("expected zeros after the last value; got other bits");
      }
      group = spread(group, bits);
      std::memcpy(values, &group, here);
    }
    count -= here;
  }
}

}  // namespace kvquilt
