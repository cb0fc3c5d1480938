// Python bindings of the entropy coder. Every function checks sizes before it touches memory and releases the GIL while
// it works.
#include "rans_bindings.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <stdexcept>
#include <string>

#include "rans.hpp"

namespace nb = nanobind;

namespace {

using kvquilt::rans::Isa;
using kvquilt::rans::Kind;
using kvquilt::rans::Plan;
using kvquilt::rans::Tables;
using kvquilt::rans::Value;

template <typename T, size_t Dimensions>
using Input = nb::ndarray<const T, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;
template <typename T, size_t Dimensions>
using Output = nb::ndarray<T, nb::ndim<Dimensions>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Result = nb::ndarray<nb::numpy, T, nb::ndim<1>>;
using Context = std::optional<Input<uint8_t, 2>>;

const char* const kNames[] = {"portable", "avx2", "avx512"};

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (Isa isa : kvquilt::rans::instruction_sets()) {
    names.emplace_back(kNames[static_cast<size_t>(isa)]);
  }
  return names;
}

template <typename T>
Result<T> to_array(std::vector<T>&& values) {
  auto* owned = new std::vector<T>(std::move(values));
  nb::capsule owner(owned, [](void* pointer) noexcept { delete static_cast<std::vector<T>*>(pointer); });
  return Result<T>(owned->data(), {owned->size()}, owner);
}

Plan plan_of(size_t tokens, size_t channels, const Tables& tables, const Input<uint8_t, 2>& ids,
             const Context& context) {
  if (ids.shape(1) != channels || (context && (context->shape(0) != tokens || context->shape(1) != channels))) {
    throw std::invalid_argument("expected table ids [contexts, channels] and contexts [tokens, channels]");
  }
  return {tables, tokens, channels, ids.data(), ids.shape(0), context ? context->data() : nullptr};
}

// Of the functions without contexts.
Plan plan_of(size_t tokens, size_t channels, const Tables& tables, const Input<uint8_t, 2>& ids) {
  if (ids.shape(0) != 1) {
    throw std::invalid_argument("expected table ids [1, channels]");
  }
  return plan_of(tokens, channels, tables, ids, std::nullopt);
}

Result<uint8_t> rans_encode(const std::string& isa, Input<uint8_t, 2> symbols, const Tables& tables,
                            Input<uint8_t, 2> table_ids, Context contexts) {
  const Isa chosen = isa_of(isa);
  const Plan plan = plan_of(symbols.shape(0), symbols.shape(1), tables, table_ids, contexts);
  std::vector<uint8_t> block;
  {
    nb::gil_scoped_release release;
    kvquilt::rans::check(plan);
    kvquilt::rans::check_symbols(symbols.data(), symbols.size(), tables);
    block = kvquilt::rans::encode(chosen, plan, {Kind::symbols, symbols.data(), 0.0f});
  }
  return to_array(std::move(block));
}

void rans_decode(const std::string& isa, Input<uint8_t, 1> block, const Tables& tables, Input<uint8_t, 2> table_ids,
                 Context contexts, Output<uint8_t, 2> symbols) {
  const Isa chosen = isa_of(isa);
  const Plan plan = plan_of(symbols.shape(0), symbols.shape(1), tables, table_ids, contexts);
  nb::gil_scoped_release release;
  kvquilt::rans::check(plan);
  kvquilt::rans::decode(chosen, plan, block.data(), block.size(), {Kind::symbols, symbols.data(), nullptr});
}

nb::tuple quantise_encode(const std::string& isa, Input<float, 2> values, double step, const Tables& tables,
                          Input<uint8_t, 2> table_ids) {
  const Isa chosen = isa_of(isa);
  const float inverse = kvquilt::rans::Scales(step).inverse;
  const Plan plan = plan_of(values.shape(0), values.shape(1), tables, table_ids);
  std::vector<uint8_t> block;
  std::vector<int32_t> escapes;
  {
    nb::gil_scoped_release release;
    kvquilt::rans::check(plan);
    const int32_t largest = kvquilt::rans::largest_symbol_value(tables);
    block = kvquilt::rans::encode(chosen, plan, {Kind::words32, values.data(), inverse});
    escapes = kvquilt::rans::find_escapes(chosen, values.data(), values.size(), inverse, largest);
  }
  return nb::make_tuple(to_array(std::move(block)), to_array(std::move(escapes)));
}

template <typename T>
void decode_values(Value value, const std::string& isa, Input<uint8_t, 1> block, Input<int32_t, 1> escapes, double step,
                   const Tables& tables, Input<uint8_t, 2> table_ids, Output<T, 2> out) {
  const Isa chosen = isa_of(isa);
  const float scale = kvquilt::rans::Scales(step).scale;
  const Plan plan = plan_of(out.shape(0), out.shape(1), tables, table_ids);
  nb::gil_scoped_release release;
  kvquilt::rans::check(plan);
  kvquilt::rans::decode_values(chosen, plan, block.data(), block.size(), value, scale, escapes.data(), escapes.size(),
                               out.data());
}

template <Value value, typename T>
void decode(const std::string& isa, Input<uint8_t, 1> block, Input<int32_t, 1> escapes, double step,
            const Tables& tables, Input<uint8_t, 2> table_ids, Output<T, 2> out) {
  decode_values<T>(value, isa, block, escapes, step, tables, table_ids, out);
}

}  // namespace

Isa isa_of(const std::string& name) {
  for (Isa isa : kvquilt::rans::instruction_sets()) {
    if (name == kNames[static_cast<size_t>(isa)]) {
      return isa;
    }
  }
  throw std::invalid_argument("this CPU has no instruction set of that name");
}

void bind_rans(nb::module_& module) {
  nb::class_<Tables>(module, "Tables")
      .def("__init__",
           [](Tables* self, Input<uint16_t, 2> frequencies) {
             new (self) Tables(frequencies.data(), frequencies.shape(0), frequencies.shape(1));
           },
           nb::arg("frequencies").noconvert());
  module.def("instruction_sets", &instruction_sets);
  module.def("rans_encode", &rans_encode, nb::arg("isa"), nb::arg("symbols").noconvert(), nb::arg("tables"),
             nb::arg("table_ids").noconvert(), nb::arg("contexts").noconvert().none());
  module.def("rans_decode", &rans_decode, nb::arg("isa"), nb::arg("block").noconvert(), nb::arg("tables"),
             nb::arg("table_ids").noconvert(), nb::arg("contexts").noconvert().none(), nb::arg("symbols").noconvert());
  module.def("quantise_encode", &quantise_encode, nb::arg("isa"), nb::arg("values").noconvert(), nb::arg("step"),
             nb::arg("tables"), nb::arg("table_ids").noconvert());
  const auto define = [&module](const char* name, auto function) {
    module.def(name, function, nb::arg("isa"), nb::arg("block").noconvert(), nb::arg("escapes").noconvert(),
               nb::arg("step"), nb::arg("tables"), nb::arg("table_ids").noconvert(), nb::arg("out").noconvert());
  };
  define("decode_int32", &decode<Value::int32, int32_t>);
  define("decode_float32", &decode<Value::float32, float>);
  define("decode_bfloat16", &decode<Value::bfloat16, uint16_t>);
}
