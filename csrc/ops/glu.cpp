#include "glu.h"

#include <algorithm>
#include <cmath>

namespace expertly {

namespace {

float act(GluRule::Act kind, float g) {
    switch (kind) {
        case GluRule::gelu: return 0.5f * g * (1.0f + std::erf(g * 0.70710678f));
        case GluRule::gelu_tanh:
            return 0.5f * g * (1.0f + std::tanh(0.79788456f * (g + 0.044715f * g * g * g)));
        default: return g < 0.0f ? 0.0f : g;  // NaN stays
    }
}

}  // namespace

void glu(const Kernels& kernels, const float* gate, const float* up, const GluRule& rule,
         int64_t n, float* h) {
    if (rule.act == GluRule::silu) return kernels.silu_glu(gate, up, rule, n, h);
    for (int64_t i = 0; i < n; ++i) {
        const float g = std::min(gate[i], rule.limit);
        const float u = std::clamp(up[i], -rule.limit, rule.limit);
        h[i] = act(rule.act, g) * (u + rule.shift);
    }
}

}  // namespace expertly
