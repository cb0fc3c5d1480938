// Python bindings. Every function checks sizes before it touches memory and releases the GIL while it works.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <stdexcept>

#include "floats_bindings.hpp"
#include "int8.hpp"
#include "products_bindings.hpp"
#include "rans_bindings.hpp"

namespace nb = nanobind;

namespace {

template <typename T, size_t Dimensions>
using Input = nb::ndarray<const T, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;
template <typename T, size_t Dimensions>
using Output = nb::ndarray<T, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;

template <typename A, typename B, typename C>
void check_rows(const A& values, const B& codes, const C& scales) {
  if (values.shape(0) != codes.shape(0) || values.shape(1) != codes.shape(1) || values.shape(0) != scales.shape(0)) {
    throw std::invalid_argument("expected values and codes of the same shape and one scale a row");
  }
}

void quantise_rows(Input<float, 2> values, Output<int8_t, 2> codes, Output<uint16_t, 1> scales) {
  check_rows(values, codes, scales);
  nb::gil_scoped_release release;
  kvquilt::quantise_rows(values.data(), values.shape(0), values.shape(1), codes.data(), scales.data());
}

void dequantise_rows(Input<int8_t, 2> codes, Input<uint16_t, 1> scales, Output<float, 2> values) {
  check_rows(values, codes, scales);
  nb::gil_scoped_release release;
  kvquilt::dequantise_rows(codes.data(), scales.data(), codes.shape(0), codes.shape(1), values.data());
}

}  // namespace

NB_MODULE(_native, module) {
  module.doc() = "C++ implementation of the kernels in kvquilt_kernels.types";
  module.def("quantise_rows", &quantise_rows, nb::arg("values"), nb::arg("codes"), nb::arg("scales"));
  module.def("dequantise_rows", &dequantise_rows, nb::arg("codes"), nb::arg("scales"), nb::arg("values"));
  bind_floats(module);
  bind_products(module);
  bind_rans(module);
}
