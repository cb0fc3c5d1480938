// Damages the parts of floats and merges them, with AVX2 and without. sanitize.sh builds this with AddressSanitizer and
// UBSan: all arrays lie in allocations of their exact size. Both must accept the same parts and make the same words of
// them, and words that are accepted must split into the same parts again.
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <random>
#include <stdexcept>

#include "floats.hpp"
#include "rans.hpp"

namespace {

using namespace kvquilt;
using Bytes = std::vector<uint8_t>;

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  size_t below(size_t limit) { return std::uniform_int_distribution<size_t>(0, limit - 1)(engine_); }
  template <typename T>
  std::vector<T> vector(size_t count, size_t limit) {
    std::vector<T> result(count);
    for (T& value : result) {
      value = static_cast<T>(below(limit));
    }
    return result;
  }

 private:
  std::mt19937_64 engine_;
};

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

template <typename Word>
std::optional<std::vector<Word>> attempt(const Bytes& symbols, const std::vector<uint16_t>& escapes,
                                         const Bytes& mantissas, const FloatShape& shape) {
  std::vector<Word> words(symbols.size());
  try {
    merge_floats(symbols.data(), escapes.data(), escapes.size(), mantissas.data(), shape, words.data());
  } catch (const std::invalid_argument&) {
    return std::nullopt;
  }
  return words;
}

template <typename Word>
void run(Random& random, unsigned mantissa_bits, bool avx2, Counts& counts) {
  const size_t tokens = random.below(6);
  const size_t channels = 1 + random.below(70);
  const size_t exponents = size_t{1} << (8 * sizeof(Word) - 1 - mantissa_bits);
  const Bytes tops = random.vector<uint8_t>(channels, random.below(4) == 0 ? 256 : exponents);
  const Bytes flips = random.vector<uint8_t>(channels, 2);
  FloatShape shape{tokens, channels, mantissa_bits, static_cast<unsigned>(1 + random.below(127)),
                   tops.data(), flips.data(), false};
  const auto words = random.vector<Word>(tokens * channels, (uint64_t{1} << 8 * sizeof(Word)) - 1);
  Bytes symbols(words.size());
  Bytes mantissas(words.size() * ((mantissa_bits + 7) / 8));
  auto escapes = split_floats(words.data(), shape, symbols.data(), mantissas.data());
  std::vector<uint32_t> counted(channels * (2 * shape.octaves + 1));
  exponent_counts(words.data(), shape, counted.data());

  for (size_t changes = random.below(3); changes > 0 && !symbols.empty(); --changes) {
    symbols[random.below(symbols.size())] = static_cast<uint8_t>(random.below(256));
  }
  if (!escapes.empty() && random.below(3) == 0) {
    escapes[random.below(escapes.size())] = static_cast<uint16_t>(random.below(1 << 16));
  }
  if (random.below(4) == 0) {
    escapes.resize(escapes.size() + random.below(3));
  }
  if (!escapes.empty() && random.below(4) == 0) {
    escapes.pop_back();
  }
  const auto merged = attempt<Word>(symbols, escapes, mantissas, shape);
  counts.mutations += 1;
  if (avx2) {
    shape.avx2 = true;
    expect(attempt<Word>(symbols, escapes, mantissas, shape) == merged, "AVX2 merges damaged parts differently");
  }
  if (merged) {
    counts.accepted += 1;
    Bytes again(symbols.size());
    Bytes planes(mantissas.size());
    expect(split_floats(merged->data(), shape, again.data(), planes.data()) == escapes && again == symbols &&
               planes == mantissas,
           "accepted parts are not those that splitting gives again");
  }
}

void run_bits(Random& random) {
  const unsigned bits = static_cast<unsigned>(1 + random.below(7));
  const Bytes values = random.vector<uint8_t>(random.below(70), size_t{1} << bits);
  Bytes packed(bits * ((values.size() + 7) / 8));
  pack_bits(values.data(), values.size(), bits, packed.data());
  Bytes unpacked(values.size());
  unpack_bits(packed.data(), values.size(), bits, unpacked.data());
  expect(unpacked == values, "packed bits come back as others");
}

}  // namespace

int main(int argc, char** argv) {
  const size_t cases = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 20'000;
  Random random(argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 1);
  const bool avx2 = rans::instruction_sets().size() > 1;
  Counts counts;
  for (size_t i = 0; i < cases; ++i) {
    run<uint16_t>(random, 7, avx2, counts);
    run<uint16_t>(random, 10, avx2, counts);
    run<uint32_t>(random, 23, avx2, counts);
    run_bits(random);
  }
  std::printf("floats: %zu mutations, %zu of them accepted\n", counts.mutations, counts.accepted);
  return 0;
}
