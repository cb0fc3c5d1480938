// Floats in parts: see kvquilt_kernels/floats.py for the specification. All functions throw std::invalid_argument for what
// they refuse, and none reads or writes outside of its arrays whatever their contents are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace kvquilt {

struct FloatShape {
  size_t tokens;
  size_t channels;
  unsigned mantissa_bits;
  unsigned octaves;      // at most 127
  const uint8_t* tops;   // [channels]
  const uint8_t* flips;  // [channels], 0 or 1
  bool avx2;             // the CPU has it
};

// `Word` is uint16_t or uint32_t; it has a sign, at most 8 bits of exponent, and the mantissa.

// Adds to counts [channels][2 * octaves + 1].
template <typename Word>
void exponent_counts(const Word* words, const FloatShape& shape, uint32_t* counts);

// Writes symbols [tokens][channels] and mantissas [planes][tokens][channels]; returns the escapes.
template <typename Word>
std::vector<uint16_t> split_floats(const Word* words, const FloatShape& shape, uint8_t* symbols, uint8_t* mantissas);

template <typename Word>
void merge_floats(const uint8_t* symbols, const uint16_t* escapes, size_t escape_count, const uint8_t* mantissas,
                  const FloatShape& shape, Word* words);

// `packed` has bits * ceil(count / 8) bytes; bits is 1 to 7.
void pack_bits(const uint8_t* values, size_t count, unsigned bits, uint8_t* packed);
void unpack_bits(const uint8_t* packed, size_t count, unsigned bits, uint8_t* values);

}  // namespace kvquilt
