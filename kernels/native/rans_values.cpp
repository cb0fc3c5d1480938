// Around the coder: checks of what a caller hands in, and symbols that stand for quantised values.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdlib>
#include <stdexcept>

#include "rans_group.hpp"
#include "rans_scan.hpp"

namespace kvquilt::rans {
namespace {

uint8_t greatest(const uint8_t* bytes, size_t count) {
  uint8_t result = 0;
  for (size_t i = 0; i < count; ++i) {
    result = std::max(result, bytes[i]);
  }
  return result;
}

// What a decoder writes for the escape until its value is placed: no product of an integer and a finite scale is a NaN,
// and no quantised value is INT32_MIN.
constexpr uint32_t kMark[] = {0x80000000u, 0x7fc00001u, 0x7fc1u};

uint32_t bfloat16_bits(uint32_t bits) { return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16; }

uint32_t value_of(Value value, int32_t quantum, float scale) {
  if (value == Value::int32) {
    return static_cast<uint32_t>(quantum);
  }
  const uint32_t bits = std::bit_cast<uint32_t>(static_cast<float>(quantum) * scale);
  return value == Value::float32 ? bits : bfloat16_bits(bits);
}

template <typename Element>
void place(Isa isa, Value value, Element* data, size_t count, const int32_t* escapes, size_t escape_count,
           float scale) {
  const Element mark = static_cast<Element>(kMark[static_cast<size_t>(value)]);
  size_t placed = 0;
  for (size_t at = next_mark(isa, data, 0, count, mark); at < count; at = next_mark(isa, data, at + 1, count, mark)) {
    if (placed == escape_count) {
      throw std::invalid_argument("the block has more escapes than were given");
    }
    data[at] = static_cast<Element>(value_of(value, escapes[placed++], scale));
  }
  if (placed != escape_count) {
    throw std::invalid_argument("the block has fewer escapes than were given");
  }
}

}  // namespace

void check(const Plan& plan) {
  if (plan.tokens < 1 || plan.channels < 1 || plan.tokens > UINT32_MAX || plan.channels > UINT32_MAX) {
    throw std::invalid_argument("expected at least one token and one channel, and fewer than 2^32 of either");
  }
  if (plan.contexts < 1 || greatest(plan.table_ids, plan.contexts * plan.channels) >= plan.tables.count) {
    throw std::invalid_argument("expected table ids [contexts, channels] below the number of tables");
  }
  if (plan.context != nullptr && greatest(plan.context, plan.tokens * plan.channels) >= plan.contexts) {
    throw std::invalid_argument("expected contexts below the number of rows of table ids");
  }
}

void check_symbols(const uint8_t* symbols, size_t count, const Tables& tables) {
  if (greatest(symbols, count) >= tables.alphabet) {
    throw std::invalid_argument("expected symbols below the size of the alphabet");
  }
}

Scales::Scales(double step) : scale(static_cast<float>(step)), inverse(static_cast<float>(1.0 / step)) {
  if (!(scale > 0.0f && inverse > 0.0f && std::isfinite(scale) && std::isfinite(inverse))) {
    throw std::invalid_argument("expected a positive step, it and its inverse within float32");
  }
}

int32_t largest_symbol_value(const Tables& tables) {
  if (tables.alphabet % 2 != 0) {
    throw std::invalid_argument("expected an even alphabet, its last symbol the escape");
  }
  return static_cast<int32_t>(tables.alphabet - 2) / 2;
}

std::vector<int32_t> find_escapes(Isa isa, const float* values, size_t count, float inverse, int32_t largest) {
  std::vector<int32_t> escapes;
  const float limit = static_cast<float>(largest) + 0.5f;
  for (size_t at = next_product(isa, values, 0, count, inverse, limit); at < count;
       at = next_product(isa, values, at + 1, count, inverse, limit)) {
    const int32_t quantum = quantise(values[at], inverse);
    if (quantum > largest || quantum < -largest) {  // a tie may round to `largest`
      escapes.push_back(quantum);
    }
  }
  return escapes;
}

void decode_values(Isa isa, const Plan& plan, const uint8_t* block, size_t size, Value value, float scale,
                   const int32_t* escapes, size_t escape_count, void* data) {
  const int32_t largest = largest_symbol_value(plan.tables);
  for (size_t i = 0; i < escape_count; ++i) {
    const int64_t magnitude = std::abs(static_cast<int64_t>(escapes[i]));
    if (magnitude <= largest || magnitude > kLargestQuantum) {
      throw std::invalid_argument("expected escapes beyond the symbols' values, of at most 2^30");
    }
  }
  uint32_t values[kMaxAlphabet] = {};
  uint16_t halves[kMaxAlphabet] = {};
  for (size_t symbol = 0; symbol < plan.tables.alphabet; ++symbol) {
    const bool escape = symbol + 1 == plan.tables.alphabet;
    values[symbol] = escape ? kMark[static_cast<size_t>(value)]
                            : value_of(value, static_cast<int32_t>(symbol) - largest, scale);
    halves[symbol] = static_cast<uint16_t>(values[symbol]);
  }
  const size_t count = plan.tokens * plan.channels;
  if (value == Value::bfloat16) {
    decode(isa, plan, block, size, {Kind::words16, data, halves});
    place(isa, value, static_cast<uint16_t*>(data), count, escapes, escape_count, scale);
  } else {
    decode(isa, plan, block, size, {Kind::words32, data, values});
    place(isa, value, static_cast<uint32_t*>(data), count, escapes, escape_count, scale);
  }
}

std::vector<Isa> instruction_sets() {
  std::vector<Isa> sets;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vbmi2")) {
    sets.push_back(Isa::avx512);
  }
  if (__builtin_cpu_supports("avx2")) {
    sets.push_back(Isa::avx2);
  }
#endif
  sets.push_back(Isa::portable);
  return sets;
}

}  // namespace kvquilt::rans
