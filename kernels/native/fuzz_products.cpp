// Multiplies matrices of odd shapes with every instruction set. sanitize.sh builds this with AddressSanitizer and UBSan;
// arrays end where memory does, as neither sees what masked instructions touch. All must be within the bound of a sum in
// double.
#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "products.hpp"

namespace {

using namespace kvquilt;

void expect(bool right, const char* what) {
  if (!right) {
    std::fprintf(stderr, "%s\n", what);
    std::abort();
  }
}

// Floats before a page that nobody may touch.
class Guarded {
 public:
  explicit Guarded(size_t count) {
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t used = (count * sizeof(float) + page - 1) / page * page;
    size_ = used + page;
    base_ = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    expect(base_ != MAP_FAILED && mprotect(static_cast<char*>(base_) + used, page, PROT_NONE) == 0, "no memory");
    data = reinterpret_cast<float*>(static_cast<char*>(base_) + used) - count;
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(base_, size_); }

  float* data;

 private:
  void* base_;
  size_t size_;
};

// What is exact in bfloat16, so that the double sum needs no rounding of its own.
void fill(std::mt19937_64& random, float* values, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    values[i] = std::ldexp(static_cast<float>(static_cast<int>(random() % 511) - 255), -static_cast<int>(random() % 12));
  }
}

void run(std::mt19937_64& random, const std::vector<rans::Isa>& able) {
  const size_t m = random() % (random() % 8 == 0 ? 200 : 20);
  const size_t k = 1 + random() % 40;
  const size_t n = 1 + random() % 110;
  const size_t added_rows = random() % 2 == 0 ? 1 : m;
  const bool adds = random() % 3 != 0;
  Guarded x(m * k), values(k * n), added(added_rows * n), out(m * n);
  fill(random, x.data, m * k);
  fill(random, values.data, k * n);
  fill(random, added.data, added_rows * n);
  const products::Matrix matrix(values.data, k, n);
  const products::Added start{adds ? added.data : nullptr, added_rows == 1 ? 0 : n};
  for (const rans::Isa isa : able) {
    std::memset(out.data, 0xff, m * n * sizeof(float));
    products::multiply(isa, x.data, m, matrix, start, out.data);
    for (size_t i = 0; i < m * n; ++i) {
      double sum = adds ? added.data[(added_rows == 1 ? 0 : i / n * n) + i % n] : 0.0;
      double magnitudes = std::fabs(sum);
      for (size_t j = 0; j < k; ++j) {
        const double term = static_cast<double>(x.data[i / n * k + j]) * values.data[j * n + i % n];
        sum += term;
        magnitudes += std::fabs(term);
      }
      expect(std::fabs(out.data[i] - sum) <= magnitudes * static_cast<double>(k + 2) * 0x1p-23, "beyond the bound");
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  const size_t cases = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 2'000;
  std::mt19937_64 random(argc > 2 ? std::strtoul(argv[2], nullptr, 10) : 1);
  const auto able = rans::instruction_sets();
  for (size_t i = 0; i < cases; ++i) {
    run(random, able);
  }
  std::printf("products: %zu, with %zu instruction sets\n", cases, able.size());
  return 0;
}
