#include <stdexcept>

#include "rans.hpp"

namespace kvquilt::rans {

Tables::Tables(const uint16_t* frequencies, size_t count, size_t alphabet) : count(count), alphabet(alphabet) {
  if (count < 1 || count > kMaxTables || alphabet < 2 || alphabet > kMaxAlphabet) {
    throw std::invalid_argument("expected 1 to 64 tables of 2 to 256 symbols");
  }
  entries.resize((count + 1) * alphabet);
  slots.resize((count + 1) * kTotal);
  if (alphabet <= kMaxCompared) {
    starts.assign((kMaxCompared - 1) * kColumn, static_cast<uint16_t>(kTotal));
    keys.assign((kMaxCompared - 1) * kColumn, static_cast<uint16_t>(kTotal << 4));
  }
  for (size_t table = 0; table < count; ++table) {
    uint32_t start = 0;
    for (size_t symbol = 0; symbol < alphabet; ++symbol) {
      const uint32_t frequency = frequencies[table * alphabet + symbol];
      if (frequency == 0 || frequency > kTotal - start) {
        throw std::invalid_argument("expected frequencies of at least 1 that sum to 2048");
      }
      const uint64_t reciprocal = ((uint64_t{1} << 43) + frequency - 1) / frequency;
      entries[table * alphabet + symbol] = {reciprocal, frequency | start << 16, 0};
      for (uint32_t distance = 0; distance < frequency; ++distance) {
        slots[table * kTotal + start + distance] = slot_entry(static_cast<uint32_t>(symbol), frequency, distance);
      }
      if (alphabet <= kMaxCompared && symbol > 0) {
        starts[(symbol - 1) * kColumn + table] = static_cast<uint16_t>(start);
        keys[(symbol - 1) * kColumn + table] = static_cast<uint16_t>((start << 4) - symbol);
      }
      start += frequency;
    }
    if (start != kTotal) {
      throw std::invalid_argument("expected frequencies that sum to 2048");
    }
  }
  for (size_t symbol = 0; symbol < alphabet; ++symbol) {
    entries[count * alphabet + symbol] = {uint64_t{1} << 32, kTotal, 0};
  }
  for (uint32_t slot = 0; slot < kTotal; ++slot) {
    slots[count * kTotal + slot] = slot_entry(0, kTotal, slot);
  }
}

}  // namespace kvquilt::rans
