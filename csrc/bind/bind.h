// The parts of the extension module, one function a file.
#pragma once

#include <nanobind/nanobind.h>

namespace expertly {

void bind_weights(nanobind::module_& module);
void bind_runtime(nanobind::module_& module);
void bind_probe(nanobind::module_& module);
void bind_quantise(nanobind::module_& module);
void bind_attention(nanobind::module_& module);
void bind_rows(nanobind::module_& module);
void bind_layer(nanobind::module_& module);
void bind_step(nanobind::module_& module);
void bind_experts(nanobind::module_& module);
void bind_training(nanobind::module_& module);

}  // namespace expertly
