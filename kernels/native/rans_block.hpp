// What encoder and decoder share: the block's header, and groups cut from a plan.
#pragma once

#include <algorithm>

#include "rans_group.hpp"

namespace kvquilt::rans {

struct Header {
  uint8_t version;
  uint8_t lanes_code;  // lanes are 32 << code
  uint8_t last_symbol;
  uint8_t reserved;
  uint32_t tokens;
  uint32_t channels;
  uint32_t words;
};
static_assert(sizeof(Header) == 16, "the header has no padding");

constexpr uint8_t kVersion = 1;

// The rule for the number of lanes, as 32 << code.
inline uint8_t lanes_code_for(size_t tokens, size_t channels) {
  if (tokens <= 64) {
    return 0;
  }
  return channels % 128 == 0 ? 2 : channels % 64 == 0 ? 1 : 0;
}

inline Header header_for(const Plan& plan, size_t words) {
  return {kVersion,
          lanes_code_for(plan.tokens, plan.channels),
          static_cast<uint8_t>(plan.tables.alphabet - 1),
          0,
          static_cast<uint32_t>(plan.tokens),
          static_cast<uint32_t>(plan.channels),
          static_cast<uint32_t>(words)};
}

// Tokens of a group that is not full are staged this many at a time.
constexpr size_t kStagedTokens = 64;

// Table ids of the channels first to first + lanes; lanes beyond the channels are idle.
class GroupIds {
 public:
  explicit GroupIds(const Plan& plan)
      : plan_(plan), contexts_(plan.context == nullptr ? 1 : plan.contexts), ids_(contexts_ * kMaxLanes) {}

  size_t contexts() const { return contexts_; }

  const uint8_t* of(size_t first, size_t active) {
    std::fill(ids_.begin(), ids_.end(), static_cast<uint8_t>(plan_.tables.count));
    for (size_t context = 0; context < contexts_; ++context) {
      std::memcpy(&ids_[context * kMaxLanes], plan_.table_ids + context * plan_.channels + first, active);
    }
    return ids_.data();
  }

 private:
  const Plan& plan_;
  size_t contexts_;
  std::vector<uint8_t> ids_;
};

}  // namespace kvquilt::rans
