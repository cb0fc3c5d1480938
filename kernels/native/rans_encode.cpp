#include <memory>
#include <stdexcept>

#include "rans_block.hpp"

namespace kvquilt::rans {
namespace {

using EncodeGroup = uint8_t* (*)(const Group&, const GroupInput&, uint8_t*);

EncodeGroup encoder_of(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) {
    return encode_group_avx512;
  }
  if (isa == Isa::avx2) {
    return encode_group_avx2;
  }
#endif
  static_cast<void>(isa);
  return encode_group_portable;
}

uint8_t symbol_at(const Input& input, size_t index, int32_t largest) {
  if (input.kind == Kind::symbols) {
    return static_cast<const uint8_t*>(input.data)[index];
  }
  const float value = static_cast<const float*>(input.data)[index];
  return static_cast<uint8_t>(symbol_of(quantise(value, input.inverse), largest));
}

}  // namespace

std::vector<uint8_t> encode(Isa isa, const Plan& plan, const Input& input) {
  const size_t lanes = size_t{32} << lanes_code_for(plan.tokens, plan.channels);
  const size_t most = 2 * plan.tokens * plan.channels;
  const auto buffer = std::make_unique_for_overwrite<uint8_t[]>(kSlack + most);
  uint8_t* const end = buffer.get() + kSlack + most;
  uint8_t* words = end;

  const EncodeGroup encode_group = encoder_of(isa);
  const size_t element = input.kind == Kind::symbols ? 1 : sizeof(float);
  const uint8_t* const data = static_cast<const uint8_t*>(input.data);
  const int32_t largest = static_cast<int32_t>(plan.tables.alphabet - 2) / 2;
  GroupIds ids(plan);
  alignas(64) uint32_t states[kMaxLanes];
  std::fill(states, states + kMaxLanes, kLowestState);
  uint8_t staged[kStagedTokens * kMaxLanes];
  uint8_t contexts[kStagedTokens * kMaxLanes];
  for (size_t first = (plan.channels - 1) / lanes * lanes;; first -= lanes) {
    const size_t active = std::min(lanes, plan.channels - first);
    Group group{plan.tables, ids.of(first, active), ids.contexts(), lanes, plan.tokens, nullptr, 0, states};
    if (active == lanes) {
      group.context = plan.context == nullptr ? nullptr : plan.context + first;
      group.context_stride = plan.channels;
      words = encode_group(group, {input.kind, data + first * element, plan.channels, input.inverse}, words);
    } else {
      for (size_t left = plan.tokens; left > 0; left -= group.tokens) {
        group.tokens = std::min(kStagedTokens, left);
        std::memset(staged, 0, sizeof staged);  // idle lanes code symbol 0
        std::memset(contexts, 0, sizeof contexts);
        for (size_t i = 0; i < group.tokens; ++i) {
          const size_t begin = (left - group.tokens + i) * plan.channels + first;
          for (size_t lane = 0; lane < active; ++lane) {
            staged[i * lanes + lane] = symbol_at(input, begin + lane, largest);
          }
          if (plan.context != nullptr) {
            std::memcpy(contexts + i * lanes, plan.context + begin, active);
          }
        }
        group.context = plan.context == nullptr ? nullptr : contexts;
        group.context_stride = lanes;
        words = encode_group(group, {Kind::symbols, staged, lanes, 0.0f}, words);
      }
    }
    if (first == 0) {
      break;
    }
  }

  const size_t count = static_cast<size_t>(end - words) / 2;
  if (count > UINT32_MAX) {
    throw std::invalid_argument("expected a block of fewer than 2^32 words");
  }
  const Header header = header_for(plan, count);
  std::vector<uint8_t> block(sizeof header + lanes * sizeof(uint32_t) + 2 * count);
  std::memcpy(block.data(), &header, sizeof header);
  std::memcpy(block.data() + sizeof header, states, lanes * sizeof(uint32_t));
  std::memcpy(block.data() + block.size() - 2 * count, words, 2 * count);
  return block;
}

}  // namespace kvquilt::rans
