#pragma once

#include <nanobind/nanobind.h>

void bind_products(nanobind::module_& module);
