// One group of lanes: what the drivers in rans_encode.cpp and rans_decode.cpp ask of each instruction set.
#pragma once

#include <cmath>
#include <cstring>

#include "rans.hpp"

namespace kvquilt::rans {

// The words of a block as a decoder takes them. Before every token `ready` makes sure that one word a lane can be read,
// in the block or in a copy of its end that zeros follow.
class Words {
 public:
  Words(const uint8_t* begin, const uint8_t* end) : at(begin), end_(end) {}

  bool ready(size_t lanes) {
    if (static_cast<size_t>(end_ - at) >= 2 * lanes && at <= end_) [[likely]] {
      return true;
    }
    return move_to_copy();
  }

  bool all_taken() const { return at == end_; }

  const uint8_t* at;

 private:
  // False if more words were taken than there are.
  bool move_to_copy() {
    if (in_copy_ || at > end_) {
      return at <= end_;
    }
    const size_t left = static_cast<size_t>(end_ - at);
    std::memset(copy_, 0, sizeof copy_);
    if (left != 0) {
      std::memcpy(copy_, at, left);
    }
    at = copy_;
    end_ = copy_ + left;
    in_copy_ = true;
    return true;
  }

  const uint8_t* end_;
  bool in_copy_ = false;
  // Fewer than kMaxLanes words are left when they are copied, and a token takes at most kMaxLanes from any of them.
  uint8_t copy_[4 * kMaxLanes];
};

// All lanes are coded: idle ones have the table `tables.count` in every context.
struct Group {
  const Tables& tables;
  const uint8_t* ids;  // [contexts][kMaxLanes]
  size_t contexts;
  size_t lanes;
  size_t tokens;
  const uint8_t* context;  // one row of `lanes` a token, or null
  size_t context_stride;
  uint32_t* states;  // [lanes]
};

struct GroupOutput {
  Kind kind;
  void* data;
  size_t stride;  // elements between tokens
  const void* values;
};

struct GroupInput {
  Kind kind;
  const void* data;
  size_t stride;
  float inverse;
};

// Decode all tokens of a group; false if the words do not suffice.
bool decode_group_portable(const Group& group, Words& words, const GroupOutput& output);
bool decode_group_avx2(const Group& group, Words& words, const GroupOutput& output);
bool decode_group_avx512(const Group& group, Words& words, const GroupOutput& output);

// Encode all tokens of a group, the last one first, writing words downwards from `end`; returns where they begin.
// Up to kSlack bytes below that may be overwritten.
constexpr size_t kSlack = 64;
uint8_t* encode_group_portable(const Group& group, const GroupInput& input, uint8_t* end);
uint8_t* encode_group_avx2(const Group& group, const GroupInput& input, uint8_t* end);
uint8_t* encode_group_avx512(const Group& group, const GroupInput& input, uint8_t* end);

// round_half_even(value * inverse), clipped; a NaN gives the lower limit. Adding 2^23 rounds to an integer, without the
// library call that rounding costs on an x86-64 baseline, and without a branch on the sign, which is close to random.
inline int32_t quantise(float value, float inverse) {
  constexpr float limit = static_cast<float>(kLargestQuantum);
  constexpr float integers = 8388608.0f;
  const float product = value * inverse;
  const float above = product > -limit ? product : -limit;
  const float clipped = above < limit ? above : limit;
  const float magnitude = std::fabs(clipped);
  const float rounded = magnitude < integers ? (magnitude + integers) - integers : magnitude;
  return static_cast<int32_t>(std::copysign(rounded, clipped));
}

// Escapes are the last symbol, 2 * largest + 1.
inline uint32_t symbol_of(int32_t quantum, int32_t largest) {
  const uint32_t shifted = static_cast<uint32_t>(quantum + largest);
  const uint32_t escape = 2u * static_cast<uint32_t>(largest) + 1u;
  return shifted < escape ? shifted : escape;
}

}  // namespace kvquilt::rans
