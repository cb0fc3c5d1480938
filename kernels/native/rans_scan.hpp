// Where escapes are.
#pragma once

#include "rans.hpp"

namespace kvquilt::rans {

// The first index from `from` on of an element that equals `mark`, or `count`.
size_t next_mark(Isa isa, const uint16_t* data, size_t from, size_t count, uint16_t mark);
size_t next_mark(Isa isa, const uint32_t* data, size_t from, size_t count, uint32_t mark);

// The first index from `from` on where |value * inverse| is at least `limit`, or a NaN, or `count`.
size_t next_product(Isa isa, const float* values, size_t from, size_t count, float inverse, float limit);

}  // namespace kvquilt::rans
