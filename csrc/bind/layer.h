// Layers with what keeps their weights alive.
#pragma once

#include <cmath>
#include <optional>
#include <vector>

#include "../ops/layer.h"
#include "weights.h"

namespace expertly {

struct HeldAttention {
    std::vector<Weights> matrices;
    AttentionWeights attention;
};

struct HeldExpert {
    std::vector<Weights> matrices;  // gate, up, down
    std::vector<float> gate_bias, up_bias, down_bias;
};

struct HeldBank {
    std::vector<HeldExpert> experts;
    GluRule rule;

    // points into this: valid as long as it stays where it is
    Bank bank() const;
};

struct HeldRouter {
    Weights weights;
    std::vector<float> bias;
    RouterRule rule;
    int64_t num_chosen;
};

struct HeldLayer {
    HeldLayer(const Norm& attention_norm, const HeldAttention& attention,
              const Norm& feed_forward_norm, const HeldBank& experts,
              const std::optional<HeldRouter>& router, const std::optional<HeldBank>& shared,
              std::vector<float> shared_gate);
    HeldLayer(HeldLayer&&) = delete;

    // an expert's weights are elsewhere now; its biases stay
    void place(int64_t expert, const Weights& gate, const Weights& up, const Weights& down);

    HeldAttention attention;
    HeldBank experts;
    std::optional<HeldRouter> router;
    std::optional<HeldBank> shared;
    Layer layer;
};

}  // namespace expertly
