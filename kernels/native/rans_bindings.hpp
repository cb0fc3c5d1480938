// The entropy coder's part of the module.
#pragma once

#include <nanobind/nanobind.h>

void bind_rans(nanobind::module_& module);
