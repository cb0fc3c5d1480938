#pragma once

#include <nanobind/nanobind.h>

void bind_floats(nanobind::module_& module);
