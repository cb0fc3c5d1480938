// Python bindings of floats in parts. Every function checks sizes before it touches memory and releases the GIL while it
// works.
#include "floats_bindings.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "floats.hpp"
#include "rans_bindings.hpp"

namespace nb = nanobind;

namespace {

using kvquilt::FloatShape;

template <typename T, size_t Dimensions>
using Input = nb::ndarray<const T, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;
template <typename T, size_t Dimensions>
using Output = nb::ndarray<T, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;
using Escapes = nb::ndarray<nb::numpy, uint16_t, nb::ndim<1>>;

void expect(bool right, const char* what) {
  if (!right) {
    throw std::invalid_argument(what);
  }
}

template <typename Words, typename Tops, typename Flips>
FloatShape shape_of(const std::string& isa, const Words& words, size_t width, unsigned mantissa_bits, const Tops& tops,
                    const Flips& flips, size_t octaves) {
  expect(mantissa_bits >= 1 && mantissa_bits + 2 <= 8 * width && mantissa_bits + 9 >= 8 * width,
         "expected a mantissa that leaves 1 to 8 bits for the exponent");
  expect(octaves >= 1 && octaves <= 127, "expected 1 to 127 octaves");
  expect(tops.shape(0) == words.shape(1) && flips.shape(0) == words.shape(1), "expected tops and flips [channels]");
  return {words.shape(0), words.shape(1), mantissa_bits, static_cast<unsigned>(octaves),
          tops.data(),    flips.data(),   isa_of(isa) != kvquilt::rans::Isa::portable};
}

template <typename Symbols, typename Words, typename Mantissas>
void check_parts(const Symbols& symbols, const Words& words, const Mantissas& mantissas, const FloatShape& shape) {
  expect(symbols.shape(0) == words.shape(0) && symbols.shape(1) == words.shape(1) &&
             mantissas.shape(0) == (shape.mantissa_bits + 7) / 8 && mantissas.shape(1) == words.shape(0) &&
             mantissas.shape(2) == words.shape(1),
         "expected words and symbols [tokens, channels] and mantissas [planes, tokens, channels]");
}

template <typename Word>
void exponent_counts(const std::string& isa, Input<Word, 2> words, unsigned mantissa_bits, Input<uint8_t, 1> tops,
                     Output<uint32_t, 2> counts) {
  expect(counts.shape(1) % 2 == 1, "expected counts [channels, 2 * octaves + 1]");
  const FloatShape shape = shape_of(isa, words, sizeof(Word), mantissa_bits, tops, tops, counts.shape(1) / 2);
  expect(counts.shape(0) == shape.channels, "expected counts [channels, 2 * octaves + 1]");
  nb::gil_scoped_release release;
  kvquilt::exponent_counts(words.data(), shape, counts.data());
}

template <typename Word>
Escapes split_floats(const std::string& isa, Input<Word, 2> words, unsigned mantissa_bits, Input<uint8_t, 1> tops,
                     Input<uint8_t, 1> flips, size_t octaves, Output<uint8_t, 2> symbols, Output<uint8_t, 3> mantissas) {
  const FloatShape shape = shape_of(isa, words, sizeof(Word), mantissa_bits, tops, flips, octaves);
  check_parts(symbols, words, mantissas, shape);
  auto* owned = new std::vector<uint16_t>();
  nb::capsule owner(owned, [](void* pointer) noexcept { delete static_cast<std::vector<uint16_t>*>(pointer); });
  {
    nb::gil_scoped_release release;
    *owned = kvquilt::split_floats(words.data(), shape, symbols.data(), mantissas.data());
  }
  return Escapes(owned->data(), {owned->size()}, owner);
}

template <typename Word>
void merge_floats(const std::string& isa, Input<uint8_t, 2> symbols, Input<uint16_t, 1> escapes,
                  Input<uint8_t, 3> mantissas, unsigned mantissa_bits, Input<uint8_t, 1> tops, Input<uint8_t, 1> flips, size_t octaves,
                  Output<Word, 2> words) {
  const FloatShape shape = shape_of(isa, words, sizeof(Word), mantissa_bits, tops, flips, octaves);
  check_parts(symbols, words, mantissas, shape);
  nb::gil_scoped_release release;
  kvquilt::merge_floats(symbols.data(), escapes.data(), escapes.shape(0), mantissas.data(), shape, words.data());
}

void check_packed(size_t packed, size_t count, unsigned bits) {
  expect(bits >= 1 && bits <= 7, "expected 1 to 7 bits");
  expect(packed == bits * ((count + 7) / 8), "expected as many packed bytes as the values need");
}

void pack_bits(Input<uint8_t, 1> values, unsigned bits, Output<uint8_t, 1> packed) {
  check_packed(packed.shape(0), values.shape(0), bits);
  nb::gil_scoped_release release;
  kvquilt::pack_bits(values.data(), values.shape(0), bits, packed.data());
}

void unpack_bits(Input<uint8_t, 1> packed, unsigned bits, Output<uint8_t, 1> values) {
  check_packed(packed.shape(0), values.shape(0), bits);
  nb::gil_scoped_release release;
  kvquilt::unpack_bits(packed.data(), values.shape(0), bits, values.data());
}

template <typename Word>
void bind_of(nb::module_& module) {
  module.def("exponent_counts", &exponent_counts<Word>, nb::arg("isa"), nb::arg("words").noconvert(), nb::arg("mantissa_bits"),
             nb::arg("tops").noconvert(), nb::arg("counts").noconvert());
  module.def("split_floats", &split_floats<Word>, nb::arg("isa"), nb::arg("words").noconvert(), nb::arg("mantissa_bits"),
             nb::arg("tops").noconvert(), nb::arg("flips").noconvert(), nb::arg("octaves"),
             nb::arg("symbols").noconvert(), nb::arg("mantissas").noconvert());
  module.def("merge_floats", &merge_floats<Word>, nb::arg("isa"), nb::arg("symbols").noconvert(), nb::arg("escapes").noconvert(),
             nb::arg("mantissas").noconvert(), nb::arg("mantissa_bits"), nb::arg("tops").noconvert(),
             nb::arg("flips").noconvert(), nb::arg("octaves"), nb::arg("words").noconvert());
}

}  // namespace

void bind_floats(nb::module_& module) {
  bind_of<uint16_t>(module);
  bind_of<uint32_t>(module);
  module.def("pack_bits", &pack_bits, nb::arg("values").noconvert(), nb::arg("bits"), nb::arg("packed").noconvert());
  module.def("unpack_bits", &unpack_bits, nb::arg("packed").noconvert(), nb::arg("bits"),
             nb::arg("values").noconvert());
}
