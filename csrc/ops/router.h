// A router's choice from its logits, a token by itself; config.Router says the rules.
#pragma once

#include <cstdint>

namespace expertly {

struct RouterRule {
    enum Kind : int { softmax, sparsemixer } kind;
    float norm_p;  // 0: weights are not divided by their norm
    float jitter;
};

// ids and weights of the num_chosen experts, the most wanted first, ties to the lower id;
// `probs` is scratch for num_experts floats. Logits with a NaN, or the largest infinite, have no
// order: the first experts, with NaNs for weights
void choose(const float* logits, int64_t num_experts, int64_t num_chosen, const RouterRule& rule,
            float* probs, int32_t* ids, float* weights);

}  // namespace expertly
