// Matrix products with bfloat16 inputs and float32 sums: see kvquilt_kernels/products.py for the specification.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

#include "rans.hpp"

namespace kvquilt::products {

// Columns are packed in panels of at most so many, the last one rounded up to whole vectors of kVector.
constexpr size_t kVector = 16;
constexpr size_t kPanel = 48;

struct Free {
  void operator()(void* pointer) const { ::operator delete[](pointer, std::align_val_t{64}); }
};
using Words = std::unique_ptr<uint16_t[], Free>;

// A right-hand matrix [rows][columns], rounded to bfloat16. A panel holds pairs of rows: [pairs][width][2]; what is
// missing is 0.
class Matrix {
 public:
  // Throws std::invalid_argument for no rows or columns.
  Matrix(const float* values, size_t rows, size_t columns);

  const uint16_t* panel(size_t column) const { return packed_.get() + 2 * pairs * column; }
  // Of the panel that begins there: columns that take space.
  size_t width(size_t column) const { return padded_ - column < kPanel ? padded_ - column : kPanel; }

  size_t rows;
  size_t columns;
  size_t pairs;

 private:
  size_t padded_;
  Words packed_;
};

// What a product is added to.
struct Added {
  const float* values;  // null: zeros
  size_t stride;        // between the rows; 0: one for all of them
};

// out [x_rows][columns] = added + x [x_rows][rows] @ matrix. `isa` avx512 takes the bfloat16 instructions, where the
// CPU has them.
void multiply(rans::Isa isa, const float* x, size_t x_rows, const Matrix& matrix, const Added& added, float* out);

// Below, what the instruction sets implement: one tile, `rows` x `width` of the output.
struct Tile {
  const void* x;  // first of `rows` rows, prepared for the kernel
  size_t rows;
  size_t pairs;
  const uint16_t* panel;
  size_t width;    // of the panel
  size_t columns;  // that exist, at most `width`
  Added added;
  float* out;
  size_t out_stride;
};

#if defined(__x86_64__)
constexpr size_t kRowsAvx512 = 8;
// x: [rows][2 * pairs] in bfloat16.
void tile_avx512(const Tile& tile);
void round_avx512(const float* x, size_t count, uint16_t* rounded);

constexpr size_t kRowsAvx2 = 6;
// x: [rows][2 * pairs] in float32, rounded to bfloat16.
void tile_avx2(const Tile& tile);
#endif

}  // namespace kvquilt::products
