#include "bind.h"

NB_MODULE(_native, module) {
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
