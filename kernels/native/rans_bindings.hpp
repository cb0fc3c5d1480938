// The entropy coder's part of the module.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

#include "rans.hpp"

// The instruction set of a name; throws std::invalid_argument for one that this CPU has not.
kvquilt::rans::Isa isa_of(const std::string& name);

void bind_rans(nanobind::module_& module);
