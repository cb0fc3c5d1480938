// Lane-interleaved rANS. docs/entropy.md specifies the block, kvquilt_kernels/entropy.py the operations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace kvquilt::rans {

constexpr unsigned kBits = 11;
constexpr uint32_t kTotal = 1u << kBits;
constexpr uint32_t kLowestState = 1u << 16;
constexpr size_t kMaxLanes = 128;
constexpr size_t kMaxTables = 64;
constexpr size_t kMaxAlphabet = 256;
constexpr int32_t kLargestQuantum = 1 << 30;

enum class Isa { portable, avx2, avx512 };

// What this CPU can run, the fastest first.
std::vector<Isa> instruction_sets();

// What the coders derive from frequency tables; made once, shared by all blocks and threads.
class Tables {
 public:
  // `frequencies`: count x alphabet. Throws std::invalid_argument unless every entry is at least 1 and every row sums
  // to 2048.
  Tables(const uint16_t* frequencies, size_t count, size_t alphabet);

  // What the encoder needs of one symbol. For f <= 2048 and x < f * 2^21, x / f = (x * reciprocal) >> 43 exactly, and
  // the product is below 2^64.
  struct Entry {
    uint64_t reciprocal;
    uint32_t interval;  // frequency, and the start of the symbol << 16
    uint32_t unused;
  };

  // Columns of the search by comparison hold one value a table, padded to this many.
  static constexpr size_t kColumn = 80;
  static constexpr size_t kMaxCompared = 16;

  size_t count;
  size_t alphabet;
  // Table `count` belongs to idle lanes: one symbol of frequency 2048, which leaves every state as it is.
  std::vector<Entry> entries;   // [count + 1][alphabet]
  std::vector<uint32_t> slots;  // [count + 1][2048], see slot_entry
  // Alphabets up to 16 only. starts[k]: where symbol k + 1 begins, or 2048. keys[k]: (start << 4) - (k + 1), or
  // 2048 << 4.
  std::vector<uint16_t> starts;  // [15][kColumn]
  std::vector<uint16_t> keys;    // [15][kColumn]
};

// A slot's entry: bits 0-10 the slot's distance from the start of its symbol, 11-15 the symbol's low five bits,
// 16-27 its frequency, 28-30 its high three bits. Both 16-bit halves are of use alone.
constexpr uint32_t slot_entry(uint32_t symbol, uint32_t frequency, uint32_t distance) {
  return distance | (symbol & 31u) << 11 | frequency << 16 | (symbol >> 5) << 28;
}

// The tables of all symbols of a block: table_ids[context of the symbol][channel].
struct Plan {
  const Tables& tables;
  size_t tokens;
  size_t channels;
  const uint8_t* table_ids;  // [contexts][channels]
  size_t contexts;
  const uint8_t* context;  // [tokens][channels], or null: all zero
};

enum class Kind { symbols, words16, words32 };

// What a decoder writes for a symbol s: s itself (uint8), or values[s] (uint16 or uint32), row-major.
struct Output {
  Kind kind;
  void* data;          // [tokens][channels]
  const void* values;  // [256]
};

// What an encoder reads: symbols (uint8), or floats of which the quantised values' symbols are coded.
struct Input {
  Kind kind;         // symbols, or words32 for floats
  const void* data;  // [tokens][channels]
  float inverse;     // floats: 1 / step
};

// float32(step) and float32(1 / step).
struct Scales {
  explicit Scales(double step);
  float scale;
  float inverse;
};

// All functions throw std::invalid_argument for what they refuse, and none reads or writes outside of its arrays
// whatever the bytes are.

void check(const Plan& plan);
void check_symbols(const uint8_t* symbols, size_t count, const Tables& tables);

// `plan` is checked, and symbols are below the alphabet.
std::vector<uint8_t> encode(Isa isa, const Plan& plan, const Input& input);

// `plan` is checked.
void decode(Isa isa, const Plan& plan, const uint8_t* block, size_t size, const Output& output);

// R of an alphabet that ends with an escape.
int32_t largest_symbol_value(const Tables& tables);

// Quantised values beyond R, in the order of `values`.
std::vector<int32_t> find_escapes(Isa isa, const float* values, size_t count, float inverse, int32_t largest);

// Decodes to quantised values, or to their product with `scale` as float32 or bfloat16 bits, and puts `escapes` where
// the block has escapes. `plan` is checked.
enum class Value { int32, float32, bfloat16 };
void decode_values(Isa isa, const Plan& plan, const uint8_t* block, size_t size, Value value, float scale,
                   const int32_t* escapes, size_t escape_count, void* data);

}  // namespace kvquilt::rans
