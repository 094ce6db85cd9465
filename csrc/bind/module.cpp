#include "bind.h"

NB_MODULE(_native, module) {
    // a program that ends while it holds a model is no fault
    nanobind::set_leak_warnings(false);
    expertly::bind_weights(module);
    expertly::bind_runtime(module);
    expertly::bind_probe(module);
    expertly::bind_quantise(module);
    expertly::bind_attention(module);
    expertly::bind_rows(module);
    expertly::bind_layer(module);
    expertly::bind_step(module);
    expertly::bind_experts(module);
    expertly::bind_training(module);
}
