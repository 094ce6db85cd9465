// One layer of a decoder, as weights and rules.
#pragma once

#include <memory>
#include <vector>

#include "attention.h"
#include "experts.h"
#include "heads.h"
#include "norm.h"
#include "router.h"

namespace expertly {

struct AttentionWeights {
    Matrix q, k, v, o;
    std::vector<float> q_bias, k_bias, v_bias, o_bias;  // or empty
    HeadRule heads;
    AttentionShape shape;
};

struct RouterWeights {
    Matrix w;  // f32, [experts][columns]
    std::vector<float> bias;
    RouterRule rule;
    int64_t num_chosen;
};

// a mixture: a router, routed experts and perhaps a shared one; or one dense feed-forward alone
struct Layer {
    Norm attention_norm, feed_forward_norm;
    AttentionWeights attention;
    std::unique_ptr<RouterWeights> router;  // null: dense
    Bank experts;                           // the dense feed-forward is a bank of one
    std::unique_ptr<Bank> shared;
    std::vector<float> shared_gate;  // or empty: the shared expert's weight is 1
    // of no other layer while anybody holds it, as an address would be
    std::shared_ptr<const int> identity = std::make_shared<int>();
};

}  // namespace expertly
