// Python bindings of matrix products. Every function checks sizes before it touches memory and releases the GIL while it
// works.
#include "products_bindings.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "products.hpp"
#include "rans_bindings.hpp"

namespace nb = nanobind;

namespace {

using kvquilt::products::Added;
using kvquilt::products::Matrix;

using Input = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

void multiply(const std::string& isa, Input x, const Matrix& matrix, std::optional<Input> added, Output out) {
  const kvquilt::rans::Isa chosen = isa_of(isa);
  const bool fits = x.shape(1) == matrix.rows && out.shape(0) == x.shape(0) && out.shape(1) == matrix.columns &&
                    (!added || (added->shape(1) == matrix.columns &&
                                (added->shape(0) == x.shape(0) || added->shape(0) == 1)));
  if (!fits) {
    throw std::invalid_argument("expected x [m, k] for a matrix [k, n], added [m, n] or [1, n], and out [m, n]");
  }
  Added start{nullptr, 0};
  if (added) {
    start = {added->data(), added->shape(0) == x.shape(0) ? matrix.columns : 0};
  }
  nb::gil_scoped_release release;
  kvquilt::products::multiply(chosen, x.data(), x.shape(0), matrix, start, out.data());
}

}  // namespace

void bind_products(nb::module_& module) {
  nb::class_<Matrix>(module, "Matrix")
      .def("__init__",
           [](Matrix* self, Input values) {
             nb::gil_scoped_release release;
             new (self) Matrix(values.data(), values.shape(0), values.shape(1));
           },
           nb::arg("values").noconvert())
      .def_prop_ro("shape", [](const Matrix& self) { return nb::make_tuple(self.rows, self.columns); });
  module.def("multiply", &multiply, nb::arg("isa"), nb::arg("x").noconvert(), nb::arg("matrix"),
             nb::arg("added").noconvert().none(), nb::arg("out").noconvert());
}
