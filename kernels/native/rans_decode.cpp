#include <numeric>
#include <stdexcept>

#include "rans_block.hpp"

namespace kvquilt::rans {
namespace {

using DecodeGroup = bool (*)(const Group&, Words&, const GroupOutput&);

DecodeGroup decoder_of(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) {
    return decode_group_avx512;
  }
  if (isa == Isa::avx2) {
    return decode_group_avx2;
  }
#endif
  static_cast<void>(isa);
  return decode_group_portable;
}

size_t size_of(Kind kind) { return kind == Kind::symbols ? 1 : kind == Kind::words16 ? 2 : 4; }

void copy_states(const Plan& plan, size_t lanes, const uint8_t* block, size_t size, uint32_t* states) {
  const size_t begin = sizeof(Header) + lanes * sizeof(uint32_t);
  if (size < begin) {
    throw std::invalid_argument("the block is shorter than its header and states");
  }
  Header header;
  std::memcpy(&header, block, sizeof header);
  const Header expected = header_for(plan, header.words);
  if (std::memcmp(&header, &expected, sizeof header) != 0) {
    throw std::invalid_argument("the block's header is not that of such tokens, channels and alphabet");
  }
  if ((size - begin) % 2 != 0 || (size - begin) / 2 != header.words) {
    throw std::invalid_argument("the block's size is not that of its number of words");
  }
  std::memcpy(states, block + sizeof header, lanes * sizeof(uint32_t));
  if (std::any_of(states, states + lanes, [](uint32_t state) { return state < kLowestState; })) {
    throw std::invalid_argument("the block has a state below 65536");
  }
}

}  // namespace

void decode(Isa isa, const Plan& plan, const uint8_t* block, size_t size, const Output& output) {
  const size_t lanes = size_t{32} << lanes_code_for(plan.tokens, plan.channels);
  alignas(64) uint32_t states[kMaxLanes];
  copy_states(plan, lanes, block, size, states);
  Words words(block + sizeof(Header) + lanes * sizeof(uint32_t), block + size);

  const DecodeGroup decode_group = decoder_of(isa);
  const size_t element = size_of(output.kind);
  uint8_t* const data = static_cast<uint8_t*>(output.data);
  uint8_t identity[kMaxAlphabet];
  std::iota(identity, identity + kMaxAlphabet, uint8_t{0});
  const void* values = output.kind == Kind::symbols ? identity : output.values;
  GroupIds ids(plan);
  alignas(64) uint8_t staged[kStagedTokens * kMaxLanes * sizeof(uint32_t)];
  uint8_t contexts[kStagedTokens * kMaxLanes];
  bool enough = true;
  for (size_t first = 0; first < plan.channels && enough; first += lanes) {
    const size_t active = std::min(lanes, plan.channels - first);
    Group group{plan.tables, ids.of(first, active), ids.contexts(), lanes, plan.tokens, nullptr, 0, states};
    if (active == lanes) {
      group.context = plan.context == nullptr ? nullptr : plan.context + first;
      group.context_stride = plan.channels;
      enough = decode_group(group, words, {output.kind, data + first * element, plan.channels, values});
      continue;
    }
    for (size_t token = 0; token < plan.tokens && enough; token += kStagedTokens) {
      group.tokens = std::min(kStagedTokens, plan.tokens - token);
      if (plan.context != nullptr) {
        std::memset(contexts, 0, sizeof contexts);
        for (size_t i = 0; i < group.tokens; ++i) {
          std::memcpy(contexts + i * lanes, plan.context + (token + i) * plan.channels + first, active);
        }
        group.context = contexts;
        group.context_stride = lanes;
      }
      enough = decode_group(group, words, {output.kind, staged, lanes, values});
      for (size_t i = 0; i < group.tokens && enough; ++i) {
        std::memcpy(data + ((token + i) * plan.channels + first) * element, staged + i * lanes * element,
                    active * element);
      }
    }
  }
  if (!enough || !words.all_taken() ||
      std::any_of(states, states + lanes, [](uint32_t state) { return state != kLowestState; })) {
    throw std::invalid_argument("the block does not end where its encoder began: damaged, or made with other tables");
  }
}

}  // namespace kvquilt::rans
