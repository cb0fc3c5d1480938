// The coder in plain C++: what runs where there are no vector instructions, and for what the vector paths leave out.
#include <bit>

#include "rans_group.hpp"

namespace kvquilt::rans {
namespace {

static_assert(std::endian::native == std::endian::little, "states and words are copied as they lie in memory");

template <typename Element>
bool decode_lanes(const Group& group, Words& words, const GroupOutput& output) {
  const uint32_t* slots = group.tables.slots.data();
  const Element* values = static_cast<const Element*>(output.values);
  const uint32_t* tables[kMaxLanes];
  for (size_t lane = 0; lane < group.lanes; ++lane) {
    tables[lane] = slots + group.ids[lane] * kTotal;
  }
  for (size_t token = 0; token < group.tokens; ++token) {
    if (!words.ready(group.lanes)) {
      return false;
    }
    Element* row = static_cast<Element*>(output.data) + token * output.stride;
    const uint8_t* context = group.context == nullptr ? nullptr : group.context + token * group.context_stride;
    const uint8_t* at = words.at;
    for (size_t lane = 0; lane < group.lanes; ++lane) {
      const uint32_t* table =
          context == nullptr ? tables[lane] : slots + group.ids[context[lane] * kMaxLanes + lane] * kTotal;
      const uint32_t state = group.states[lane];
      const uint32_t entry = table[state & (kTotal - 1)];
      const uint32_t next = ((entry >> 16) & 0xfffu) * (state >> kBits) + (entry & (kTotal - 1));
      uint16_t word;
      std::memcpy(&word, at, sizeof word);
      // Without branches: which lane needs a word is close to random.
      const bool low = next < kLowestState;
      group.states[lane] = low ? (next << 16) | word : next;
      at += low ? 2 : 0;
      const uint32_t symbol = ((entry >> 11) & 31u) | ((entry >> 28) << 5);
      row[lane] = values[symbol];
    }
    words.at = at;
  }
  return true;
}

uint8_t* encode_lanes(const Group& group, const GroupInput& input, uint8_t* end) {
  const Tables::Entry* entries = group.tables.entries.data();
  const size_t alphabet = group.tables.alphabet;
  const int32_t largest = static_cast<int32_t>(alphabet - 2) / 2;
  uint8_t quantised[kMaxLanes];
  for (size_t token = group.tokens; token-- > 0;) {
    const uint8_t* context = group.context == nullptr ? nullptr : group.context + token * group.context_stride;
    const uint8_t* symbols = quantised;
    if (input.kind == Kind::symbols) {
      symbols = static_cast<const uint8_t*>(input.data) + token * input.stride;
    } else {
      const float* values = static_cast<const float*>(input.data) + token * input.stride;
      for (size_t lane = 0; lane < group.lanes; ++lane) {
        quantised[lane] = static_cast<uint8_t>(symbol_of(quantise(values[lane], input.inverse), largest));
      }
    }
    for (size_t lane = group.lanes; lane-- > 0;) {
      const size_t row = context == nullptr ? 0 : context[lane] * kMaxLanes;
      const Tables::Entry& entry = entries[group.ids[row + lane] * alphabet + symbols[lane]];
      const uint32_t frequency = entry.interval & 0xffffu;
      uint32_t state = group.states[lane];
      const bool full = (state >> (32 - kBits)) >= frequency;
      const uint16_t word = static_cast<uint16_t>(state);
      std::memcpy(end - 2, &word, sizeof word);
      end -= full ? 2 : 0;
      state = full ? state >> 16 : state;
      const uint32_t quotient = static_cast<uint32_t>((state * entry.reciprocal) >> 43);
      group.states[lane] = (quotient << kBits) + (state - quotient * frequency) + (entry.interval >> 16);
    }
  }
  return end;
}

}  // namespace

bool decode_group_portable(const Group& group, Words& words, const GroupOutput& output) {
  switch (output.kind) {
    case Kind::symbols:
      return decode_lanes<uint8_t>(group, words, output);
    case Kind::words16:
      return decode_lanes<uint16_t>(group, words, output);
    default:
      return decode_lanes<uint32_t>(group, words, output);
  }
}

uint8_t* encode_group_portable(const Group& group, const GroupInput& input, uint8_t* end) {
  return encode_lanes(group, input, end);
}

}  // namespace kvquilt::rans
