// What happens to a token's query and key heads between projection and attention.
#pragma once

#include <vector>

#include "attention.h"

namespace expertly {

struct HeadRule {
    float clip;  // queries, keys and values are kept within +-clip; 0: none
    float eps;
    bool is_head_norm;   // a head by itself; else all heads of a projection together
    std::vector<float> q_norm;  // [head_size] or [heads * head_size]; or empty: no norm
    std::vector<float> k_norm;  // [head_size] or [groups * head_size]
};

// one token's q [heads][head_size], k and v [groups][head_size] in place: normed together,
// clipped, normed a head, then q and k turned by cos and sin [head_size / 2]
void turn_heads(const Kernels& kernels, const HeadRule& rule, const AttentionShape& shape, float* q,
                float* k, float* v, const float* cos, const float* sin);

}  // namespace expertly
