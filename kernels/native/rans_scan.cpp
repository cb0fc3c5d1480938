// Scans for escapes, compiled for each instruction set: plain loops that the compiler vectorises.
#include "rans_scan.hpp"

#include <bit>

namespace kvquilt::rans {
namespace {

constexpr size_t kBlock = 128;

template <typename Element>
[[gnu::always_inline]] inline size_t scan_marks(const Element* data, size_t from, size_t count, Element mark) {
  for (; count - from >= kBlock; from += kBlock) {
    Element found = 0;
    for (size_t i = 0; i < kBlock; ++i) {
      found = static_cast<Element>(found | (data[from + i] == mark ? 1 : 0));
    }
    if (found != 0) {
      break;
    }
  }
  while (from < count && data[from] != mark) {
    ++from;
  }
  return from;
}

// A product's magnitude compares as its bits do, NaN above all; integers keep the loop free of branches.
[[gnu::always_inline]] inline int32_t magnitude_bits(float value, float inverse) {
  return static_cast<int32_t>(std::bit_cast<uint32_t>(value * inverse) & 0x7fffffffu);
}

[[gnu::always_inline]] inline size_t scan_products(const float* values, size_t from, size_t count, float inverse,
                                                   float limit) {
  const int32_t least = static_cast<int32_t>(std::bit_cast<uint32_t>(limit));
  for (; count - from >= kBlock; from += kBlock) {
    int32_t found = 0;
    for (size_t i = 0; i < kBlock; ++i) {
      found |= least - 1 - magnitude_bits(values[from + i], inverse);
    }
    if (found < 0) {
      break;
    }
  }
  while (from < count && magnitude_bits(values[from], inverse) < least) {
    ++from;
  }
  return from;
}

struct Scans {
  size_t (*marks16)(const uint16_t*, size_t, size_t, uint16_t);
  size_t (*marks32)(const uint32_t*, size_t, size_t, uint32_t);
  size_t (*products)(const float*, size_t, size_t, float, float);
};

size_t marks16(const uint16_t* data, size_t from, size_t count, uint16_t mark) {
  return scan_marks(data, from, count, mark);
}
size_t marks32(const uint32_t* data, size_t from, size_t count, uint32_t mark) {
  return scan_marks(data, from, count, mark);
}
size_t products(const float* values, size_t from, size_t count, float inverse, float limit) {
  return scan_products(values, from, count, inverse, limit);
}

#if defined(__x86_64__)
#define KVQUILT_AVX2 __attribute__((target("avx2")))
#define KVQUILT_AVX512 __attribute__((target("avx512f,avx512bw,avx512vl")))

KVQUILT_AVX2 size_t marks16_avx2(const uint16_t* data, size_t from, size_t count, uint16_t mark) {
  return scan_marks(data, from, count, mark);
}
KVQUILT_AVX2 size_t marks32_avx2(const uint32_t* data, size_t from, size_t count, uint32_t mark) {
  return scan_marks(data, from, count, mark);
}
KVQUILT_AVX2 size_t products_avx2(const float* values, size_t from, size_t count, float inverse, float limit) {
  return scan_products(values, from, count, inverse, limit);
}
KVQUILT_AVX512 size_t marks16_avx512(const uint16_t* data, size_t from, size_t count, uint16_t mark) {
  return scan_marks(data, from, count, mark);
}
KVQUILT_AVX512 size_t marks32_avx512(const uint32_t* data, size_t from, size_t count, uint32_t mark) {
  return scan_marks(data, from, count, mark);
}
KVQUILT_AVX512 size_t products_avx512(const float* values, size_t from, size_t count, float inverse, float limit) {
  return scan_products(values, from, count, inverse, limit);
}
#endif

Scans scans_of(Isa isa) {
#if defined(__x86_64__)
  if (isa == Isa::avx512) {
    return {marks16_avx512, marks32_avx512, products_avx512};
  }
  if (isa == Isa::avx2) {
    return {marks16_avx2, marks32_avx2, products_avx2};
  }
#endif
  static_cast<void>(isa);
  return {marks16, marks32, products};
}

}  // namespace

size_t next_mark(Isa isa, const uint16_t* data, size_t from, size_t count, uint16_t mark) {
  return scans_of(isa).marks16(data, from, count, mark);
}

size_t next_mark(Isa isa, const uint32_t* data, size_t from, size_t count, uint32_t mark) {
  return scans_of(isa).marks32(data, from, count, mark);
}

size_t next_product(Isa isa, const float* values, size_t from, size_t count, float inverse, float limit) {
  return scans_of(isa).products(values, from, count, inverse, limit);
}

}  // namespace kvquilt::rans
