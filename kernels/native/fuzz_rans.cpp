// Damages blocks and decodes them with every instruction set. sanitize.sh builds this with AddressSanitizer and UBSan:
// blocks and outputs lie in allocations of their exact size, so that an access beyond them ends the program. All
// instruction sets must accept the same blocks and make the same of them; a block that is accepted must be the one that
// encoding gives again.
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <random>
#include <stdexcept>

#include "rans_group.hpp"

namespace {

using namespace kvquilt::rans;
using Bytes = std::vector<uint8_t>;

constexpr size_t kMutations = 24;

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  size_t below(size_t limit) { return std::uniform_int_distribution<size_t>(0, limit - 1)(engine_); }
  Bytes bytes(size_t count, size_t limit) {
    Bytes result(count);
    for (uint8_t& byte : result) {
      byte = static_cast<uint8_t>(below(limit));
    }
    return result;
  }

 private:
  std::mt19937_64 engine_;
};

// Between random and degenerate: often one symbol has all but the least of the others.
std::vector<uint16_t> random_frequencies(Random& random, size_t count, size_t alphabet) {
  std::vector<uint16_t> frequencies(count * alphabet, 1);
  for (size_t table = 0; table < count; ++table) {
    for (size_t left = kTotal - alphabet; left > 0;) {
      const size_t part = random.below(4) == 0 ? left : 1 + random.below(left);
      uint16_t& frequency = frequencies[table * alphabet + random.below(alphabet)];
      frequency = static_cast<uint16_t>(frequency + part);
      left -= part;
    }
  }
  return frequencies;
}

Bytes mutated(Random& random, Bytes block) {
  switch (random.below(6)) {
    case 0:
      block.resize(random.below(block.size()));
      break;
    case 1:
      block.resize(block.size() + 1 + random.below(4));
      break;
    case 2: {
      // Plausible in everything but its contents.
      const size_t begin = sizeof(uint32_t) * 4;
      for (size_t i = begin; i < block.size(); ++i) {
        block[i] = static_cast<uint8_t>(random.below(256));
      }
      break;
    }
    case 3: {
      // Fewer or more words, and a header that says so.
      uint32_t words;
      std::memcpy(&words, &block[12], sizeof words);
      const uint32_t changed = words + static_cast<uint32_t>(random.below(5)) - 2;
      if (changed <= words + 2) {
        block.resize(block.size() - 2 * size_t{words} + 2 * size_t{changed});
        std::memcpy(&block[12], &changed, sizeof changed);
      }
      break;
    }
    default:
      for (size_t flips = 1 + random.below(3); flips > 0; --flips) {
        block[random.below(block.size())] ^= static_cast<uint8_t>(1u << random.below(8));
      }
  }
  return block;
}

// What `decode` gives, in an allocation of its exact size; nothing if the block is refused.
template <typename Decode>
std::optional<Bytes> attempt(size_t size, const Decode& decode) {
  Bytes out(size);
  try {
    decode(out.data());
  } catch (const std::invalid_argument&) {
    return std::nullopt;
  }
  return out;
}

void expect(bool right, const char* what) {
  if (!right) {
    std::fprintf(stderr, "%s\n", what);
    std::abort();
  }
}

struct Counts {
  size_t mutations = 0;
  size_t accepted = 0;
};

void try_symbols(const Plan& plan, const Bytes& block, Counts& counts) {
  std::optional<Bytes> first;
  const std::vector<Isa> sets = instruction_sets();
  for (Isa isa : sets) {
    const auto decoded = attempt(plan.tokens * plan.channels, [&](void* out) {
      decode(isa, plan, block.data(), block.size(), {Kind::symbols, out, nullptr});
    });
    expect(isa == sets.front() || decoded == first, "instruction sets differ on a damaged block");
    first = decoded;
  }
  counts.mutations += 1;
  if (first) {
    counts.accepted += 1;
    const Bytes again = encode(sets.front(), plan, {Kind::symbols, first->data(), 0.0f});
    expect(again == block, "an accepted block is not what encoding gives again");
  }
}

void try_values(const Plan& plan, const Bytes& block, const std::vector<int32_t>& escapes) {
  for (Value value : {Value::int32, Value::float32, Value::bfloat16}) {
    const size_t size = plan.tokens * plan.channels * (value == Value::bfloat16 ? 2 : 4);
    std::optional<Bytes> first;
    const std::vector<Isa> sets = instruction_sets();
    for (Isa isa : sets) {
      const auto decoded = attempt(size, [&](void* out) {
        decode_values(isa, plan, block.data(), block.size(), value, 0.3f, escapes.data(), escapes.size(), out);
      });
      expect(isa == sets.front() || decoded == first, "instruction sets differ on values of a damaged block");
      first = decoded;
    }
  }
}

void run(Random& random, Counts& counts) {
  constexpr size_t alphabets[] = {2, 3, 4, 5, 8, 15, 16, 17, 33, 64, 65, 256};
  const size_t alphabet = alphabets[random.below(std::size(alphabets))];
  const size_t count = 1 + random.below(kMaxTables);
  const size_t tokens = 1 + random.below(random.below(4) == 0 ? 160 : 70);
  const size_t channels = random.below(3) == 0 ? 64 * (1 + random.below(4)) : 1 + random.below(200);
  const size_t contexts = random.below(2) == 0 ? 1 : 1 + random.below(10);
  const auto frequencies = random_frequencies(random, count, alphabet);
  const Tables tables(frequencies.data(), count, alphabet);
  const Bytes ids = random.bytes(contexts * channels, count);
  const Bytes context = random.bytes(tokens * channels, contexts);
  const Bytes symbols = random.bytes(tokens * channels, alphabet);
  const Plan plan{tables, tokens, channels, ids.data(), contexts, contexts == 1 ? nullptr : context.data()};
  check(plan);

  Bytes block;
  const std::vector<Isa> sets = instruction_sets();
  for (Isa isa : sets) {
    const Bytes encoded = encode(isa, plan, {Kind::symbols, symbols.data(), 0.0f});
    expect(isa == sets.front() || encoded == block, "instruction sets encode differently");
    block = encoded;
  }
  Counts own;
  try_symbols(plan, block, own);
  expect(own.accepted == 1, "a sound block is refused");
  for (size_t i = 0; i < kMutations; ++i) {
    try_symbols(plan, mutated(random, block), counts);
  }

  if (alphabet % 2 != 0) {
    return;
  }
  const Plan without{tables, tokens, channels, ids.data(), 1, nullptr};
  std::vector<float> values(tokens * channels);
  for (float& value : values) {
    value = (static_cast<float>(random.below(2000)) - 1000.0f) * static_cast<float>(alphabet) * 0.0006f;
  }
  const int32_t largest = largest_symbol_value(tables);
  for (Isa isa : sets) {
    const Bytes encoded = encode(isa, without, {Kind::words32, values.data(), 1.0f});
    expect(isa == sets.front() || encoded == block, "instruction sets quantise differently");
    block = encoded;
  }
  std::vector<int32_t> escapes = find_escapes(sets.front(), values.data(), values.size(), 1.0f, largest);
  try_values(without, block, escapes);
  for (size_t i = 0; i < kMutations / 4; ++i) {
    try_values(without, mutated(random, block), escapes);
  }
  escapes.push_back(largest + 1);
  try_values(without, block, escapes);
}

}  // namespace

int main(int argc, char** argv) {
  const size_t cases = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 150;
  const size_t seed = argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 1;
  Random random(seed);
  Counts counts;
  for (size_t i = 0; i < cases; ++i) {
    run(random, counts);
  }
  std::printf("%zu blocks, %zu mutations, %zu of them accepted, %zu instruction sets\n", cases, counts.mutations,
              counts.accepted, instruction_sets().size());
  return 0;
}
