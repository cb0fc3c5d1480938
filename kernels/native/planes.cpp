#include "planes.hpp"

#include <bit>
#include <cstring>
#include <type_traits>

namespace kvquilt {
namespace {

static_assert(std::endian::native == std::endian::little, "the planes are defined on little-endian words");

template <typename Word>
void split(const uint8_t* words, size_t count, uint8_t* planes) {
  for (size_t i = 0; i < count; ++i) {
    Word word;
    std::memcpy(&word, words + i * sizeof(Word), sizeof(Word));
    word = std::rotl(word, 1);
    for (size_t plane = 0; plane < sizeof(Word); ++plane) {
      planes[plane * count + i] = static_cast<uint8_t>(word >> (8 * plane));
    }
  }
}

template <typename Word>
void merge(const uint8_t* planes, size_t count, uint8_t* words) {
  for (size_t i = 0; i < count; ++i) {
    Word word = 0;
    for (size_t plane = 0; plane < sizeof(Word); ++plane) {
      word = static_cast<Word>(word | (static_cast<Word>(planes[plane * count + i]) << (8 * plane)));
    }
    word = std::rotr(word, 1);
    std::memcpy(words + i * sizeof(Word), &word, sizeof(Word));
  }
}

}  // namespace

void split_planes(const uint8_t* words, size_t count, size_t width, uint8_t* planes) {
  if (width == 2) {
    split<uint16_t>(words, count, planes);
  } else {
    split<uint32_t>(words, count, planes);
  }
}

void merge_planes(const uint8_t* planes, size_t count, size_t width, uint8_t* words) {
  if (width == 2) {
    merge<uint16_t>(planes, count, words);
  } else {
    merge<uint32_t>(planes, count, words);
  }
}

}  // namespace kvquilt
